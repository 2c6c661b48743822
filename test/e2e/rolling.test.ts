// Every part of the system is restarted, one after the other, while callers go on at a steady rate. Whoever follows the documented
// rules of asking again sees no failure and the very answer of a quiet system, and each request is billed once.
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import OpenAI from 'openai'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { answeredBy, Penstock } from '../../sdk/src/index.ts'
import { FurtherAgent } from './support/agent.ts'
import { System, TINY_MODEL } from './support/system.ts'

/** Between two calls: what two cores serve beside restarting engines. */
const CALL_EVERY_MS = 120
/** Of undisturbed load before, between and after restarts. */
const QUIET_MS = 700
/** As the gateway's official clients are told to: a restart of the gateway takes some seconds. */
const RETRIES = 5
/** Between two looks for a response that nobody follows. */
const POLL_MS = 100
/** Tokens of an answer that is open over the whole restart of the gateway. */
const LONG_TOKENS = 4000
const WORDS = 'river water stone valley mountain rain sea boat bridge fish tree wind cloud sun moon star'.split(' ')

type Question = { max_tokens: number; temperature: number; seed?: number; top_p?: number; content: string }

/** Another for each number; each third one long enough for a prefill engine, and both greedy and drawn. */
const QUESTIONS: Question[] = Array.from({ length: 12 }, (_, index) => ({
  max_tokens: [16, 60, 150, 400][index % 4] ?? 16,
  ...(index % 2 === 0 ? { temperature: 0 } : { temperature: 0.9, top_p: 0.95, seed: 100 + index }),
  content: Array.from({ length: index % 3 === 0 ? 700 : 8 }, (_, at) => WORDS[(at * (index + 3)) % 16]).join(' '),
}))
/** Asked once: as long as a restart of the gateway takes, and longer. */
const LONG = QUESTIONS.push({ max_tokens: LONG_TOKENS, temperature: 0, content: 'a long river' }) - 1

const chatOf = ({ content, ...rest }: Question) => ({
  model: TINY_MODEL,
  ...rest,
  messages: [{ role: 'user' as const, content }],
})

type Said = { text: string; requestId: string | undefined }
type Call = { kind: string; question: number; startedMs: number; endedMs: number; said?: Said; error?: string }

let system: System
let other: FurtherAgent
let key: { id: string; key: string; org: string }
let texts: string[]
let openai: OpenAI
let penstock: Penstock
const calls: Call[] = []

beforeAll(async () => {
  system = await System.start({ model: TINY_MODEL, args: ['--engines', 'prefill,decode', '--threads', '1'] })
  other = await FurtherAgent.join(system, ['--engines', 'prefill,decode', '--threads', '1'])
  key = await system.newKey()
  openai = new OpenAI({ baseURL: `${system.baseUrl}/v1`, apiKey: key.key, maxRetries: RETRIES })
  penstock = new Penstock({ gateway: { baseUrl: system.baseUrl, apiKey: key.key }, attemptsMax: RETRIES + 1 })
  texts = []
  for (const question of QUESTIONS) {
    const { choices } = await system.client.chat.completions.create(chatOf(question))
    texts.push(choices[0]?.message.content ?? '')
  }
})
afterAll(async () => {
  await other?.end('SIGKILL').catch(() => {})
  await system?.discard()
})

const KINDS: Record<string, (question: Question) => Promise<Said>> = {
  'official client': async (question) => {
    const { data, request_id: requestId } = await openai.chat.completions.create(chatOf(question)).withResponse()
    return { text: data.choices[0]?.message.content ?? '', requestId: requestId ?? undefined }
  },
  'official client, stream': async (question) => {
    const { data, request_id: requestId } = await openai.chat.completions
      .create({ ...chatOf(question), stream: true })
      .withResponse()
    let text = ''
    for await (const chunk of data) text += chunk.choices[0]?.delta.content ?? ''
    return { text, requestId: requestId ?? undefined }
  },
  'own client': async (question) => {
    const answer = await penstock.chat.completions.create(chatOf(question))
    return { text: answer.choices[0]?.message.content ?? '', requestId: answeredBy(answer)?.requestId }
  },
  'own client, stream': async (question) => {
    const stream = await penstock.chat.completions.create({ ...chatOf(question), stream: true })
    let text = ''
    for await (const chunk of stream) text += 'choices' in chunk ? (chunk.choices[0]?.delta?.content ?? '') : ''
    return { text, requestId: stream.requestId }
  },
  'own client, stream that it may take up': async (question) => {
    const stream = await penstock.chat.completions.create({ ...chatOf(question), stream: true }, { resume: true })
    let text = ''
    for await (const chunk of stream) text += 'choices' in chunk ? (chunk.choices[0]?.delta?.content ?? '') : ''
    return { text, requestId: stream.requestId }
  },
  'background response': async ({ content, max_tokens, ...sampling }) => {
    const { seed: _, ...rest } = sampling
    const stream = await penstock.responses.create({
      model: TINY_MODEL,
      input: content,
      max_output_tokens: max_tokens,
      ...rest,
      background: true,
      stream: true,
    })
    let text = ''
    for await (const event of stream) if (event.type === 'response.output_text.delta') text += event.delta
    return { text, requestId: stream.requestId }
  },
  'background response, not followed': async ({ content, max_tokens, ...sampling }) => {
    const { seed: _, ...rest } = sampling
    const asked = { model: TINY_MODEL, input: content, max_output_tokens: max_tokens, ...rest, background: true }
    let response = await penstock.responses.create(asked)
    const requestId = answeredBy(response)?.requestId
    while (response.status === 'queued' || response.status === 'in_progress') {
      await sleep(POLL_MS)
      response = await penstock.responses.retrieve(response.id)
    }
    const [message] = response.output as { content?: { text?: string }[] }[]
    return { text: message?.content?.[0]?.text ?? response.status, requestId }
  },
}

/** Whatever becomes of it is in `calls`. */
async function call(kind: string, question: number): Promise<void> {
  const made: Call = { kind, question, startedMs: performance.now(), endedMs: 0 }
  calls.push(made)
  try {
    const said = await KINDS[kind]?.(QUESTIONS[question] as Question)
    Object.assign(made, { said })
  } catch (error) {
    Object.assign(made, { error: wordsOf(error) })
  }
  made.endedMs = performance.now()
}

/** Calls at a steady rate, whatever becomes of those before, until it is told to end. */
async function load(signal: AbortSignal): Promise<void> {
  const open: Promise<unknown>[] = []
  for (let index = 0; !signal.aborted; index++) {
    const kinds = Object.keys(KINDS)
    const kind = kinds[index % kinds.length] ?? ''
    // Background responses take no seed.
    const questions = QUESTIONS.flatMap(({ seed }, at) =>
      at !== LONG && (!kind.startsWith('background') || !seed) ? [at] : [],
    )
    open.push(call(kind, questions[Math.floor(index / kinds.length) % questions.length] ?? 0))
    await sleep(CALL_EVERY_MS)
  }
  await Promise.all(open)
}

const wordsOf = (error: unknown): string => {
  const { name, message, cause } = error as Error
  return `${name}: ${message}${cause === undefined ? '' : ` (${wordsOf(cause)})`}`
}

/** In the order of their start: the launcher's own roles are prefill, then decode. */
async function childrenOf(pid: number): Promise<number[]> {
  const lists = (await readdir(`/proc/${pid}/task`)).map((thread) =>
    readFile(`/proc/${pid}/task/${thread}/children`, 'utf8'),
  )
  return (await Promise.all(lists)).flatMap((list) => list.split(' ').filter(Boolean).map(Number)).sort((a, b) => a - b)
}

type Backend = { id: string; state: string; models: { role: string; draining: boolean; sequences_running: number }[] }

async function backends(): Promise<Backend[]> {
  const { status, body } = await system.admin<{ data: Backend[] }>('GET', '/backends')
  return status === 200 ? body.data : []
}

/** Both hosts with both engines, none of which is away. */
const untilAllServe = (count = 2) =>
  System.until(async () => {
    const live = (await backends().catch(() => [])).filter(
      ({ state, models }) => state === 'live' && models.length === 2,
    )
    return live.filter(({ models }) => models.every(({ draining }) => !draining)).length >= count
  })

async function drain(id: string): Promise<void> {
  await system.admin('PATCH', `/backends/${id}`, { draining: true })
  await System.until(async () => (await backends()).some((one) => one.id === id && one.state === 'draining'))
  await System.until(async () =>
    (await backends()).some((one) => one.id === id && one.models.every((engine) => engine.sequences_running === 0)),
  )
}

/** The process has gone; the launcher's next one is of another number. */
const untilGone = (pid: number) =>
  System.until(async () =>
    readFile(`/proc/${pid}/stat`).then(
      () => false,
      () => true,
    ),
  )

/** On a quiet machine a minute is more than enough; on one that does other things, agents take long to come up. */
const TEST_MS = 240_000

it('every part is restarted under load, and no caller notices', { timeout: TEST_MS }, async () => {
  const ending = new AbortController()
  const running = load(ending.signal)
  const [launchers] = (await backends()).map(({ id }) => id).filter((id) => id !== other.backendId)
  const agentPid = system.pids.agent
  const [prefill, decode] = await childrenOf(agentPid)
  const step = async (what: string, work: () => Promise<unknown>) => {
    await sleep(QUIET_MS)
    const startedMs = performance.now()
    const before = calls.length
    await work()
    const failed = calls.filter(({ error }) => error !== undefined).length
    console.log(
      `${what}: ${Math.round(performance.now() - startedMs)} ms, ${calls.length - before} calls, ${failed} failed so far`,
    )
  }

  for (const [what, pid] of [
    ['decode engine', decode],
    ['prefill engine', prefill],
  ] as const) {
    await step(what, async () => {
      process.kill(pid as number, 'SIGTERM')
      await untilGone(pid as number)
      // Reports trail: until its successor is there, the fleet may still be shown as it was.
      await System.until(async () => (await childrenOf(agentPid)).filter((child) => child !== pid).length === 2)
      await untilAllServe()
    })
  }
  await step('agent A, drained first', async () => {
    await drain(launchers as string)
    process.kill(agentPid, 'SIGTERM')
    await untilGone(agentPid)
    await system.admin('PATCH', `/backends/${launchers}`, { draining: false })
    await untilAllServe()
  })
  await step('agent B, another takes its place', async () => {
    await drain(other.backendId)
    expect(await other.end('SIGTERM')).toBe(0)
    other = await FurtherAgent.join(system, ['--engines', 'prefill,decode', '--threads', '1'])
    await untilAllServe()
  })
  await step('gateway, with a stream that outlasts it', async () => {
    const outlasting = call('official client, stream', LONG)
    system.askForNewGateway()
    await outlasting
    await untilGone(system.pids.gateway)
    await untilAllServe()
  })
  await step('Postgres', async () => {
    process.kill(system.pids.postgres as number, 'SIGINT')
    await untilGone(system.pids.postgres as number)
    await System.until(() => system.sql`SELECT 1`.catch(() => undefined))
  })
  await sleep(QUIET_MS)
  ending.abort()
  await running

  const failed = calls.filter(({ error }) => error !== undefined)
  expect(failed.map(({ kind, question, error }) => `${kind}, question ${question}: ${error}`)).toEqual([])
  for (const { kind, question, said } of calls)
    expect({ kind, text: said?.text }).toEqual({ kind, text: texts[question] })
  const slowest = Math.max(...calls.map(({ startedMs, endedMs }) => endedMs - startedMs))
  console.log(`${calls.length} calls, the slowest took ${Math.round(slowest)} ms`)
})

it('each is billed once, nothing stays held, and the books agree', async () => {
  const ids = calls.map(({ said }) => (said?.requestId ?? '').replace(/^req_/, ''))
  expect(new Set(ids).size).toBe(calls.length)
  await System.until(async () => {
    const [row] = await system.sql`SELECT count(*)::int AS count FROM usage_requests WHERE key_id = ${key.id}`
    return row?.count >= calls.length
  })
  const rows = await system.sql`SELECT request_id, status FROM usage_requests WHERE key_id = ${key.id}`
  expect(rows.map((row) => `${row.request_id} ${row.status}`).sort()).toEqual(ids.map((id) => `${id} ok`).sort())
  const attempts = await system.sql`
    SELECT request_id, count(*)::int AS count, sum(output_text + output_reasoning)::int AS output FROM usage_attempts
    WHERE key_id = ${key.id} AND charge = 'customer' GROUP BY request_id`
  const outputs = new Map(attempts.map((row) => [row.request_id, { count: row.count, output: row.output }]))
  for (const [index, { question }] of calls.entries()) {
    const { max_tokens } = QUESTIONS[question] as Question
    expect(outputs.get(ids[index])).toEqual({ count: 1, output: max_tokens })
  }
  const state = await System.until(async () => {
    const { body } = await system.admin<{ held_nanousd: string }>('GET', `/organisations/${key.org}/limits/state`)
    return body.held_nanousd === '0' ? body : undefined
  })
  expect(state.held_nanousd).toBe('0')
  const check = await system.admin<object>('GET', `/ledger/check?org=${key.org}`)
  expect(check.body).toMatchObject({ ok: true, balanced: true, complete: true, matches_usage: true })
  await system.untilIdle()
})
