// Dispatches that another backend goes on with, and those that another one began: what an agent tells, sends to its engine and
// says again. That both together are one answer is test/contract/continued.test.ts.
import { describe, expect, test } from 'vitest'
import { createChatRenderer } from '../../../backends/chat.ts'
import { prepareDispatch } from '../../../backends/dispatch.ts'
import type { SequenceHandlers, SequenceParameters } from '../../../backends/engine/client.ts'
import { PartWriter } from '../../../backends/part-events.ts'
import { runSession } from '../../../backends/session.ts'
import { createTokenizer } from '../../../backends/tokens.ts'
import type { DispatchEvent, DispatchRequest } from '../../../protocol/dispatch.ts'
import type { FinishReason } from '../../../protocol/engine-frames.ts'
import { dispatchRequest, eventsOf, startHarness, textOf } from './support/harness.ts'
import { idOf, testModelFile } from './support/test-model.ts'

const file = testModelFile()
const tokenizer = createTokenizer(file)
const model = { tokenizer, render: createChatRenderer(file, tokenizer.guard) }
const LIMITS = { contextTokens: 32, vocabularyTokens: file.tokens.length, sequencesMax: 4 }
const HELLO = idOf(file, 'hello')
const WORLD = idOf(file, 'Ġworld')

const prepare = (changes: Partial<DispatchRequest>) => {
  const sampling = { ...dispatchRequest().sampling, seed: 5 }
  const request = dispatchRequest({ sampling, tellsTokens: true, ...changes })
  return prepareDispatch(request, model, LIMITS, { randomSeed: () => 7n, tenant: 1n })
}

const resumed = (...choices: [choice: number, tokenIds: number[]][]): Partial<DispatchRequest> => ({
  version: 3,
  resume: { choices: choices.map(([choice, tokenIds]) => ({ choice, tokenIds })) },
})

const tick = () => new Promise((resolve) => setImmediate(resolve))

async function run(changes: Partial<DispatchRequest> = {}) {
  const submitted: { parameters: SequenceParameters; handlers: SequenceHandlers; cancels: number }[] = []
  const writes: DispatchEvent[][] = []
  const moving = new AbortController()
  const prepared = await prepare(changes)
  if (!prepared.ok) throw new Error(prepared.error.message)
  const done = runSession(prepared.value, {
    connection: {
      submit: (parameters, handlers) => {
        const entry = { parameters, handlers, cancels: 0 }
        submitted.push(entry)
        return { cancel: () => void entry.cancels++, grant: () => {} }
      },
    },
    sink: { write: async (batch) => void writes.push([...batch]) },
    capacity: () => undefined,
    nowMs: () => 0,
    signal: new AbortController().signal,
    queuedMs: 0,
    deadlineAtMs: 5000,
    moving: moving.signal,
  })
  await tick()
  return {
    submitted,
    writes,
    moving,
    done,
    events: () => writes.flat().filter(({ type }) => type !== 'accepted'),
    token: (at: number, ...tokens: number[]) => {
      for (const token of tokens) submitted[at]?.handlers.token({ id: 0n, token, logprob: 0, top: [] })
    },
    finish: (at: number, reason: FinishReason, outputTokens: number) =>
      submitted[at]?.handlers.end({
        kind: 'finished',
        finished: { type: 'finished', id: 0n, reason, promptTokens: 2, cachedTokens: 0, outputTokens },
      }),
    lose: (at: number) => submitted[at]?.handlers.end({ kind: 'lost', message: 'gone' }),
  }
}

describe('a dispatch that another backend may go on with', () => {
  test('is told the tokens before the text that they make, in the same write', async () => {
    const session = await run()
    session.token(0, HELLO, WORLD)
    await tick()
    expect(session.writes.at(-1)).toEqual([
      { type: 'tokens', choice: 0, ids: [HELLO, WORLD] },
      { type: 'delta', choice: 0, text: 'hello world', outputTokens: 2 },
    ])
    session.finish(0, 'stop', 3)
    await session.done
  })

  test('is told no tokens where nobody asked for them', async () => {
    const session = await run({ tellsTokens: false })
    session.token(0, HELLO)
    session.lose(0)
    await session.done
    expect(session.events()).toMatchObject([{ type: 'delta' }, { type: 'error', code: 'engine_lost' }])
  })

  test('moves when its engine is lost, with all that was sampled', async () => {
    const session = await run()
    session.token(0, HELLO)
    await tick()
    session.token(0, WORLD)
    session.lose(0)
    expect(await session.done).toMatchObject({ failure: { code: 'engine_lost' } })
    expect(textOf(session.events())).toBe('hello world')
    expect(session.events().at(-1)).toEqual({
      type: 'moved',
      reason: 'engine_lost',
      usage: { inputTokens: 2, cachedInputTokens: 0, outputTokens: 2 },
    })
  })

  test('of which nothing was sampled fails when its engine is lost', async () => {
    const session = await run()
    session.lose(0)
    await session.done
    expect(session.events()).toMatchObject([{ type: 'error', code: 'engine_lost' }])
  })

  test('moves when its backend gives it up: its sequences are cancelled, and counted', async () => {
    const session = await run({ n: 2 })
    session.token(0, HELLO)
    await tick()
    session.moving.abort()
    await tick()
    expect(session.submitted.map(({ cancels }) => cancels)).toEqual([1, 1])
    session.token(1, WORLD)
    session.finish(0, 'cancelled', 2)
    session.finish(1, 'cancelled', 1)
    await session.done
    expect(session.events().slice(-3)).toMatchObject([
      { type: 'tokens', choice: 1, ids: [WORLD] },
      { type: 'delta', choice: 1, text: ' world' },
      { type: 'moved', reason: 'draining', usage: { outputTokens: 3 } },
    ])
  })

  test('is not given up where it cannot move', async () => {
    const session = await run({ tellsTokens: false })
    session.moving.abort()
    await tick()
    expect(session.submitted[0]?.cancels).toBe(0)
    session.finish(0, 'stop', 1)
    await session.done
    expect(session.events().at(-1)).toMatchObject({ type: 'usage' })
  })
})

describe('a dispatch that another backend began', () => {
  test('tells all of it again, its tokens only from there on, and counts all of them', async () => {
    const session = await run(resumed([0, [HELLO, WORLD]]))
    expect(session.submitted[0]?.parameters).toMatchObject({ output: [HELLO, WORLD], maxNewTokens: 6, seed: 5n })
    session.token(0, HELLO)
    await tick()
    session.finish(0, 'stop', 4)
    await session.done
    expect(session.events()).toEqual([
      { type: 'delta', choice: 0, text: 'hello world', outputTokens: 2 },
      { type: 'tokens', choice: 0, ids: [HELLO] },
      { type: 'delta', choice: 0, text: 'hello', outputTokens: 3 },
      { type: 'finish', choice: 0, reason: 'stop', outputTokens: 4 },
      { type: 'usage', usage: { inputTokens: 2, cachedInputTokens: 0, outputTokens: 4 } },
    ])
  })

  test('runs only the choices that are named, each with its own seed', async () => {
    const session = await run({ n: 4, ...resumed([3, [HELLO]], [1, []]) })
    expect(session.submitted.map(({ parameters: { seed, output } }) => ({ seed, output }))).toEqual([
      { seed: 8n, output: [HELLO] },
      { seed: 6n, output: undefined },
    ])
    session.finish(0, 'stop', 2)
    session.finish(1, 'stop', 1)
    await session.done
    const finished = session.events().flatMap((event) => (event.type === 'finish' ? event.choice : []))
    expect(finished).toEqual([3, 1])
    expect(session.events().at(-1)).toMatchObject({ usage: { outputTokens: 3 } })
  })

  test('takes as many slots as it has choices left', async () => {
    expect((await prepare({ n: 8 })).ok).toBe(false)
    expect(await prepare({ n: 8, ...resumed([7, [HELLO]]) })).toMatchObject({ value: { choices: [{ index: 7 }] } })
  })

  test('says its echo again', async () => {
    const input = { kind: 'completion' as const, prompts: [{ text: 'hello' }], echo: true }
    const session = await run({ input, ...resumed([0, [WORLD]]) })
    expect(textOf(session.events())).toBe('hello world')
    session.finish(0, 'stop', 1)
    await session.done
  })

  test.each([
    ['a stop string', { stop: ['lo w'] }, [HELLO, WORLD], 'hel', 'stop'],
    ['as many tokens as there may be', { maxOutputTokens: 2 }, [HELLO, WORLD], 'hello world', 'length'],
  ] as const)('that had come to %s asks no engine', async (_, changes, ids, text, reason) => {
    const session = await run({
      ...changes,
      stop: [...('stop' in changes ? changes.stop : [])],
      ...resumed([0, [...ids]]),
    })
    await session.done
    expect(session.submitted).toHaveLength(0)
    expect(textOf(session.events())).toBe(text)
    expect(session.events().slice(-2)).toEqual([
      { type: 'finish', choice: 0, reason, outputTokens: 2 },
      { type: 'usage', usage: { inputTokens: 0, cachedInputTokens: 0, outputTokens: 2 } },
    ])
  })

  test('that is lost again before it came further can move again', async () => {
    const session = await run(resumed([0, [HELLO]]))
    session.lose(0)
    await session.done
    expect(session.events()).toMatchObject([
      { type: 'delta', text: 'hello' },
      { type: 'moved', reason: 'engine_lost', usage: { outputTokens: 1 } },
    ])
  })

  test.each<[string, Partial<DispatchRequest>, string]>([
    ['without its seed', { sampling: dispatchRequest().sampling, ...resumed([0, [HELLO]]) }, 'invalid_request'],
    ['in a choice that it does not have', resumed([1, []]), 'invalid_request'],
    ['in one choice twice', resumed([0, []], [0, []]), 'invalid_request'],
    ['with a token outside the vocabulary', resumed([0, [file.tokens.length]]), 'invalid_request'],
    ['beyond what there is room for', resumed([0, Array(7).fill(HELLO)]), 'context_length_exceeded'],
  ])('%s is refused', async (_, changes, code) => {
    expect(await prepare(changes)).toMatchObject({ ok: false, error: { code, param: 'resume' } })
  })
})

test('a stream whose engine dies moves, and what it was goes on in the next engine to the same end', async () => {
  const harness = await startHarness({ engine: { crashAfterTokens: 5 } })
  const over = { sampling: { ...dispatchRequest().sampling, seed: 5 }, tellsTokens: true, maxOutputTokens: 8 }
  const first = await eventsOf(await harness.dispatch(over))
  const told = first.flatMap((event) => (event.type === 'tokens' ? event.ids : []))
  expect(first.at(-1)).toMatchObject({ type: 'moved', reason: 'engine_lost', usage: { outputTokens: told.length } })
  const resume = { choices: [{ choice: 0, tokenIds: told }] }
  let next: Response
  do {
    next = await harness.dispatch({ ...over, version: 3, resume })
  } while (next.status === 503)
  const second = await eventsOf(next)
  expect(textOf(second)).toBe('hello world'.repeat(4))
  expect(textOf(second).startsWith(textOf(first))).toBe(true)
  expect(second.at(-1)).toMatchObject({ type: 'usage', usage: { outputTokens: 8 } })
  await harness.stop()
})

test('a call has the same id wherever it is made, and no other call has it', () => {
  const call = { type: 'call' as const, name: 'look', arguments: '{}' }
  const idsOf = (requestId: string, choice: number) =>
    new PartWriter(requestId, choice)
      .events([call, call], 1)
      .map((event) => (event.type === 'tool_call' ? event.id : undefined))
  expect(idsOf('r', 0)).toEqual(idsOf('r', 0))
  const all = [...idsOf('r', 0), ...idsOf('r', 1), ...idsOf('s', 0)]
  expect(new Set(all).size).toBe(6)
  for (const id of all) expect(id).toMatch(/^call_[0-9a-f]{24}$/)
})
