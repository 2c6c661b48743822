// Streams that outlive their backend: wherever one dies, drains or falls silent, the next one goes on, the client reads one whole
// answer, and there is one row for it.
import { describe, expect, test } from 'vitest'
import type { DispatchEvent, DispatchRequest } from '../../protocol/dispatch.ts'
import { type AgentScript, frame, type Line, refusal, toldAnswer, usage } from './support/fake-agent.ts'
import { FLEET_TARGET, readSse, World } from './support/path.ts'

const WORDS = ['The ', 'quick ', 'brown ', 'fox ', 'jumps ', '😀.']
const TEXT = WORDS.join('')
const PATIENT = { resumeMs: 10_000 }

const lost: Line = { type: 'error', code: 'engine_lost', message: 'died', usage: usage(7, 3) }
const moved = (reason: 'draining' | 'engine_lost'): Line => ({ type: 'moved', reason, usage: usage(7, 3) })

/** What a client has read of a stream of chunks. */
function read(text: string, choice = 0) {
  const { data, done } = readSse(text)
  type Chunk = {
    choices?: {
      index: number
      delta: { content?: string; tool_calls?: { id?: string; function: { name?: string; arguments?: string } }[] }
      finish_reason: string | null
      logprobs?: { content: { logprob: number }[] } | null
    }[]
    error?: { code: string }
  }
  const chunks = data as Chunk[]
  const own = chunks.flatMap(({ choices = [] }) => choices.filter(({ index }) => index === choice))
  return {
    done,
    text: own.map(({ delta }) => delta.content ?? '').join(''),
    calls: own.flatMap(({ delta }) => delta.tool_calls ?? []),
    logprobs: own.flatMap(({ logprobs }) => logprobs?.content.map(({ logprob }) => logprob) ?? []),
    finish: own.flatMap(({ finish_reason: reason }) => reason ?? []),
    error: chunks.find(({ error }) => error !== undefined)?.error?.code,
  }
}

/** The first dispatch of a request to any of the agents is answered by `first`, those after it by `next`. */
function twoLives(first: AgentScript, next: AgentScript): { script: AgentScript; dispatches: DispatchRequest[] } {
  const dispatches: DispatchRequest[] = []
  const script: AgentScript = (dispatch) => {
    dispatches.push(dispatch)
    return dispatches.length === 1 ? first(dispatch) : next(dispatch)
  }
  return { script, dispatches }
}

const whole: AgentScript = (dispatch) => toldAnswer(dispatch, WORDS)
const cutAt =
  (cut: number, ...end: Line[]): AgentScript =>
  (dispatch) =>
    toldAnswer(dispatch, WORDS, { cut, end })

async function worldOf(script: AgentScript, agents = 2, timings = {}): Promise<World> {
  const world = new World(timings)
  for (let agent = 0; agent < agents; agent++) await world.agent(script)
  await world.catalog([FLEET_TARGET(world.model)])
  return world
}

describe('an answer whose backend', () => {
  test.each<[string, Line[]]>([
    ['is cut off', ['cut']],
    ['ends its answer too early', []],
    ['stops in the middle of a line', [{ raw: '{"type":"del' }]],
    ['sends nonsense', [{ raw: '{"type":"nonsense"}\n' }]],
    ['loses its engine', [lost]],
    ['loses its engine and says that another one can go on', [moved('engine_lost')]],
    ['drains', [moved('draining')]],
  ])('%s goes on at another one', async (_, end) => {
    const { script, dispatches } = twoLives(cutAt(3, ...end), whole)
    const world = await worldOf(script)
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: true, text: TEXT, finish: ['stop'], error: undefined })
    expect(dispatches.map(({ version, resume }) => ({ version, resume }))).toEqual([
      { version: 1, resume: undefined },
      { version: 3, resume: { choices: [{ choice: 0, tokenIds: [100, 101, 102] }] } },
    ])
    expect(dispatches[1]?.sampling).toEqual(dispatches[0]?.sampling)
    expect(dispatches[0]?.sampling.seed).toBeGreaterThan(0)
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      { attempt: 1, status: 'ok', charge: 'customer', source: 'provider', input: 7, output: WORDS.length },
    ])
    expect(attempts[0]?.route.moves).toMatchObject([{ from: expect.any(String), reason: expect.any(String) }])
    expect(requests).toEqual([{ status: 'ok', attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('is lost goes on for a client that does not stream, and the head says so', async () => {
    const world = await worldOf(twoLives(cutAt(2, 'cut'), whole).script)
    const { response, settled } = await world.chat()
    const body = (await response.json()) as { choices: { message: { content: string } }[]; usage: object }
    expect(body.choices[0]?.message.content).toBe(TEXT)
    expect(body.usage).toMatchObject({ prompt_tokens: 7, completion_tokens: WORDS.length })
    expect(response.headers.get('x-penstock-attempts')).toBe('1')
    expect(response.headers.get('x-penstock-route')).toMatch(/:moved>fleet\/.*:ok/)
    await settled()
    expect((await world.recorded()).attempts).toHaveLength(1)
  })

  test('is lost before a token was told is asked for anew elsewhere, as ever', async () => {
    const accepted: Line = { type: 'accepted', usage: usage(7, 0), queueMs: 0 }
    const { script, dispatches } = twoLives(() => [accepted, moved('draining')], whole)
    const world = await worldOf(script)
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: true, text: TEXT })
    expect(dispatches[1]?.resume).toBeUndefined()
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'backend_lost', charge: 'absorbed' },
      { status: 'ok', charge: 'customer' },
    ])
  })

  test('keeps being lost moves on as long as it comes further', async () => {
    const many = Array.from({ length: 120 }, (_, at) => `${at} `)
    let life = 0
    const world = await worldOf(
      (dispatch) => toldAnswer(dispatch, many, { cut: 20 * ++life, end: [moved('draining')] }),
      7,
    )
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: true, text: many.join('') })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', output: 120 }])
  })

  test('ends every engine that computes it ends three at most', async () => {
    let asked = 0
    const world = await worldOf((dispatch) => {
      asked++
      return toldAnswer(dispatch, WORDS, { cut: 3, end: ['cut'] })
    }, 6)
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: false, text: 'The quick brown ', error: 'backend_lost' })
    expect(asked).toBe(3)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'backend_lost', charge: 'customer', source: 'stream_partial', input: 7, output: 3 },
    ])
  })
})

describe('the next backend', () => {
  test('refuses the connection: the one after it goes on', async () => {
    const { script } = twoLives(cutAt(3, 'cut'), whole)
    const world = await worldOf(script, 1)
    const dead = await world.agent(whole)
    const last = await world.agent(script)
    world.hosts.delete(new URL(dead.url).host)
    // Asked first, second and third.
    await dead.report([frame(world.model, { sequencesRunning: 3, sequence: 2 })])
    await last.report([frame(world.model, { sequencesRunning: 7, sequence: 2 })])
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: true, text: TEXT })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', output: WORDS.length }])
  })

  test.each([
    ['is full for a moment', () => refusal(429, 'overloaded', 300)],
    ['has just lost its engine', () => refusal(503, 'engine_lost', 300)],
  ])('%s: it is asked again', async (_, refuse) => {
    let asked = 0
    const { script } = twoLives(cutAt(3, 'cut'), (dispatch) => (asked++ === 0 ? refuse() : whole(dispatch)))
    const world = await worldOf(script, 2, PATIENT)
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: true, text: TEXT })
    await settled()
    expect((await world.recorded()).attempts).toHaveLength(1)
  })

  test('cannot take it for good: it is not asked twice, and the stream ends with a typed error', async () => {
    const { script, dispatches } = twoLives(cutAt(3, 'cut'), () => refusal(400, 'invalid_request'))
    const world = await worldOf(script, 2, { resumeMs: 1500 })
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: false, text: 'The quick brown ', error: 'backend_lost' })
    expect(dispatches).toHaveLength(2)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'backend_lost', output: 3 }])
  })

  test('says that its engine refuses it: that is no fault of the caller', async () => {
    const bad: Line = { type: 'error', code: 'invalid_request', message: 'a token that the grammar forbids' }
    const world = await worldOf(twoLives(cutAt(3, 'cut'), () => [bad]).script)
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: false, text: 'The quick brown ', error: 'backend_lost' })
    await settled()
  })

  test('says something else: the stream ends with a typed error, and none of it goes on', async () => {
    const others = ['The ', 'slow ', 'brown ', 'ox ', 'sits.']
    const world = await worldOf(twoLives(cutAt(3, 'cut'), (dispatch) => toldAnswer(dispatch, others)).script)
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: false, text: 'The quick brown ', error: 'backend_lost' })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'backend_lost', charge: 'customer', output: 3 }])
  })

  test('is the same one with a new engine, after a while', async () => {
    const world = new World(PATIENT)
    const agent = await world.agent(cutAt(3, lost))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream: true })
    const text = response.text()
    await expect.poll(() => agent.dispatches.length).toBe(1)
    // Its engine is gone from its reports, and then another one is there.
    await agent.report([])
    agent.script = whole
    await new Promise((resolve) => setTimeout(resolve, 600))
    await agent.report([frame(world.model, { epoch: 'engine-2' })])
    expect(read(await text)).toMatchObject({ done: true, text: TEXT })
    expect(agent.dispatches).toHaveLength(2)
    expect(agent.dispatches[1]?.deadlineInMs).toBeLessThan((agent.dispatches[0]?.deadlineInMs ?? 0) - 500)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', input: 7, output: WORDS.length }])
  })

  test('does not come within the wait: the stream ends with a typed error, and what was counted is charged', async () => {
    const world = await worldOf(cutAt(3, moved('draining')), 1, { resumeMs: 700 })
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({ done: false, text: 'The quick brown ', error: 'backend_lost' })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'backend_lost', charge: 'customer', source: 'provider', input: 7, output: 3 },
    ])
  })

  test('does not come because all have left, as at a shutdown: that is not waited for as long', async () => {
    const left = Promise.withResolvers<void>()
    const world = await worldOf(cutAt(3, { wait: left.promise }, moved('draining')), 1, { resumeMs: 60_000 })
    const [agent] = world.agents
    const { response, settled } = await world.chat({ stream: true })
    await agent?.report([])
    left.resolve()
    expect(read(await response.text())).toMatchObject({ done: false, error: 'backend_lost' })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'backend_lost', output: 3 }])
  })

  test('does not come before the deadline: that is the error, and the count is the backend’s own', async () => {
    const world = await worldOf(cutAt(3, moved('draining')), 1, { ...PATIENT, deadlineMs: 1500 })
    const { response, settled } = await world.chat({ stream: true })
    expect(read(await response.text())).toMatchObject({
      done: false,
      text: 'The quick brown ',
      error: 'deadline_exceeded',
    })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'deadline_exceeded', source: 'provider', input: 7, output: 3 },
    ])
  })

  test('is not waited for where nothing has gone on: another target answers', async () => {
    const told: Line = { type: 'tokens', choice: 0, ids: [100] }
    const accepted: Line = { type: 'accepted', usage: usage(7, 0), queueMs: 0 }
    const world = new World(PATIENT)
    await world.agent(() => [accepted, told, 'cut'])
    const vendor = await world.provider(() =>
      Response.json({
        choices: [{ index: 0, message: { role: 'assistant', content: 'bought' }, finish_reason: 'stop' }],
        usage: { prompt_tokens: 3, completion_tokens: 1, total_tokens: 4 },
      }),
    )
    await world.catalog([FLEET_TARGET(world.model), { provider: vendor, model: 'm', context_tokens: 2048 }])
    const { response, settled } = await world.chat()
    expect(await response.text()).toContain('bought')
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { provider: 'fleet', status: 'backend_lost', charge: 'absorbed' },
      { provider: vendor, status: 'ok', charge: 'customer' },
    ])
  })
})

test('a backend that falls silent, and that the fleet hears no more of, is left', async () => {
  const world = new World(PATIENT)
  const never = new Promise(() => {})
  const silent = await world.agent(cutAt(3, { wait: never }))
  await world.catalog([FLEET_TARGET(world.model)])
  const { response, settled } = await world.chat({ stream: true })
  const text = response.text()
  await expect.poll(() => silent.dispatches.length).toBe(1)
  const heir = await world.agent(whole)
  const alive = setInterval(() => void heir.report([frame(world.model)]).catch(() => {}), 500)
  expect(read(await text)).toMatchObject({ done: true, text: TEXT })
  clearInterval(alive)
  expect(silent.cancelled).toBe(1)
  await settled()
  expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', output: WORDS.length }])
})

test('a client that leaves while its stream waits ends the wait, and pays what was counted', async () => {
  const world = await worldOf(cutAt(3, moved('draining')), 1, PATIENT)
  const leaving = new AbortController()
  const { response, settled } = await world.chat({ stream: true }, { signal: leaving.signal })
  const reader = response.body?.getReader()
  let text = ''
  while (!text.includes('brown')) text += new TextDecoder().decode((await reader?.read())?.value)
  leaving.abort()
  await reader?.cancel().catch(() => {})
  await settled()
  const { attempts, holds } = await world.recorded()
  expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', input: 7, output: 3 }])
  expect(holds).toBe(0)
})

test('each of several choices goes on where it was, and those that are over are not computed again', async () => {
  const first: DispatchEvent[] = [
    { type: 'accepted', usage: usage(7, 0), queueMs: 0 },
    { type: 'accepted', usage: usage(4, 0, 3), queueMs: 0 },
    { type: 'tokens', choice: 0, ids: [1, 2] },
    { type: 'delta', choice: 0, text: 'all of it', outputTokens: 2 },
    { type: 'tokens', choice: 1, ids: [5] },
    { type: 'delta', choice: 1, text: 'half', outputTokens: 1 },
    { type: 'finish', choice: 0, reason: 'stop', outputTokens: 3 },
    { type: 'moved', reason: 'draining', usage: usage(4, 4, 3) },
  ]
  const next: DispatchEvent[] = [
    { type: 'accepted', usage: usage(7, 0), queueMs: 0 },
    { type: 'delta', choice: 1, text: 'half', outputTokens: 1 },
    { type: 'tokens', choice: 1, ids: [6] },
    { type: 'delta', choice: 1, text: ' and half', outputTokens: 2 },
    { type: 'finish', choice: 1, reason: 'length', outputTokens: 2 },
    { type: 'usage', usage: usage(1, 2, 6) },
  ]
  const { script, dispatches } = twoLives(
    () => first,
    () => next,
  )
  const world = await worldOf(script)
  const { response, settled } = await world.chat({ stream: true, n: 2 })
  const text = await response.text()
  expect(read(text, 0)).toMatchObject({ done: true, text: 'all of it', finish: ['stop'] })
  expect(read(text, 1)).toMatchObject({ text: 'half and half', finish: ['length'] })
  expect(dispatches[1]?.resume).toEqual({ choices: [{ choice: 1, tokenIds: [5] }] })
  await settled()
  // The prompt as the first one found it, the output of both.
  expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', input: 4, cached: 3, output: 5 }])
})

test('a tool call goes on in the middle of its arguments, under the same id', async () => {
  const head = { type: 'tool_call' as const, choice: 0, call: 0, outputTokens: 1 }
  const first: Line[] = [
    { type: 'accepted', usage: usage(7, 0), queueMs: 0 },
    { type: 'tokens', choice: 0, ids: [1] },
    { type: 'delta', choice: 0, text: 'Look: ', outputTokens: 1 },
    { ...head, id: 'call_a', name: 'look', arguments: '{"at":' },
    'cut',
  ]
  const next: Line[] = [
    { type: 'delta', choice: 0, text: 'Look: ', outputTokens: 1 },
    { ...head, id: 'call_a', name: 'look', arguments: '{"at":"sky"}' },
    { type: 'finish', choice: 0, reason: 'tool_calls', outputTokens: 9 },
    { type: 'usage', usage: usage(7, 9) },
  ]
  const { script, dispatches } = twoLives(
    () => first,
    () => next,
  )
  const world = await worldOf(script)
  const tools = [{ type: 'function', function: { name: 'look', parameters: { type: 'object' } } }]
  const { response, settled } = await world.chat({ stream: true, tools })
  const { calls, text, finish } = read(await response.text())
  expect(text).toBe('Look: ')
  expect(calls.flatMap(({ id, function: { name } }) => (id === undefined ? [] : [{ id, name }]))).toEqual([
    { id: 'call_a', name: 'look' },
  ])
  expect(calls.map(({ function: { arguments: part } }) => part ?? '').join('')).toBe('{"at":"sky"}')
  expect(finish).toEqual(['tool_calls'])
  expect(dispatches[1]).toMatchObject({ version: 3, requestId: dispatches[0]?.requestId })
  await settled()
  expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', output: 9 }])
})

test('no probability is lost or told twice', async () => {
  // The third token was told, and its text and probability were not.
  const first: AgentScript = (dispatch) => [
    ...toldAnswer(dispatch, WORDS, { cut: 2, end: [{ type: 'tokens', choice: 0, ids: [102] }, 'cut'] }),
  ]
  const { script, dispatches } = twoLives(first, whole)
  const world = await worldOf(script)
  const { response, settled } = await world.chat({ stream: true, logprobs: true })
  const { text, logprobs } = read(await response.text())
  expect(text).toBe(TEXT)
  expect(logprobs.map(Math.abs)).toEqual(WORDS.map((_, at) => at))
  expect(dispatches[1]?.resume).toEqual({ choices: [{ choice: 0, tokenIds: [100, 101] }] })
  await settled()
})

test('an answer of which only the last count is missing is whole', async () => {
  const { script, dispatches } = twoLives(
    (dispatch) => [...toldAnswer(dispatch, WORDS).slice(0, -1), 'cut'],
    () => refusal(500, 'internal'),
  )
  const world = await worldOf(script)
  const { response, settled } = await world.chat({ stream: true })
  expect(read(await response.text())).toMatchObject({ done: true, text: TEXT, finish: ['stop'] })
  expect(dispatches).toHaveLength(1)
  await settled()
  expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', input: 7, output: WORDS.length }])
})
