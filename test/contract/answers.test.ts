// What each provider's recorded answers become: the same however the network cuts them, and never whole when they are not.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NO_USAGE } from '../../gateway/meter/usage.ts'
import type { ProviderEvent } from '../../gateway/providers/event.ts'
import type { AnswerDecoder } from '../../gateway/providers/vendor.ts'
import type { CollectedChoice } from '../../gateway/stream/collect.ts'
import { decodeVector } from '../../gateway/stream/vector.ts'
import { type Case, choiceCount, collected, differingCuts, events, falseWhole, written } from './cuts.ts'
import type { ExpectedChoice, Promised } from './promise.ts'
import { decoderOf, isStream, read } from './provider.ts'
import { readRecording } from './recording.ts'
import { withUnknownEvents, withUnknownFields } from './strangers.ts'
import { PROVIDERS } from './vendors/all.ts'

/** Every byte of a recording is a place to cut it; a longer one would make the suite slow and show nothing new. */
const RECORDING_BYTES_MAX = 6 * 1024
const RANDOM_CUTS = 12
const CUTS_AT_ONCE = 8
const FUZZ_RUNS = 60
/** Of 64 KiB each: more than any event may have. */
const ENDLESS_CHUNKS = 256
function shown(choice: CollectedChoice): ExpectedChoice {
  const { parts, finish, stopString, refusal, logprobs, values } = choice
  return {
    parts,
    finish,
    ...(stopString === undefined ? {} : { stopString }),
    ...(refusal === undefined ? {} : { refusal }),
    ...(logprobs.length === 0
      ? {}
      : { logprobs: logprobs.map(({ text, logprob, top }) => [text, logprob, top.map((one) => one.text)]) }),
    ...(values === undefined ? {} : { values: decodeVector(values).map((value) => Number(value.toFixed(4))) }),
  }
}

/** What was charged for in the end. */
function usageOf(list: readonly ProviderEvent[]) {
  return list.findLast((event) => (event.type === 'usage' && event.isRunning !== true) || event.type === 'error')
}

function casesOf(promised: Promised): Case[] {
  return promised.answers.map((answer) => {
    const recording = readRecording(`${promised.folder}/${answer.fixture}`)
    return {
      name: answer.fixture,
      answer,
      recording,
      isStream: isStream(promised, recording),
      decoder: () => decoderOf(promised, answer),
    }
  })
}

for (const promised of PROVIDERS) {
  describe(promised.title, () => {
    const cases = casesOf(promised)
    const streams = cases.filter((one) => one.isStream)
    const bodies = cases.filter((one) => !one.isStream)

    test.each(cases)('$name says what was recorded', (one) => {
      const { answer } = one
      const { list, decoder } = events(one)
      expect(decoder.isComplete).toBe(true)
      expect(collected(list, choiceCount(one))?.map(shown)).toEqual(answer.choices)
      const failures = list.flatMap((event) => (event.type === 'error' ? [event.failure] : []))
      if (answer.failure === undefined) expect(failures).toEqual([])
      else {
        const { says = '', ...failure } = answer.failure
        expect(failures).toEqual([{ message: expect.stringContaining(says), ...failure }])
        expect(list.at(-1)?.type).toBe('error')
      }
      const last = usageOf(list)
      const usage = last?.type === 'usage' || last?.type === 'error' ? last.usage : undefined
      expect(usage).toEqual(answer.usage === undefined ? undefined : { ...NO_USAGE, ...answer.usage })
      expect(decoder.hasInconsistentUsage).toBe(answer.isInconsistent ?? false)
    })

    test.each(cases)('$name keeps the order of events, and counts that only grow', (one) => {
      const { list } = events(one)
      const tokens = new Map<number, number>()
      const finished = new Set<number>()
      for (const [place, event] of list.entries()) {
        if (event.type === 'error') expect(place).toBe(list.length - 1)
        if (!('outputTokens' in event)) continue
        expect(event.outputTokens).toBeGreaterThanOrEqual(tokens.get(event.choice) ?? 0)
        tokens.set(event.choice, event.outputTokens)
        expect(finished.has(event.choice)).toBe(false)
        if (event.type === 'finish') finished.add(event.choice)
      }
    })

    test.each(cases)('$name numbers its tool calls, and names each once', (one) => {
      const open = new Map<number, string[]>()
      for (const event of events(one).list) {
        if (event.type !== 'tool_call') continue
        const ids = open.get(event.choice) ?? []
        open.set(event.choice, ids)
        if (event.call < ids.length) expect([event.id, event.name]).toEqual([undefined, undefined])
        else {
          expect(event.call).toBe(ids.length)
          expect(event.name).toMatch(/./)
          expect(ids).not.toContain(event.id)
          ids.push(event.id ?? '')
          expect(event.id).toMatch(/./)
        }
      }
    })

    // One cut at a time for the first recording of a kind; for the others a few far apart, until every byte was one of them.
    test.each(streams)('$name is the same cut at every byte', (one) => {
      expect(one.recording.bytes.length).toBeLessThan(RECORDING_BYTES_MAX)
      expect(differingCuts(one, one === streams[0] && promised.preset === undefined ? 1 : CUTS_AT_ONCE)).toBeUndefined()
    })

    test.each(streams)('$name is the same under any set of cuts', (one) => {
      const { bytes } = one.recording
      const whole = written(events(one).list)
      fc.assert(
        fc.property(fc.uniqueArray(fc.integer({ min: 1, max: bytes.length - 1 }), { maxLength: 40 }), (cuts) => {
          cuts.sort((a, b) => a - b)
          return written(events(one, bytes, cuts).list) === whole
        }),
        { numRuns: RANDOM_CUTS },
      )
    })

    test.each(streams.filter(({ answer }) => answer.hasUnclearEnd !== true))(
      '$name that breaks off at any byte is never taken for another whole answer',
      (one) => {
        expect(falseWhole(one)).toBeUndefined()
      },
    )

    test.each(bodies)('$name that breaks off at any byte is an error', (one) => {
      const { bytes } = one.recording
      const { length: needed } = one.recording.text.trimEnd()
      for (let length = 0; length < new TextEncoder().encode(one.recording.text.slice(0, needed)).length; length++) {
        const { decoder, failed } = events(one, bytes.subarray(0, length))
        if (!failed && decoder.isComplete) expect.fail(`the first ${length} bytes were taken for a whole answer`)
      }
    })

    test.each(cases)('$name says nothing after its end', (one) => {
      const { recording } = one
      const decoder = one.decoder()
      const again = () => (one.isStream ? decoder.push(recording.bytes) : decoder.whole(recording.text.trim()))
      again()
      if (!decoder.isOver) return
      expect(again()).toEqual([])
    })

    test.each(cases)('$name is the same with fields and events that nobody knows yet', (one) => {
      const { list } = events(one)
      const strange = withUnknownFields(one.recording)
      expect(spoken(events(one, strange).list)).toEqual(spoken(list))
      const more = withUnknownEvents(one.recording, promised.strangers)
      if (more !== undefined) expect(spoken(events(one, more).list)).toEqual(spoken(list))
    })

    test('reads garbage without a throw, and never as an answer', () => {
      const alphabet = fc.constantFrom(
        'data: ',
        '{',
        '}',
        '"',
        '[',
        ']',
        ':',
        '\n',
        '\n\n',
        'null',
        '1e999',
        '\u0000',
        'é',
        'error',
      )
      const garbage = fc.oneof(
        fc.uint8Array({ maxLength: 300 }),
        fc.array(alphabet).map((all) => Buffer.from(all.join(''))),
      )
      fc.assert(
        fc.property(garbage, fc.nat(300), (bytes, cut) => {
          const decoder = decoderOf(promised, {})
          const list = read(decoder, bytes, cut < bytes.length ? [cut] : [])
          const body = decoderOf(promised, {}).whole(new TextDecoder().decode(bytes))
          return [...list, ...body].every(({ type }) => type === 'error')
        }),
        { numRuns: FUZZ_RUNS },
      )
    })

    test('reads recordings with bytes changed in them without a throw, and to an end', () => {
      const places = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 8 })
      fc.assert(
        fc.property(fc.constantFrom(...cases), places, (one, changes) => {
          const bytes = Uint8Array.from(one.recording.bytes)
          for (const [at, byte] of changes) bytes[at % bytes.length] = byte
          const { list } = events(one, bytes)
          const errors = list.filter(({ type }) => type === 'error')
          return errors.length <= 1
        }),
        { numRuns: FUZZ_RUNS },
      )
    })

    test('refuses an endless event', () => {
      const decoder = decoderOf(promised, {})
      const chunk = new TextEncoder().encode('data: '.padEnd(64 * 1024, 'x'))
      let last: ProviderEvent[] = []
      for (let sent = 0; sent < ENDLESS_CHUNKS && !decoder.isOver; sent++) last = decoder.push(chunk)
      expect(decoder.isOver).toBe(true)
      expect(last).toMatchObject([{ type: 'error', failure: { code: 'upstream_error' } }])
    })
  })
}

describe('a decoder', () => {
  const first = PROVIDERS.flatMap(casesOf).find((one) => one.isStream)
  if (first === undefined) throw new Error('no stream was recorded')
  const otherwise = (change: (decoder: AnswerDecoder) => Partial<AnswerDecoder>): Case => ({
    ...first,
    decoder: () => {
      const decoder = first.decoder()
      const own = {
        push: (chunk: Uint8Array) => decoder.push(chunk),
        end: () => decoder.end(),
        whole: (text: string) => decoder.whole(text),
        isOver: false,
        isComplete: true,
        hasInconsistentUsage: false,
      }
      return { ...own, ...change(decoder) }
    },
  })

  test('that decodes characters chunk by chunk is caught', () => {
    const broken = otherwise((decoder) => ({
      push: (chunk) => decoder.push(new TextEncoder().encode(new TextDecoder().decode(chunk))),
    }))
    expect(differingCuts(broken, CUTS_AT_ONCE)).toBeDefined()
  })

  test('that forgets what the last chunk left over is caught', () => {
    const broken = otherwise((decoder) => ({
      push: (chunk) => [...decoder.push(chunk), ...decoder.push(new TextEncoder().encode('\n'))],
    }))
    expect(differingCuts(broken, 1)).toBeDefined()
  })

  test('that takes any end for the end is caught', () => {
    expect(falseWhole(otherwise(() => ({})))).toBeDefined()
    expect(falseWhole(first)).toBeUndefined()
  })
})

/** Without the vendor's own words about usage, which hold the strange fields too. */
const spoken = (list: readonly ProviderEvent[]) =>
  list.map((event) => {
    if (!('rawUsage' in event)) return event
    const { rawUsage: _, ...rest } = event
    return rest
  })
