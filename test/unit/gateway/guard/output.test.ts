// A rule on an answer: what goes out is the same for every way the answer can be cut into events.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Job } from '../../../../gateway/attempts/job.ts'
import { hookOf, type StoredHook, type TextHook } from '../../../../gateway/guard/hook.ts'
import { TextRule } from '../../../../gateway/guard/output.ts'
import { WorkBudget } from '../../../../gateway/guard/work.ts'
import { NO_USAGE } from '../../../../gateway/meter/usage.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { Collector } from '../../../../gateway/stream/collect.ts'

const JOB = { requestId: 'r', principal: { orgId: 'o', keyPrefix: 'k' } } as unknown as Job

function rule(stored: StoredHook, work = new WorkBudget()): TextRule {
  const made = hookOf({ hookId: 'h', name: 'rule', stages: ['output'] }, stored)
  if (!made.ok) throw new Error(made.error.message)
  return new TextRule(JOB, made.value as TextHook, work)
}
const pii = (action: 'mask' | 'block' | 'flag') =>
  rule({ kind: 'pii', settings: { entities: ['email', 'card'], action } })

const text = (words: string, choice = 0, outputTokens = 1): ProviderEvent => ({
  type: 'delta',
  choice,
  text: words,
  outputTokens,
})
const thought = (words: string, seal?: string): ProviderEvent => ({
  type: 'thought',
  choice: 0,
  text: words,
  outputTokens: 1,
  ...(seal === undefined ? {} : { seal: { by: 'x', value: seal } }),
})
const call = (args: string, n = 0): ProviderEvent => ({
  type: 'tool_call',
  choice: 0,
  call: n,
  id: `c${n}`,
  name: 'mail',
  arguments: args,
  outputTokens: 1,
})
const more = (args: string, n = 0): ProviderEvent => ({
  type: 'tool_call',
  choice: 0,
  call: n,
  arguments: args,
  outputTokens: 1,
})
const finish = (choice = 0): ProviderEvent => ({ type: 'finish', choice, reason: 'stop', outputTokens: 9 })
const USAGE: ProviderEvent = { type: 'usage', usage: NO_USAGE }

async function through(filter: TextRule, batches: ProviderEvent[][]) {
  const out: ProviderEvent[] = []
  for (const batch of batches) {
    const passed = await filter.push(batch)
    if (!passed.ok) return { out, failure: passed.error }
    out.push(...passed.value)
  }
  const last = await filter.end()
  if (!last.ok) return { out, failure: last.error }
  return { out: [...out, ...last.value] }
}

const partsOf = (events: ProviderEvent[], choices = 1) => {
  const collector = new Collector()
  for (const event of events) collector.see(event)
  return collector.complete(choices)?.map(({ parts }) => parts)
}

describe('a rule that masks', () => {
  test('masks text, thoughts and refusals over the borders of their pieces', async () => {
    const { out } = await through(pii('mask'), [
      [thought('I know b'), thought('ob@exam')],
      [thought('ple.com', undefined), text('Write to bo')],
      [text('b@example.com or 4111 1111 '), text('1111 1111')],
      [finish(), USAGE],
    ])
    expect(partsOf(out)).toEqual([
      [
        { type: 'thought', text: 'I know [EMAIL]' },
        { type: 'text', text: 'Write to [EMAIL] or [CARD]' },
      ],
    ])
    expect(out.at(-1)).toEqual(USAGE)
    expect(out.at(-2)).toEqual(finish())
  })

  test('leaves the seal on a thought it did not change, and takes it off one it did', async () => {
    const { out } = await through(pii('mask'), [
      [thought('plain', 's1'), thought('bob@example'), thought('.com', 's2'), finish()],
    ])
    expect(partsOf(out)).toEqual([
      [
        { type: 'thought', text: 'plain', seal: { by: 'x', value: 's1' } },
        { type: 'thought', text: '[EMAIL]' },
      ],
    ])
  })

  test('never changes what a tool is called with', async () => {
    const { out } = await through(pii('mask'), [
      [text('to bob@example.com'), call('{"to":"bob@example.com"}'), finish()],
    ])
    expect(partsOf(out)).toEqual([
      [
        { type: 'text', text: 'to [EMAIL]' },
        { type: 'tool_call', id: 'c0', name: 'mail', arguments: '{"to":"bob@example.com"}' },
      ],
    ])
  })

  test('keeps the choices of one answer apart', async () => {
    const { out } = await through(pii('mask'), [
      [text('bob@exam', 0), text('4111 1111 ', 1), text('ple.com', 0), text('1111 1111', 1), finish(1), finish(0)],
    ])
    expect(partsOf(out, 2)?.map((parts) => parts.map((part) => 'text' in part && part.text))).toEqual([
      ['[EMAIL]'],
      ['[CARD]'],
    ])
  })

  test('counts tokens as the target does, also where text is held back', async () => {
    const { out } = await through(pii('mask'), [[text('bob@exam', 0, 3), text('ple.com', 0, 5)], [finish()]])
    expect(out).toEqual([{ type: 'delta', choice: 0, text: '[EMAIL]', outputTokens: 5 }, finish()])
  })

  test('gives the same answer for every way it can be cut', async () => {
    const whole = 'Ask bob@example.com, pay 4111-1111-1111-1111. @ 4111 x@y'
    const expected = 'Ask [EMAIL], pay [CARD]. @ 4111 x@y'
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(whole.length), { maxLength: 10 }), async (cuts) => {
        const sorted = [0, ...cuts.sort((a, b) => a - b), whole.length]
        const pieces = sorted.slice(1).map((cut, index) => [text(whole.slice(sorted[index], cut))])
        const { out } = await through(pii('mask'), [...pieces, [finish()]])
        expect(partsOf(out)).toEqual([[{ type: 'text', text: expected }]])
      }),
      { numRuns: 200 },
    )
  })
})

describe('a rule that blocks', () => {
  test('lets nothing out of what it blocks', async () => {
    const { out, failure } = await through(pii('block'), [
      [text('Write to bo')],
      [text('b@example.co')],
      [text('m now'), finish()],
    ])
    expect(failure).toMatchObject({ code: 'content_filtered', message: expect.stringContaining('"rule"') })
    expect(out.map((event) => ('text' in event ? event.text : ''))).toEqual(['Write to '])
  })

  test('also looks at the arguments of calls, and at what stands at the very end', async () => {
    const args = await through(pii('block'), [[call('{"to":"bob@exam'), call('ple.com"}'), finish()]])
    expect(args.failure?.code).toBe('content_filtered')
    const end = await through(pii('block'), [[text('bob@example.com')]])
    expect(end.failure?.code).toBe('content_filtered')
  })

  test('lets nothing out of a call that it blocks, however its arguments come', async () => {
    const pieces = ['{"card":"4111', ' 1111', ' 1111', ' 1111"', '}']
    const { out, failure } = await through(pii('block'), [
      ...pieces.map((piece, index) => [index === 0 ? call(piece) : more(piece)]),
      [finish()],
    ])
    expect(failure?.code).toBe('content_filtered')
    expect(out).toEqual([call('{"card":"')])
  })

  test('lets a clean call pass whole, one after the other, with what belongs to each', async () => {
    const sealed = { ...call('4111', 1), seal: { by: 'x', value: 's' } } as ProviderEvent
    const { out, failure } = await through(pii('block'), [
      [text('Now '), call('{"card":"4111'), more(' 1"}')],
      [sealed, more(' 22', 1)],
      [text('Bye'), finish()],
    ])
    expect(failure).toBeUndefined()
    expect(partsOf(out)).toEqual([
      [
        { type: 'text', text: 'Now ' },
        { type: 'tool_call', id: 'c0', name: 'mail', arguments: '{"card":"4111 1"}' },
        { type: 'tool_call', id: 'c1', name: 'mail', arguments: '4111 22', seal: { by: 'x', value: 's' } },
        { type: 'text', text: 'Bye' },
      ],
    ])
  })

  test('lets a clean answer pass as it is', async () => {
    const { out, failure } = await through(pii('block'), [
      [text('All is well. '), text('Bye.')],
      [finish(), USAGE],
    ])
    expect(failure).toBeUndefined()
    expect(partsOf(out)).toEqual([[{ type: 'text', text: 'All is well. Bye.' }]])
  })

  test('says what the administrator wrote', async () => {
    const filter = rule({
      kind: 'regex',
      settings: { patterns: ['x{2}'], ignore_case: false, action: 'block', replacement: '', message: 'Not here.' },
    })
    expect((await through(filter, [[text('axxb'), finish()]])).failure?.message).toBe('Not here.')
  })
})

test('a rule that flags changes and delays nothing', async () => {
  const filter = pii('flag')
  const passed = await filter.push([text('bob@exam')])
  expect(passed).toEqual({ ok: true, value: [text('bob@exam')] })
  const { out } = await through(filter, [[text('ple.com'), finish()]])
  expect(out).toEqual([text('ple.com'), finish()])
})

test('why a target withheld an answer is a text too', async () => {
  const withheld = (explanation: string): ProviderEvent => ({
    type: 'finish',
    choice: 0,
    reason: 'content_filter',
    outputTokens: 9,
    refusal: { category: 'c', explanation },
  })
  const said = withheld('about bob@example.com')
  expect((await through(pii('mask'), [[said]])).out).toEqual([withheld('about [EMAIL]')])
  expect((await through(pii('block'), [[said]])).failure?.code).toBe('content_filtered')
  expect((await through(pii('flag'), [[said]])).out).toEqual([said])
})

test('log probabilities pass a rule that flags alone: they spell out what the others take away', async () => {
  const probable: ProviderEvent & { type: 'delta' } = {
    type: 'delta',
    choice: 0,
    text: 'Hi! ',
    outputTokens: 1,
    logprobs: [{ text: 'Hi', logprob: 0, bytes: [72, 105], top: [] }],
  }
  const silent: ProviderEvent = { ...probable, text: '' }
  expect((await through(pii('flag'), [[probable, silent], [finish()]])).out).toEqual([probable, silent, finish()])
  for (const action of ['mask', 'block'] as const) {
    const { out } = await through(pii(action), [[probable, silent], [finish()]])
    expect(JSON.stringify(out)).not.toContain('logprob')
    expect(partsOf(out)).toEqual([[{ type: 'text', text: 'Hi! ' }]])
  }
})

describe('the work of all rules over an answer', () => {
  const slow = (action: 'mask' | 'flag', work: WorkBudget) =>
    rule(
      {
        kind: 'regex',
        settings: { patterns: ['a{1,31}a{1,31}b'], ignore_case: false, action, replacement: '' },
      },
      work,
    )
  const answer = [text('c'.repeat(60_000))]

  test('is bounded for all together: what is too much for the second of two is refused', async () => {
    const work = new WorkBudget()
    expect((await slow('mask', work).push(answer)).ok).toBe(true)
    expect(await slow('mask', work).push(answer)).toMatchObject({ ok: false, error: { code: 'content_filtered' } })
  })

  test('is left undone by a rule that only looks, which lets everything pass', async () => {
    const work = new WorkBudget()
    expect((await slow('mask', work).push(answer)).ok).toBe(true)
    const { out, failure } = await through(slow('flag', work), [[text('a'), ...answer, text('b')], [finish()]])
    expect(failure).toBeUndefined()
    expect(out).toEqual([text('a'), ...answer, text('b'), finish()])
  })
})
