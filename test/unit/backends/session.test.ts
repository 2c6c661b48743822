// The event order and the counts of one dispatch, against an engine connection made by hand.
import { afterEach, expect, test, vi } from 'vitest'
import { createChatRenderer } from '../../../backends/chat.ts'
import { type Prepared, prepareDispatch } from '../../../backends/dispatch.ts'
import type { SequenceHandlers, SequenceParameters } from '../../../backends/engine/client.ts'
import { runSession } from '../../../backends/session.ts'
import { createTokenizer } from '../../../backends/tokens.ts'
import { type DispatchEvent, type DispatchRequest, MAX_EVENT_BYTES } from '../../../protocol/dispatch.ts'
import type { FinishReason } from '../../../protocol/engine-frames.ts'
import { dispatchRequest, textOf } from './support/harness.ts'
import { idOf, testModelFile } from './support/test-model.ts'

const file = testModelFile()
const tokenizer = createTokenizer(file)
const model = { tokenizer, render: createChatRenderer(file, tokenizer.guard) }
const LIMITS = { contextTokens: 512, vocabularyTokens: file.tokens.length, sequencesMax: 8 }

afterEach(() => void vi.useRealTimers())

async function prepare(changes: Partial<DispatchRequest> = {}): Promise<Prepared> {
  const prepared = await prepareDispatch(dispatchRequest(changes), model, LIMITS, { randomSeed: () => 7n, tenant: 1n })
  if (!prepared.ok) throw new Error(prepared.error.message)
  return prepared.value
}

type Submitted = { parameters: SequenceParameters; handlers: SequenceHandlers; cancels: number; granted: number }

async function run(changes: Partial<DispatchRequest> = {}, write?: () => Promise<void>) {
  const submitted: Submitted[] = []
  const events: DispatchEvent[] = []
  const abort = new AbortController()
  const connection = {
    submit: (parameters: SequenceParameters, handlers: SequenceHandlers) => {
      const entry: Submitted = { parameters, handlers, cancels: 0, granted: 0 }
      submitted.push(entry)
      return {
        cancel: () => {
          entry.cancels++
        },
        grant: (tokens: number) => {
          entry.granted += tokens
        },
      }
    },
  }
  const sink = {
    write: async (batch: readonly DispatchEvent[]) => {
      events.push(...batch)
      await write?.()
    },
  }
  const done = runSession(await prepare(changes), {
    connection,
    sink,
    capacity: () => undefined,
    nowMs: () => 0,
    signal: abort.signal,
    queuedMs: 3,
    deadlineAtMs: 5000,
  })
  await new Promise((resolve) => setImmediate(resolve))
  return {
    events,
    submitted,
    done,
    abort,
    token: (choice: number, token: number) =>
      submitted[choice]?.handlers.token({ id: BigInt(choice), token, logprob: 0, top: [] }),
    finish: (choice: number, reason: FinishReason, counts: { outputTokens: number; cachedTokens?: number }) =>
      submitted[choice]?.handlers.end({
        kind: 'finished',
        finished: { type: 'finished', id: 0n, reason, promptTokens: 2, cachedTokens: 0, ...counts },
      }),
  }
}

const tick = () => new Promise((resolve) => setImmediate(resolve))
const HELLO = idOf(file, 'hello')

test('what the engine was asked is what the request said', async () => {
  const session = await run({ n: 2, sampling: { ...dispatchRequest().sampling, seed: -1, topP: 1e-40 }, priority: 3 })
  expect(session.submitted.map(({ parameters }) => parameters.seed)).toEqual([2n ** 64n - 1n, 0n])
  expect(session.submitted[0]?.parameters).toMatchObject({ maxNewTokens: 6, priority: 3, deadlineMs: 5000, tenant: 1n })
  expect(session.submitted[0]?.parameters.topP).toBeGreaterThan(1e-38)
  expect(session.submitted[0]?.parameters.stopIds).toContain(idOf(file, '<|im_end|>'))
  for (const choice of [0, 1]) session.finish(choice, 'length', { outputTokens: 0 })
  await session.done
})

test('the cache counts what was there before the request: the least of a prompt’s choices', async () => {
  const session = await run({ n: 2 })
  session.finish(0, 'length', { outputTokens: 3, cachedTokens: 0 })
  session.finish(1, 'length', { outputTokens: 4, cachedTokens: 2 })
  expect(await session.done).toEqual({ usage: { inputTokens: 2, cachedInputTokens: 0, outputTokens: 7 } })
})

test('a stop string cancels the sequence, waits for its count, and stands even if the engine is lost then', async () => {
  const session = await run({ stop: ['lo'] })
  session.token(0, HELLO)
  await tick()
  expect(session.submitted[0]?.cancels).toBe(1)
  expect(session.events.some((event) => event.type === 'finish')).toBe(false)
  session.submitted[0]?.handlers.end({ kind: 'lost', message: 'gone' })
  await session.done
  expect(session.events.slice(1)).toEqual([
    { type: 'delta', choice: 0, text: 'hel', outputTokens: 1 },
    { type: 'finish', choice: 0, reason: 'stop', outputTokens: 1 },
    { type: 'usage', usage: { inputTokens: 2, cachedInputTokens: 0, outputTokens: 1 } },
  ])
})

test.each([
  ['invalid', 'invalid_request'],
  ['too_long', 'context_length_exceeded'],
  ['queue_full', 'overloaded'],
  ['draining', 'overloaded'],
] as const)('an engine that rejects with %s ends the dispatch with %s and counts nothing', async (code, expected) => {
  const session = await run()
  session.submitted[0]?.handlers.end({ kind: 'rejected', code, message: 'no' })
  await session.done
  expect(session.events.at(-1)).toMatchObject({
    type: 'error',
    code: expected,
    usage: { inputTokens: 0, cachedInputTokens: 0, outputTokens: 0 },
  })
})

test('one choice lost cancels the others and reports the counts of all', async () => {
  const session = await run({ n: 2 })
  session.token(0, HELLO)
  session.token(1, HELLO)
  session.submitted[0]?.handlers.end({ kind: 'lost', message: 'gone' })
  await tick()
  expect(session.submitted[1]?.cancels).toBe(1)
  session.finish(1, 'cancelled', { outputTokens: 5 })
  await session.done
  const errors = session.events.filter((event) => event.type === 'error')
  expect(errors).toMatchObject([{ code: 'engine_lost', usage: { inputTokens: 2, outputTokens: 6 } }])
})

test('a caller that is gone gets no event, and its sequences are cancelled and counted', async () => {
  const session = await run()
  session.token(0, HELLO)
  await tick()
  const sent = session.events.length
  session.abort.abort({ code: 'cancelled', message: 'gone' })
  await tick()
  expect(session.submitted[0]?.cancels).toBe(1)
  session.finish(0, 'cancelled', { outputTokens: 4 })
  expect(await session.done).toMatchObject({ usage: { outputTokens: 4 }, failure: { code: 'cancelled' } })
  expect(session.events).toHaveLength(sent)
})

test('an engine that never answers a cancel does not hold the request, and what was seen is counted', async () => {
  const session = await run()
  vi.useFakeTimers()
  session.token(0, HELLO)
  session.abort.abort({ code: 'deadline_exceeded', message: 'late' })
  await vi.advanceTimersByTimeAsync(10_000)
  await session.done
  expect(session.events.at(-1)).toMatchObject({ type: 'error', code: 'deadline_exceeded', usage: { outputTokens: 1 } })
})

test('credit is granted only after the reader took the tokens', async () => {
  const reader = { blocked: false, resume: () => {} }
  const session = await run({}, async () => {
    if (!reader.blocked) return
    await new Promise<void>((resolve) => {
      reader.resume = resolve
    })
  })
  reader.blocked = true
  for (let i = 0; i < 20; i++) session.token(0, HELLO)
  await tick()
  expect(session.submitted[0]?.granted).toBe(0)
  reader.blocked = false
  reader.resume()
  await tick()
  expect(session.submitted[0]?.granted).toBe(20)
  session.finish(0, 'length', { outputTokens: 20 })
  await session.done
})

test('a dispatch whose caller is gone before it begins submits nothing and counts nothing', async () => {
  const abort = new AbortController()
  abort.abort({ code: 'cancelled', message: 'gone' })
  const submit = vi.fn()
  const result = await runSession(await prepare(), {
    connection: { submit },
    sink: { write: async () => {} },
    capacity: () => undefined,
    nowMs: () => 0,
    signal: abort.signal,
    queuedMs: 0,
    deadlineAtMs: 1,
  })
  expect(submit).not.toHaveBeenCalled()
  expect(result.usage).toEqual({ inputTokens: 0, cachedInputTokens: 0, outputTokens: 0 })
})

test('the echo of a long prompt is cut into lines that the gateway takes, and no character is torn', async () => {
  const text = '\u0001é😀'.repeat(120_000)
  const prepared = await prepare({ input: { kind: 'completion', prompts: [{ text: 'hello' }], echo: true } })
  const events: DispatchEvent[] = []
  const abort = new AbortController()
  const done = runSession(
    { ...prepared, echo: [text] },
    {
      connection: { submit: () => ({ cancel: () => {}, grant: () => {} }) },
      sink: {
        write: async (batch) => {
          events.push(...batch)
          if (textOf(events).length === text.length) abort.abort({ code: 'cancelled', message: 'seen enough' })
        },
      },
      capacity: () => undefined,
      nowMs: () => 0,
      signal: abort.signal,
      queuedMs: 0,
      deadlineAtMs: 5000,
    },
  )
  vi.useFakeTimers()
  await vi.waitFor(() => expect(textOf(events)).toBe(text))
  await vi.advanceTimersByTimeAsync(10_000)
  await done
  for (const event of events) {
    expect(Buffer.byteLength(JSON.stringify(event))).toBeLessThan(MAX_EVENT_BYTES)
    if (event.type === 'delta') expect(event.text.isWellFormed()).toBe(true)
  }
})
