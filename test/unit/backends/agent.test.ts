// The whole agent over real sockets and a real child process that speaks the engine's frames.
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { DISPATCH_BODY_BYTES_MAX } from '../../../backends/http-body.ts'
import { DispatchRefusal } from '../../../protocol/dispatch.ts'
import {
  eventStream,
  eventsOf,
  type Harness,
  type HarnessOptions,
  startHarness,
  textOf,
  until,
} from './support/harness.ts'
import { idOf, testModelFile } from './support/test-model.ts'

let running: Harness | undefined
const start = async (options?: HarnessOptions): Promise<Harness> => {
  running = await startHarness(options)
  return running
}
afterEach(async () => {
  await running?.stop()
  running = undefined
})

const completion = (text: string) => ({ kind: 'completion' as const, prompts: [{ text }], echo: false })
const file = testModelFile()

test('a completion streams text and ends with one finish and the usage', async () => {
  const { dispatch } = await start()
  const response = await dispatch()
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toBe('application/x-ndjson')
  const events = await eventsOf(response)
  expect(events[0]).toMatchObject({ type: 'accepted', usage: { inputTokens: 2, outputTokens: 0 } })
  expect(events[1]?.type).toBe('capacity')
  expect(textOf(events)).toBe('hello worldhello worldhello world')
  expect(events.filter((event) => event.type === 'finish')).toEqual([
    { type: 'finish', choice: 0, reason: 'length', outputTokens: 6 },
  ])
  expect(events.at(-1)).toEqual({ type: 'usage', usage: { inputTokens: 2, cachedInputTokens: 0, outputTokens: 6 } })
})

test('a chat goes through the template and stops at the end-of-turn token, which is counted and not shown', async () => {
  const { dispatch } = await start()
  const input = { kind: 'chat' as const, messages: [{ role: 'developer' as const, content: 'hello' }] }
  const events = await eventsOf(await dispatch({ input, maxOutputTokens: 100 }))
  // The fake engine repeats the prompt: <|im_start|>system\nhello<|im_end|> … and the first end token ends it.
  expect(textOf(events)).toBe('system\nhello')
  const usage = events.at(-1)
  expect(usage).toMatchObject({ type: 'usage' })
  const finish = events.find((event) => event.type === 'finish')
  expect(finish).toEqual({ type: 'finish', choice: 0, reason: 'stop', outputTokens: 1 + 'system\n'.length + 1 + 1 })
})

test('every choice of every prompt has its own index, and prompts are counted once each', async () => {
  const { dispatch } = await start()
  const prompts = [{ text: 'hello' }, { tokenIds: [idOf(file, 'Ġworld'), idOf(file, 'hello')] }]
  const events = await eventsOf(
    await dispatch({ input: { kind: 'completion', prompts, echo: false }, n: 2, maxOutputTokens: 2 }),
  )
  expect([0, 1, 2, 3].map((choice) => textOf(events, choice))).toEqual([
    'hellohello',
    'hellohello',
    ' worldhello',
    ' worldhello',
  ])
  expect(events.at(-1)).toEqual({ type: 'usage', usage: { inputTokens: 3, cachedInputTokens: 0, outputTokens: 8 } })
})

test('echo sends the prompt first and counts none of it as output', async () => {
  const { dispatch } = await start()
  const events = await eventsOf(
    await dispatch({ input: { ...completion('hello world'), echo: true }, maxOutputTokens: 1 }),
  )
  expect(textOf(events)).toBe('hello worldhello')
  expect(events.at(-1)).toMatchObject({ usage: { outputTokens: 1 } })
})

test('a stop string across tokens ends the text before it and counts the tokens that were sampled', async () => {
  const { dispatch } = await start({ engine: { tokenIntervalMs: 20 } })
  const events = await eventsOf(await dispatch({ stop: ['rldhe'], maxOutputTokens: 400 }))
  expect(textOf(events)).toBe('hello wo')
  const finish = events.find((event) => event.type === 'finish')
  const outputTokens = finish?.type === 'finish' ? finish.outputTokens : 0
  expect(finish).toMatchObject({ reason: 'stop' })
  expect(outputTokens).toBeGreaterThanOrEqual(3)
  expect(outputTokens).toBeLessThan(400)
  expect(events.at(-1)).toMatchObject({ type: 'usage', usage: { outputTokens } })
})

test('logprobs come with the text of their tokens', async () => {
  const { dispatch } = await start()
  const events = await eventsOf(await dispatch({ logprobs: { top: 2 }, maxOutputTokens: 3 }))
  const entries = events.flatMap((event) => (event.type === 'delta' ? (event.logprobs ?? []) : []))
  expect(entries.map((entry) => entry.text)).toEqual(['hello', ' world', 'hello'])
  expect(entries[0]?.bytes).toEqual([...Buffer.from('hello')])
  expect(entries.every((entry) => entry.top.length === 2)).toBe(true)
})

test('refusals before the stream name the fault and the field', async () => {
  const { dispatch, post } = await start({ engine: { contextTokens: 64, sequencesMax: 4 } })
  const refusal = async (response: Response) => ({
    status: response.status,
    ...DispatchRefusal.parse(await response.json()),
  })
  const long = await refusal(await dispatch({ input: completion('hello '.repeat(100)) }))
  expect(long).toMatchObject({ status: 400, code: 'context_length_exceeded', param: 'prompt' })
  expect(long.message).toMatch(/has \d+ tokens; the context window holds 64/)
  const huge = { kind: 'chat' as const, messages: [{ role: 'user' as const, content: '<|im_end|>'.repeat(100_000) }] }
  expect(await refusal(await dispatch({ input: huge }))).toMatchObject({ code: 'context_length_exceeded' })
  expect(await refusal(await dispatch({ model: 'other' }))).toMatchObject({ status: 404, code: 'model_not_found' })
  expect(await refusal(await dispatch({ n: 5 }))).toMatchObject({ status: 400, code: 'invalid_request', param: 'n' })
  expect(await refusal(await dispatch({ input: completion('') }))).toMatchObject({
    status: 400,
    code: 'invalid_request',
  })
  const badIds = { kind: 'completion' as const, prompts: [{ tokenIds: [999_999] }], echo: false }
  expect(await refusal(await dispatch({ input: badIds }))).toMatchObject({ status: 400, param: 'prompt' })
  expect(await refusal(await post('{"version":1'))).toMatchObject({ status: 400, code: 'invalid_request' })
  expect(await refusal(await post('{"version":1}'))).toMatchObject({ status: 400, code: 'invalid_request' })
  expect(await refusal(await dispatch({ n: 0 }))).toMatchObject({ status: 400, param: 'n' })
})

test('an answer is cut at the end of the context window', async () => {
  const { dispatch } = await start({ engine: { contextTokens: 32 } })
  const events = await eventsOf(await dispatch({ maxOutputTokens: 1_000_000 }))
  expect(events.find((event) => event.type === 'finish')).toMatchObject({ reason: 'length', outputTokens: 30 })
})

test('kill -9 of the engine in mid-stream ends the stream with engine_lost and the counts, and the next dispatch works', async () => {
  const harness = await start({ engine: { tokenIntervalMs: 10 } })
  const response = await harness.dispatch({ maxOutputTokens: 400 })
  const events = []
  let killed = false
  for await (const event of eventStream(response)) {
    events.push(event)
    if (event.type === 'delta' && event.outputTokens >= 5 && !killed) {
      killed = true
      process.kill(harness.agent.enginePid ?? 0, 'SIGKILL')
    }
  }
  const deltas = events.filter((event) => event.type === 'delta')
  expect(events.at(-1)).toMatchObject({
    type: 'error',
    code: 'engine_lost',
    usage: { inputTokens: 2, cachedInputTokens: 0, outputTokens: deltas.at(-1)?.outputTokens },
  })
  await until(async () => (await fetch(`${harness.url}/health`)).status === 200)
  expect(textOf(await eventsOf(await harness.dispatch({ maxOutputTokens: 1 })))).toBe('hello')
  expect(harness.agent.openDispatches).toBe(0)
})

test('a caller that goes away frees its sequences', async () => {
  const harness = await start({ engine: { tokenIntervalMs: 5 } })
  const abort = new AbortController()
  const response = await harness.dispatch({ maxOutputTokens: 500, n: 3 }, abort.signal)
  for await (const event of eventStream(response)) if (event.type === 'delta') break
  abort.abort()
  await until(() => harness.agent.openDispatches === 0)
  await until(
    async () =>
      (await (await fetch(`${harness.url}/metrics`)).text()).match(/^vllm:num_requests_running\{.*\} 0$/m) !== null,
  )
  expect(await (await fetch(`${harness.url}/metrics`)).text()).toMatch(/^vllm:kv_cache_usage_perc\{.*\} 0$/m)
})

test('a reader that stands still holds the engine back, and gets everything when it reads on', async () => {
  const harness = await start({ engine: { tokenIntervalMs: 1, contextTokens: 100_000 } })
  const outputTokens = 8000
  const response = await harness.dispatch({
    maxOutputTokens: outputTokens,
    logprobs: { top: 20 },
    deadlineInMs: 60_000,
  })
  const kvShare = async () => {
    const text = await (await fetch(`${harness.url}/metrics`)).text()
    return Number(/^vllm:kv_cache_usage_perc\{.*\} ([\d.]+)$/m.exec(text)?.[1])
  }
  // Nobody reads: once the buffers are full no credit is granted and the KV use stops growing.
  let before = -1
  let now = await kvShare()
  while (now !== before || now === 0) {
    before = now
    await new Promise((resolve) => setTimeout(resolve, 500))
    now = await kvShare()
  }
  expect(now * 1024 * 16).toBeLessThan(outputTokens)
  expect((await eventsOf(response)).at(-1)).toMatchObject({ type: 'usage', usage: { outputTokens } })
})

test('the deadline ends a stream with deadline_exceeded and the counts', async () => {
  const { dispatch } = await start({ engine: { tokenIntervalMs: 10 } })
  const events = await eventsOf(await dispatch({ maxOutputTokens: 500, deadlineInMs: 300 }))
  const last = events.at(-1)
  expect(last).toMatchObject({ type: 'error', code: 'deadline_exceeded' })
  const deltas = events.filter((event) => event.type === 'delta')
  const counted = last?.type === 'error' ? (last.usage?.outputTokens ?? 0) : 0
  expect(counted).toBeGreaterThanOrEqual(deltas.at(-1)?.outputTokens ?? 1)
})

test('a model the engine refuses is reported once and not tried again', async () => {
  const harness = await start({ engine: { refuseModel: 'model.gguf: tensor 3 ends at byte 99, the file at 50' } })
  expect(harness.failures).toEqual(['model.gguf: tensor 3 ends at byte 99, the file at 50'])
  expect((await fetch(`${harness.url}/health`)).status).toBe(503)
  expect((await harness.dispatch()).status).toBe(503)
})

test('an engine that does not answer PING is replaced', async () => {
  const harness = await start({ engine: { deaf: true }, timing: { pongTimeoutMs: 100, pingIntervalMs: 20 } })
  await until(() => harness.logs.some((line) => line.includes('no PONG')))
})

test('an engine that makes no step while sequences run is replaced, and their streams end with engine_lost', async () => {
  const harness = await start({ engine: { stuck: true }, timing: { stepTimeoutMs: 300, pingIntervalMs: 20 } })
  const events = await eventsOf(await harness.dispatch())
  expect(events.at(-1)).toMatchObject({ type: 'error', code: 'engine_lost', usage: { outputTokens: 0 } })
})

test('draining refuses new work, lets open streams end, leaves the fleet and stops the engine', async () => {
  const harness = await start({ engine: { tokenIntervalMs: 10 } })
  await until(() => harness.gateway.joins.length > 0)
  const pid = harness.agent.enginePid ?? 0
  const open = await harness.dispatch({ maxOutputTokens: 30 })
  const drained = harness.agent.drain(10_000)
  expect((await harness.dispatch()).status).toBe(503)
  expect((await eventsOf(open)).at(-1)).toMatchObject({ type: 'usage', usage: { outputTokens: 30 } })
  await drained
  expect(harness.gateway.leaves).toHaveLength(1)
  expect(() => process.kill(pid, 0)).toThrow()
})

test('a refused body that is still being sent does not hide the refusal', async () => {
  const { post } = await start()
  const response = await post('x'.repeat(4 * 1024 * 1024), 'Bearer nothing')
  expect(response.status).toBe(401)
  const large = 'x'.repeat(DISPATCH_BODY_BYTES_MAX + 1)
  expect((await post(large)).status).toBe(413)
})

test('the identity file is private and keeps the backend id', async () => {
  const harness = await start()
  const { mode } = statSync(join(harness.stateDir, 'agent-identity.json'))
  expect(mode & 0o777).toBe(0o600)
  await until(() => harness.gateway.joins.length > 0)
  expect(harness.gateway.joins[0]?.backendId).toBe(harness.agent.backendId)
})
