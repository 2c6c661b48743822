// Embeddings through a whole agent, against an engine whose vectors are made of the prompt's ids.
import { afterEach, describe, expect, test } from 'vitest'
import { unitVector } from '../../../backends/embedding.ts'
import type { DispatchEvent, DispatchRequest } from '../../../protocol/dispatch.ts'
import { MAX_EMBEDDING_TOKENS, type Prompt } from '../../../protocol/request.ts'
import { eventsOf, type Harness, type HarnessOptions, startHarness, until } from './support/harness.ts'

const running: Harness[] = []
afterEach(async () => {
  for (const harness of running.splice(0)) await harness.stop()
})
async function start(options: HarnessOptions = {}): Promise<Harness> {
  const harness = await startHarness(options)
  running.push(harness)
  return harness
}

const embed = (prompts: Prompt[], dimensions?: number): Partial<DispatchRequest> => ({
  input: { kind: 'embedding', prompts, ...(dimensions === undefined ? {} : { dimensions }) },
})
const ids = (...tokenIds: number[]): Prompt => ({ tokenIds })

function vectorsOf(events: readonly DispatchEvent[]): number[][] {
  const vectors: number[][] = []
  for (const event of events) {
    if (event.type !== 'embedding') continue
    const bytes = Buffer.from(event.values, 'base64')
    vectors[event.choice] = Array.from({ length: bytes.length / 4 }, (_, at) => bytes.readFloatLE(4 * at))
  }
  return vectors
}

/** What the stand-in makes of one id, at length 1. */
function expected(id: number, dims = 64): number[] {
  const values = Array.from({ length: dims }, (_, at) => Math.cos(id * (at + 1)))
  const norm = Math.hypot(...values)
  return values.map((value) => Math.fround(value / norm))
}
const closeTo = (values: number[]) => values.map((value) => expect.closeTo(value, 6))

const refusalOf = async (response: Response) => ({ status: response.status, ...((await response.json()) as object) })

test('each input becomes one vector of length 1 in its place, counted as input alone', async () => {
  const harness = await start()
  const events = await eventsOf(await harness.dispatch(embed([ids(1, 2), ids(3, 4, 5), ids(6)])))
  expect(events[0]).toMatchObject({ type: 'accepted', usage: { inputTokens: 6, outputTokens: 0 } })
  expect(vectorsOf(events)).toEqual([2, 5, 6].map((id) => closeTo(expected(id))))
  for (const vector of vectorsOf(events)) expect(Math.hypot(...vector)).toBeCloseTo(1, 5)
  expect(events.at(-1)).toEqual({ type: 'usage', usage: { inputTokens: 6, cachedInputTokens: 0, outputTokens: 0 } })
})

test('more inputs than the engine has places are all answered, a few at a time', async () => {
  const harness = await start({ engine: { sequencesMax: 4 } })
  const inputs = Array.from({ length: 200 }, (_, at) => ids(at + 1))
  const events = await eventsOf(await harness.dispatch(embed(inputs)))
  expect(vectorsOf(events)).toHaveLength(200)
  expect(vectorsOf(events)[150]).toEqual(closeTo(expected(151)))
  const most = Math.max(...events.flatMap((event) => (event.type === 'capacity' ? [event.frame.sequencesRunning] : [])))
  expect(most).toBeLessThanOrEqual(2)
})

test('the pooling is the one configured, else the last token', async () => {
  const harness = await start({ config: { pooling: 'mean' } })
  const events = await eventsOf(await harness.dispatch(embed([ids(1, 2)])))
  expect(vectorsOf(events)[0]).not.toEqual(closeTo(expected(2)))
})

test('what the cache had of an input is counted as such', async () => {
  const harness = await start()
  const long = ids(...Array.from({ length: 40 }, (_, at) => at))
  await eventsOf(await harness.dispatch(embed([long])))
  const again = await eventsOf(await harness.dispatch(embed([long])))
  expect(again.at(-1)).toMatchObject({ usage: { inputTokens: 8, cachedInputTokens: 32, outputTokens: 0 } })
})

test('text is tokenised as for a completion', async () => {
  const harness = await start()
  const events = await eventsOf(await harness.dispatch(embed([{ text: 'hello world' }])))
  expect(events.at(-1)).toMatchObject({ usage: { inputTokens: 2 } })
})

describe('a refusal names its field, and nothing is computed:', () => {
  test('other dimensions than the model’s', async () => {
    const harness = await start()
    const refusal = await refusalOf(await harness.dispatch(embed([ids(1)], 32)))
    expect(refusal).toMatchObject({ status: 400, code: 'invalid_request', param: 'dimensions' })
    expect((await eventsOf(await harness.dispatch(embed([ids(1)], 64)))).at(-1)?.type).toBe('usage')
  })

  test('a model without embeddings', async () => {
    const harness = await start({ engine: { embeddingDims: 0 } })
    expect(await refusalOf(await harness.dispatch(embed([ids(1)])))).toMatchObject({ status: 400, param: 'model' })
  })

  test.each([
    ['an id outside the vocabulary', [ids(1), ids(100_000)], 'invalid_request'],
    ['a text without tokens', [{ text: '' }], 'invalid_request'],
    ['an input longer than the window', [ids(...Array.from({ length: 512 }, () => 1))], 'context_length_exceeded'],
  ])('%s', async (_, prompts: Prompt[], code) => {
    const harness = await start()
    expect(await refusalOf(await harness.dispatch(embed(prompts)))).toMatchObject({ status: 400, code, param: 'input' })
  })

  test('more tokens than one request may bring', async () => {
    const harness = await start({ engine: { contextTokens: 200_000 } })
    const half = { tokenIds: Array.from({ length: MAX_EMBEDDING_TOKENS / 2 }, () => 1) }
    const refusal = await refusalOf(await harness.dispatch(embed([half, half, ids(1)])))
    expect(refusal).toMatchObject({ status: 400, param: 'input' })
  })

  test('more values than one answer may hold', async () => {
    const harness = await start({ engine: { embeddingDims: 4096 } })
    const refusal = await refusalOf(await harness.dispatch(embed(Array.from({ length: 257 }, () => ids(1)))))
    expect(refusal).toMatchObject({ status: 400, param: 'input', message: expect.stringContaining('256') })
  })
})

test('an engine that dies ends the answer with engine_lost and the counts so far', async () => {
  const harness = await start({ engine: { stuck: true } })
  const pending = harness.dispatch(embed([ids(1, 2), ids(3)]))
  await until(() => harness.agent.openDispatches === 1)
  const response = await pending
  process.kill(harness.agent.enginePid ?? 0, 'SIGKILL')
  const events = await eventsOf(response)
  expect(events.at(-1)).toMatchObject({ type: 'error', code: 'engine_lost', usage: { inputTokens: 3 } })
})

test('a caller that goes away frees its sequences', async () => {
  const harness = await start({ engine: { tokenIntervalMs: 20, sequencesMax: 2 } })
  const abort = new AbortController()
  const response = await harness.dispatch(embed(Array.from({ length: 500 }, () => ids(1))), abort.signal)
  expect(response.status).toBe(200)
  abort.abort()
  await until(() => harness.agent.openDispatches === 0)
  await until(async () => /num_requests_running\{.*\} 0$/m.test(await (await fetch(`${harness.url}/metrics`)).text()))
})

test('a vector cut short is brought back to length 1, and one of zeros stays one', () => {
  const values = Buffer.from(unitVector([3, 4, 100], 2), 'base64')
  expect([values.readFloatLE(0), values.readFloatLE(4)]).toEqual([expect.closeTo(0.6, 6), expect.closeTo(0.8, 6)])
  expect(Buffer.from(unitVector([0, 0], 2), 'base64')).toEqual(Buffer.alloc(8))
})
