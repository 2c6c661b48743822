// What of an answer goes on when another backend tells it again: exactly the rest, or nothing.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Continuation, type Taken } from '../../../../gateway/providers/continuation.ts'
import { enginesOf, FailedBackends } from '../../../../gateway/providers/failed-backends.ts'
import type { FleetSnapshot } from '../../../../gateway/routing/snapshot.ts'
import { type DispatchEvent, MAX_RESUMED_TOKENS } from '../../../../protocol/dispatch.ts'

const usage = (inputTokens: number, outputTokens: number, cachedInputTokens = 0) => ({
  inputTokens,
  outputTokens,
  cachedInputTokens,
})
const accepted: DispatchEvent = { type: 'accepted', usage: usage(9, 0), queueMs: 0 }
const tokens = (...ids: number[]): DispatchEvent => ({ type: 'tokens', choice: 0, ids })
const delta = (text: string, outputTokens: number): DispatchEvent => ({ type: 'delta', choice: 0, text, outputTokens })
const finish = (outputTokens: number): DispatchEvent => ({ type: 'finish', choice: 0, reason: 'stop', outputTokens })
const end = (inputTokens: number, outputTokens: number): DispatchEvent => ({
  type: 'usage',
  usage: usage(inputTokens, outputTokens),
})

const begun = (...events: DispatchEvent[]): Continuation => {
  const continuation = new Continuation({ choices: 1, withLogprobs: false })
  continuation.take([accepted, ...events])
  return continuation
}

/** Texts, thoughts and calls of one choice, with who said which character. */
type Said = { kind: 'delta' | 'thought' | 'call'; text: string }
const said = fc.array(
  fc.record({ kind: fc.constantFrom('delta' as const, 'thought' as const, 'call' as const), text: fc.string() }),
  { maxLength: 8 },
)
const piece = fc.integer({ min: 1, max: 5 })

/** The same answer, cut into events of given lengths. */
function told(parts: readonly Said[], lengths: readonly number[]): DispatchEvent[] {
  const events: DispatchEvent[] = []
  let calls = 0
  let turn = 0
  for (const { kind, text } of parts) {
    const call = kind === 'call' ? calls++ : 0
    for (let at = 0; at === 0 || at < text.length; ) {
      const length = lengths[turn++ % lengths.length] ?? 1
      const next = text.slice(at, at + length)
      const head = at === 0 ? { id: `call_${call}`, name: `tool${text.length}` } : {}
      if (kind === 'call')
        events.push({ type: 'tool_call', choice: 0, call, ...head, arguments: next, outputTokens: 1 })
      else events.push({ type: kind, choice: 0, text: next, outputTokens: 1 })
      at += Math.max(1, length)
    }
  }
  return events
}

/** Each character by itself, and each beginning of a call. */
const units = (events: readonly DispatchEvent[]): string[] =>
  events.flatMap((event) => {
    if (event.type === 'delta' || event.type === 'thought')
      return event.text.split('').map((one) => `${event.type} ${one}`)
    if (event.type !== 'tool_call') return []
    const head = event.id === undefined ? [] : [`begins ${event.call} ${event.id} ${event.name}`]
    return [...head, ...event.arguments.split('').map((one) => `${event.call} ${one}`)]
  })

describe('an answer that is told again', () => {
  test('goes on at the character where it stopped, however either was cut', () => {
    fc.assert(
      fc.property(
        said,
        fc.array(piece, { minLength: 1 }),
        fc.array(piece, { minLength: 1 }),
        fc.nat(60),
        (parts, first, second, cut) => {
          const continuation = begun()
          const before = continuation.take(told(parts, first).slice(0, cut)).events
          continuation.resume()
          const after: Taken = continuation.take([...told(parts, second), finish(1), end(9, 1)])
          expect(after.broken).toBeUndefined()
          expect(after.isOver).toBe(true)
          expect([...units(before), ...units(after.events)]).toEqual(units(told(parts, [1])))
        },
      ),
      { numRuns: 2000 },
    )
  })

  test('with another character in what has gone on ends there, and none of the rest goes on', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), fc.nat(), (text, rest, at) => {
        const continuation = begun(delta(text, 1))
        continuation.resume()
        const place = at % text.length
        const other = `${text.slice(0, place)}${text[place] === 'x' ? 'y' : 'x'}${text.slice(place + 1)}`
        expect(continuation.take([delta(other + rest, 1)])).toMatchObject({
          events: [],
          broken: { reason: 'diverged', failure: { code: 'backend_lost' } },
        })
      }),
    )
  })

  test.each<[string, DispatchEvent]>([
    ['of another kind', { type: 'thought', choice: 0, text: 'abc', outputTokens: 1 }],
    ['that is over too early', finish(1)],
    [
      'with a call in its place',
      { type: 'tool_call', choice: 0, call: 0, id: 'a', name: 'b', arguments: 'bc', outputTokens: 1 },
    ],
  ])('is not gone on with where it is one %s', (_, event) => {
    const continuation = begun(delta('abc', 1))
    continuation.resume()
    expect(continuation.take([event])).toMatchObject({ events: [], broken: { reason: 'diverged' } })
  })

  test('counts its prompt once, as the first backend did, and its output as the last one did', () => {
    const continuation = begun({ type: 'accepted', usage: usage(4, 0, 5), queueMs: 0 }, tokens(1, 2), delta('ab', 2))
    continuation.resume()
    const { events } = continuation.take([accepted, delta('ab', 2), tokens(3), delta('c', 3), finish(4), end(2, 4)])
    expect(events).toEqual([delta('c', 3), finish(4), { type: 'usage', usage: usage(4, 4, 5) }])
  })

  test('that fails counts no less than was computed before', () => {
    const continuation = begun(tokens(1, 2, 3), delta('abc', 3))
    continuation.resume()
    const failed = { type: 'error', code: 'deadline_exceeded', message: 'late', usage: usage(0, 0) } as const
    expect(continuation.take([failed])).toEqual({
      events: [{ ...failed, usage: usage(9, 3) }],
      isOver: true,
    })
  })
})

describe('the tokens that are resumed', () => {
  const idsOf = (continuation: Continuation) => continuation.resume().choices[0]?.tokenIds

  test('are those of all lives', () => {
    const continuation = begun(tokens(1, 2), delta('ab', 2))
    expect(idsOf(continuation)).toEqual([1, 2])
    continuation.take([delta('ab', 2), tokens(3)])
    expect(idsOf(continuation)).toEqual([1, 2, 3])
  })

  test('beyond the bound are left to be computed again, and what is kept stays a beginning', () => {
    const half = Array.from({ length: MAX_RESUMED_TOKENS / 2 }, (_, at) => at)
    const continuation = new Continuation({ choices: 2, withLogprobs: false })
    continuation.take([
      accepted,
      { type: 'tokens', choice: 1, ids: half },
      tokens(...half.slice(0, 1000)),
      tokens(...half),
      { type: 'finish', choice: 1, reason: 'stop', outputTokens: 1 },
      tokens(7),
    ])
    expect(idsOf(continuation)).toEqual(half.slice(0, 1000))
    // There is room again, and what comes now follows on what is kept.
    continuation.take([tokens(8)])
    expect(idsOf(continuation)).toEqual([...half.slice(0, 1000), 8])
  })

  test('end with the last probability that has gone on', () => {
    const entry = { text: 'a', bytes: [97], logprob: -1, top: [] }
    const continuation = new Continuation({ choices: 1, withLogprobs: true })
    continuation.take([accepted, tokens(1, 2, 3), { ...delta('ab', 3), logprobs: [entry, entry] } as DispatchEvent])
    expect(idsOf(continuation)).toEqual([1, 2])
  })
})

test('choices that nobody asked for are not kept, and not passed on', () => {
  const continuation = new Continuation({ choices: 1, withLogprobs: false })
  const events = [tokens(1), delta('a', 1), finish(1)].map((event) => ({ ...event, choice: 1 }) as DispatchEvent)
  expect(continuation.take([accepted, ...events]).events).toEqual([accepted])
  expect(continuation.hasBegun).toBe(false)
  expect(continuation.lost().broken?.reason).toBe('backend_lost')
})

describe('a backend that failed', () => {
  const snapshot = (backends: [id: string, epochs: string[], reportAgeMs?: number][]): FleetSnapshot =>
    ({
      staleAfterMs: 3500,
      backends: backends.map(([backendId, epochs, reportAgeMs = 100]) => ({
        backendId,
        reportAgeMs,
        frames: epochs.map((epoch) => ({ epoch })),
      })),
    }) as unknown as FleetSnapshot

  const before = snapshot([['a', ['1', '2']]])
  const failed = () => {
    const backends = new FailedBackends()
    backends.note('a', enginesOf(before, 'a'), 1000)
    return backends
  }

  test.each([
    ['as it was', true, before, 1200],
    ['with a new engine', false, snapshot([['a', ['2', '3']]]), 1200],
    ['with the engine that it has left', false, snapshot([['a', ['2']]]), 1200],
    ['with a report that was on its way', true, snapshot([['a', ['1', '2'], 50]]), 2000],
    ['with reports since', false, snapshot([['a', ['1', '2'], 100]]), 3000],
    ['without a report since', true, snapshot([['a', ['1', '2'], 2500]]), 3000],
  ])('%s is left out: %s', (_, isLeftOut, now, nowMs) => {
    expect(failed().leftOut(now, nowMs).has('a')).toBe(isLeftOut)
  })

  test('and said when to come back is left out until then, whatever its engines', () => {
    const backends = new FailedBackends()
    backends.note('a', '', 1000, 500)
    expect([1200, 1600].map((nowMs) => backends.leftOut(before, nowMs).has('a'))).toEqual([true, false])
  })
})
