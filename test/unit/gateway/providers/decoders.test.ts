// Upstream answers into events: the fleet's lines at every cut, and the tolerant reading of other servers.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NO_USAGE } from '../../../../gateway/meter/usage.ts'
import { BadEvent, DispatchDecoder, plainEvent } from '../../../../gateway/providers/dispatch-decoder.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { providerEvents } from '../../../../gateway/providers/fleet-events.ts'
import { OpenAiDecoder } from '../../../../gateway/providers/openai-decoder.ts'
import { statusFailure } from '../../../../gateway/providers/openai-failure.ts'
import { retryAfter, waitInWords } from '../../../../gateway/providers/retry-after.ts'
import { LineTooLong } from '../../../../gateway/stream/lines.ts'
import { DispatchEvent, MAX_EVENT_BYTES } from '../../../../protocol/dispatch.ts'

const bytes = (text: string) => new TextEncoder().encode(text)
const usage = { inputTokens: 4, cachedInputTokens: 1, outputTokens: 2 }
const LINES: DispatchEvent[] = [
  { type: 'accepted', usage: { ...usage, outputTokens: 0 }, queueMs: 1 },
  { type: 'tokens', choice: 0, ids: [7, 0] },
  { type: 'delta', choice: 0, text: 'naïve 😀\n', outputTokens: 1 },
  { type: 'delta', choice: 0, text: '', outputTokens: 2 },
  { type: 'thought', choice: 0, text: 'hm', outputTokens: 2 },
  { type: 'tool_call', choice: 0, call: 0, id: 'a', name: 'look', arguments: '{"x":', outputTokens: 2 },
  { type: 'tool_call', choice: 0, call: 0, arguments: '1}', outputTokens: 2 },
  { type: 'finish', choice: 0, reason: 'tool_calls', outputTokens: 2 },
  { type: 'usage', usage },
]

function decode(all: Uint8Array, cuts: number[]): { events: DispatchEvent[]; ended: boolean } {
  const decoder = new DispatchDecoder()
  const events: DispatchEvent[] = []
  let at = 0
  for (const cut of [...cuts.sort((a, b) => a - b), all.length]) {
    events.push(...decoder.push(all.subarray(at, cut)).events)
    at = cut
  }
  const end = decoder.end()
  return { events: [...events, ...end.events], ended: end.ended }
}

describe('a dispatch', () => {
  const text = LINES.map((line) => `${JSON.stringify(line)}\n`).join('')
  const all = bytes(text)
  const whole = decode(all, [])

  test('is the same whole and cut at every byte', () => {
    expect(whole.ended).toBe(true)
    expect(whole.events).toEqual(LINES)
    for (let cut = 0; cut <= all.length; cut++) expect(decode(all, [cut])).toEqual(whole)
    const cuts = fc.array(fc.integer({ min: 0, max: all.length }))
    fc.assert(
      fc.property(cuts, (where) => {
        expect(decode(all, where)).toEqual(whole)
      }),
    )
  })

  test('that is cut short at any byte has lost its end, except for the last line end', () => {
    for (let length = 0; length < all.length - 1; length++) {
      const cut = decode(all.subarray(0, length), [])
      expect(cut.ended).toBe(false)
      expect(whole.events.slice(0, cut.events.length)).toEqual(cut.events)
    }
    expect(decode(all.subarray(0, all.length - 1), [])).toEqual(whole)
  })

  test('says nothing after its end', () => {
    const more = bytes(`${text}${JSON.stringify(LINES[1])}\n`)
    expect(decode(more, [])).toEqual(whole)
  })

  test.each(['nonsense', '{}', '{"type":"delta"}', '{"type":"delta","choice":-1,"text":"","outputTokens":0}', '[]'])(
    'with the line %s is refused',
    (line) => {
      expect(() => new DispatchDecoder().push(bytes(`${line}\n`))).toThrow(BadEvent)
    },
  )

  test('means to a caller what it says, but for what is between backends', () => {
    const told = providerEvents(LINES)
    expect(told).toHaveLength(8)
    expect(told[1]).toMatchObject({ text: 'naïve 😀\n' })
    expect(told.slice(3, 6)).toEqual(LINES.slice(4, 7))
    expect(told[7]).toMatchObject({ usage: { inputUncached: 4, inputCacheRead: 1, outputText: 2 } })
  })

  test('has its plain events read by hand exactly as the schema reads them', () => {
    const field = fc.oneof(fc.constantFrom(0, 1, -1, 0.5, 2 ** 53, -0), fc.string(), fc.constant(null))
    const event = fc.record(
      {
        type: fc.constantFrom('delta', 'tokens', 'finish', 'usage'),
        choice: field,
        text: field,
        outputTokens: field,
        ids: fc.oneof(field, fc.array(field)),
        extra: field,
      },
      { requiredKeys: ['type'] },
    )
    fc.assert(
      fc.property(event, (json) => {
        const quick = plainEvent(json)
        const slow = DispatchEvent.safeParse(json)
        if (quick !== undefined) expect(slow).toEqual({ success: true, data: quick })
        else if (slow.success) expect(['delta', 'tokens']).not.toContain(slow.data.type)
      }),
      { numRuns: 2000 },
    )
  })

  test('with an endless line is refused at the bound', () => {
    expect(() => new DispatchDecoder().push(new Uint8Array(MAX_EVENT_BYTES + 1).fill(0x20))).toThrow(LineTooLong)
  })
})

describe('another server', () => {
  const read = (choices: number, ...data: unknown[]) => {
    const decoder = new OpenAiDecoder(choices)
    const events = data.flatMap((one) => decoder.whole(typeof one === 'string' ? one : JSON.stringify(one)))
    return { events, decoder }
  }

  test('counts a token for each chunk with text, and exactly where logprobs come along', () => {
    const { events } = read(
      1,
      { choices: [{ delta: { role: 'assistant', content: '' } }] },
      { choices: [{ index: 0, delta: { content: 'a' } }] },
      {
        choices: [
          {
            index: 0,
            delta: { content: 'bc' },
            logprobs: {
              content: [
                { token: 'b', logprob: -1 },
                { token: 'c', logprob: -2, bytes: null },
              ],
            },
          },
        ],
      },
    )
    expect(events).toMatchObject([
      { type: 'delta', text: 'a', outputTokens: 1 },
      { type: 'delta', text: 'bc', outputTokens: 3, logprobs: [{ text: 'b', bytes: [98], top: [] }, { text: 'c' }] },
    ])
  })

  test('counts thoughts, under either name, and tells them apart from text', () => {
    const { events } = read(
      1,
      { choices: [{ delta: { content: null, reasoning_content: 'Well, ' } }] },
      { choices: [{ delta: { content: '', reasoning: 'then' } }] },
      { choices: [{ delta: { content: 'a', reasoning_content: '' } }] },
    )
    expect(events).toEqual([
      { type: 'thought', choice: 0, text: 'Well, ', outputTokens: 1 },
      { type: 'thought', choice: 0, text: 'then', outputTokens: 2 },
      { type: 'delta', choice: 0, text: 'a', outputTokens: 3 },
    ])
  })

  test.each([
    ['stop', 'stop'],
    ['length', 'length'],
    ['max_tokens', 'length'],
    ['content_filter', 'content_filter'],
    ['eos', 'stop'],
  ])('ending with %s ended with %s, once', (theirs, ours) => {
    const end = { choices: [{ index: 0, delta: {}, finish_reason: theirs }] }
    const { events, decoder } = read(1, end, end)
    expect(events).toEqual([{ type: 'finish', choice: 0, reason: ours, outputTokens: 0 }])
    expect(decoder.isComplete).toBe(true)
  })

  test.each([
    ['{"error":{"message":"boom"}}', 'boom'],
    ['{"error":"boom"}', 'boom'],
    ['not json', 'not JSON'],
    ['{"choices":5}', 'unknown shape'],
  ])('saying %s has failed, and nothing after it counts', (data, words) => {
    const { events } = read(1, data, { choices: [{ delta: { content: 'late' } }] })
    expect(events).toMatchObject([{ type: 'error', failure: { code: 'upstream_error' } }])
    expect(JSON.stringify(events)).toContain(words)
  })

  test('is not complete before every choice has finished or the end mark has come', () => {
    const finish = (index: number) => ({ choices: [{ index, finish_reason: 'stop' }] })
    expect(read(2, finish(0)).decoder.isComplete).toBe(false)
    expect(read(2, finish(0), finish(1)).decoder.isComplete).toBe(true)
    expect(read(2, '[DONE]').decoder.isComplete).toBe(true)
    expect(read(1, { choices: [], usage: { prompt_tokens: 1, completion_tokens: 0 } }).decoder.isComplete).toBe(false)
  })

  describe('that tells its usage', () => {
    const text = { choices: [{ index: 0, delta: { content: 'a' } }] }
    const finish = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }
    const counted = (completion_tokens: number, more = {}) => ({
      ...more,
      usage: { prompt_tokens: 3, completion_tokens },
    })
    const usageOf = (events: ProviderEvent[]) =>
      events.flatMap((event) => (event.type === 'usage' ? [[event.usage.outputText, event.isRunning ?? false]] : []))

    test('in a last chunk has it taken with its own words', () => {
      const { events } = read(1, text, finish, { choices: [], ...counted(2) }, '[DONE]')
      expect(events.at(-1)).toEqual({
        type: 'usage',
        usage: { ...NO_USAGE, inputUncached: 3, outputText: 2 },
        rawUsage: '{"prompt_tokens":3,"completion_tokens":2}',
      })
    })

    test('with every chunk has it taken for what stands so far, until the last choice has finished', () => {
      const { events } = read(1, counted(1, text), counted(2, text), counted(2, finish), '[DONE]')
      expect(usageOf(events)).toEqual([
        [1, true],
        [2, true],
        [2, false],
      ])
    })

    test('before the last finish has it believed at the end, where it covers every token seen', () => {
      expect(usageOf(read(1, counted(1, text), finish, '[DONE]').events)).toEqual([
        [1, true],
        [1, false],
      ])
      expect(usageOf(read(1, counted(1, text), text, finish, '[DONE]').events)).toEqual([[1, true]])
    })

    test('that contradicts itself is flagged', () => {
      const { events, decoder } = read(1, finish, { usage: { prompt_tokens: -1, completion_tokens: 2 } })
      expect(events.at(-1)).toMatchObject({ inconsistent: true, usage: { outputText: 2 } })
      expect(decoder.hasInconsistentUsage).toBe(true)
    })

    test('beyond reason has its words replaced, and its counts taken', () => {
      const { events } = read(1, finish, { usage: { prompt_tokens: 1, padding: 'x'.repeat(5000) } })
      expect(events.at(-1)).toMatchObject({
        usage: { inputUncached: 1 },
        rawUsage: expect.stringContaining('truncated'),
      })
    })

    test.each([
      ['flex', 'default', true],
      ['flex', 'flex', false],
      ['flex', undefined, false],
      [undefined, 'default', false],
    ])('for the service %s, served as %s, is flagged: %s', (asked, service_tier, flagged) => {
      const decoder = new OpenAiDecoder(1, asked === undefined ? {} : { tierAsked: asked })
      const chunks = [
        { ...finish, service_tier },
        { choices: [], ...counted(2) },
      ]
      const events = chunks.flatMap((one) => decoder.whole(JSON.stringify(one)))
      expect(events.at(-1)).toMatchObject({ type: 'usage', ...(flagged ? { inconsistent: true } : {}) })
      expect(decoder.hasInconsistentUsage).toBe(flagged)
    })

    test('in another dialect is read in that one', () => {
      const decoder = new OpenAiDecoder(1, { usageDialect: 'gemini' })
      const usageMetadata = { promptTokenCount: 9, candidatesTokenCount: 28, thoughtsTokenCount: 244 }
      const events = [finish, { usageMetadata }].flatMap((one) => decoder.whole(JSON.stringify(one)))
      expect(events.at(-1)).toMatchObject({ usage: { inputUncached: 9, outputText: 28, outputReasoning: 244 } })
    })
  })

  test.each([
    [{ 'retry-after-ms': '250', 'retry-after': '9' }, 250],
    [{ 'retry-after': '9' }, 9000],
    [{ 'retry-after': 'Sun, 22 Nov 2026 02:00:05 GMT' }, 5000],
    [{ 'retry-after': 'Sun, 22 Nov 2026 01:00:00 GMT' }, 0],
    [{ 'retry-after': 'soon' }, undefined],
    [{ 'retry-after': '-1' }, undefined],
    [{ 'retry-after': '' }, undefined],
    [{ 'retry-after': '0x10' }, undefined],
    [{ 'retry-after': `${'later '.repeat(40)}Sun, 22 Nov 2026 02:00:05 GMT` }, undefined],
    [{ 'retry-after': Array.from({ length: 100 }, () => '5').join(', ') }, undefined],
    [{ 'retry-after': '1e300' }, undefined],
    [{ 'retry-after': 'Infinity' }, undefined],
    [{ 'retry-after': '1.5' }, 1500],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': '5, 7' }, 7000],
    [{ 'retry-after': '30s' }, 30_000],
    [{ 'retry-after': '1m30s' }, 90_000],
    [{ 'retry-after': '20 seconds' }, 20_000],
    [{ 'retry-after': '1795312810' }, 10_000],
    [{ 'retry-after': '1795312810000' }, 10_000],
    [{ 'retry-after': '99999999' }, 86_400_000],
    [{ 'retry-after': 'Sun, 22 Nov 2126 02:00:05 GMT' }, 86_400_000],
    [{ 'retry-after': '2026-11-22T02:00:05Z' }, 5000],
    [{ 'retry-after': 'Sunday, 22-Nov-26 02:00:05 GMT' }, 5000],
    [{ 'retry-after-ms': '', 'retry-after': '3' }, 3000],
    [{ 'retry-after-ms': 'soon', 'retry-after': '3' }, 3000],
    [{ 'retry-after-ms': '99999999999999999999' }, 86_400_000],
    [{ 'x-ms-retry-after-ms': '1200', 'retry-after': '9' }, 1200],
    [{}, undefined],
  ])('asking to wait with %j means %s ms', (headers, ms) => {
    expect(retryAfter(new Headers(headers as HeadersInit), Date.UTC(2026, 10, 22, 2))).toBe(ms)
  })

  test.each([
    ['Please try again in 20s. Contact us', 20_000],
    ['Please try again in 6m0s.', 360_000],
    ['Please try again in 1h2m3.456s', 3_723_456],
    ['Please retry after 20 seconds. To increase your limit', 20_000],
    ['Please retry after 1 second.', 1000],
    ['Retry after 2 minutes', 120_000],
    ['Please wait for about 3 hours', 10_800_000],
    ['try again in 250 milliseconds', 250],
    ['try again in 9999999999h', 86_400_000],
    ['Please try again in 3 months', undefined],
    ['Please try again later', undefined],
  ])('asking to wait by saying %j means %s ms', (words, ms) => {
    expect(waitInWords(words)).toBe(ms)
  })

  test.each([
    [400, '{"error":{"message":"bad","param":"n"}}', 'invalid_request'],
    [400, '{"error":{"message":"long","code":"context_length_exceeded"}}', 'context_length_exceeded'],
    [422, '', 'invalid_request'],
    [413, '<html>', 'request_too_large'],
    [401, '{"error":{"message":"key sk-123"}}', 'upstream_error'],
    [402, '', 'upstream_error'],
    [404, '', 'upstream_error'],
    [408, '', 'upstream_error'],
    [429, 'null', 'overloaded'],
    [503, '', 'overloaded'],
    [529, '', 'overloaded'],
    [500, '', 'upstream_error'],
    [302, '', 'upstream_error'],
  ])('answering %i %s is %s', (status, text, code) => {
    const failure = statusFailure(status, text, new Headers(), 0)
    expect(failure.code).toBe(code)
    expect(failure.message).not.toContain('sk-123')
  })
})
