// Streams that their clients can come back to, in each dialect: the same events as a plain one has, numbered; the rest of them for whoever
// comes back, also after their object died; nobody else's; ended by a word, by neglect, and never by a connection alone.
import { createExecutionContext, env, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { RunStore } from '../../gateway/runs/run-store.ts'
import { STREAM_KEPT_MS, STREAM_UNATTENDED_MS } from '../../gateway/runs/stored-run.ts'
import type { DispatchRequest } from '../../protocol/dispatch.ts'
import { admin, type Json, newTenant } from './support/admin.ts'
import { type AgentScript, toldAnswer } from './support/fake-agent.ts'
import { gate, type World } from './support/path.ts'
import { kill, storedAt, worldOf } from './support/responses.ts'
import { late, never, piece, target } from './support/vendor.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const WORDS = ['The ', 'quick ', 'brown ', 'fox ', 'jumps ', '😀.']
const TEXT = WORDS.join('')
const RESUMABLE = { 'x-penstock-resumable': 'true' }
const VERSION = { 'anthropic-version': '2023-06-01' }

type Event = { id: number | undefined; name: string; data: string }

const DIALECTS = {
  chat: {
    path: '/v1/chat/completions',
    body: { messages: [{ role: 'user', content: 'hi' }], stream_options: { include_usage: true } },
    headers: {},
    textOf: (value: Json) => value.choices?.[0]?.delta?.content ?? '',
    errorOf: (value: Json) => value.error?.code,
  },
  completions: {
    path: '/v1/completions',
    body: { prompt: 'hi', max_tokens: 20 },
    headers: {},
    textOf: (value: Json) => value.choices?.[0]?.text ?? '',
    errorOf: (value: Json) => value.error?.code,
  },
  responses: {
    path: '/v1/responses',
    body: { input: 'hi', store: false },
    headers: {},
    textOf: (value: Json) => (value.type === 'response.output_text.delta' ? value.delta : ''),
    errorOf: (value: Json) => value.response?.error?.code,
  },
  messages: {
    path: '/v1/messages',
    body: { max_tokens: 20, messages: [{ role: 'user', content: 'hi' }] },
    headers: VERSION,
    textOf: (value: Json) => value.delta?.text ?? '',
    errorOf: (value: Json) => value.error?.details?.error_code,
  },
} as const
type Dialect = keyof typeof DIALECTS
const NAMES = Object.keys(DIALECTS) as Dialect[]

const parsed = (text: string): Event[] =>
  text
    .split('\n\n')
    .filter((block) => block.includes('data: '))
    .map((block) => {
      const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1]
      const id = field('id')
      return { id: id === undefined ? undefined : Number(id), name: field('event') ?? '', data: field('data') ?? '' }
    })
const json = (data: string): Json => (data === '[DONE]' ? {} : JSON.parse(data))
const textOf = (dialect: Dialect, events: Event[]) =>
  events.map(({ data }) => DIALECTS[dialect].textOf(json(data))).join('')
/** Without what differs from call to call. */
const shapeOf = (events: Event[]) =>
  events.map(
    ({ name, data }) =>
      `${name} ${data.replace(/[0-9a-f]{32}|[0-9a-f-]{36}|"created(_at)?":\d+|"completed_at":\d+/g, '')}`,
  )

async function open(world: World, dialect: Dialect, headers: Record<string, string> = {}, over = {}) {
  const { path, body, headers: own } = DIALECTS[dialect]
  const client = new AbortController()
  const asked = { model: world.model, stream: true, ...body, ...over }
  const { response, settled } = await world.send(path, asked, {
    headers: { ...own, ...headers },
    signal: client.signal,
  })
  return { response, settled, leave: () => client.abort(), id: response.headers.get('x-penstock-stream-id') ?? '' }
}

/** Reads until `word` has come, and leaves. */
async function readUntil(response: Response, word: string): Promise<Event[]> {
  const reader = response.body?.getReader()
  const decoder = new TextDecoder()
  let seen = ''
  while (!seen.includes(word)) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined }
    if (done) throw new Error(`the stream ended before ${word}: ${seen}`)
    seen += decoder.decode(value, { stream: true })
  }
  await reader?.cancel()
  return parsed(seen.slice(0, seen.lastIndexOf('\n\n') + 2))
}

async function call(world: World, method: string, path: string, headers: Record<string, string> = {}, key?: string) {
  const authorization = `Bearer ${key ?? (await world.ownTenant()).key}`
  const request = new Request(`http://gateway.test${path}`, { method, headers: { authorization, ...headers } })
  const response = await world.app.fetch(request, env, createExecutionContext())
  return { status: response.status, headers: response.headers, text: await response.text() }
}

const resume = (world: World, dialect: Dialect, id: string, after: number | undefined, key?: string) =>
  call(
    world,
    'GET',
    `/v1/streams/${id}`,
    { ...DIALECTS[dialect].headers, ...(after === undefined ? {} : { 'last-event-id': String(after) }) },
    key,
  )

/** The first dispatch stops after the second word; those after it are whole. */
function stuck(): { script: AgentScript; dispatches: DispatchRequest[] } {
  const dispatches: DispatchRequest[] = []
  const script: AgentScript = (dispatch) => {
    dispatches.push(dispatch)
    return toldAnswer(dispatch, WORDS, dispatches.length === 1 ? { cut: 2, end: [{ wait: never }] } : {})
  }
  return { script, dispatches }
}

async function expectPaidOnce(world: World, output = WORDS.length): Promise<void> {
  await vi.waitFor(async () => {
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'ok', charge: 'customer', output, source: 'provider' }])
    expect(requests).toEqual([{ status: 'ok', attempts: 1 }])
    expect(holds).toBe(0)
  })
}

describe.each(NAMES)('a stream of %s', (dialect) => {
  test('that can be taken up again is the plain one with numbers, and nothing of a plain one is kept', async () => {
    const world = await worldOf((dispatch) => toldAnswer(dispatch, WORDS))
    const kept = vi.spyOn(RunStore.prototype, 'putHead')
    const plain = await open(world, dialect)
    const said = parsed(await plain.response.text())
    expect(plain.id).toBe('')
    expect(kept).not.toHaveBeenCalled()
    const { response, id } = await open(world, dialect, RESUMABLE)
    expect(response.headers.get('content-type')).toContain('text/event-stream')
    expect(response.headers.get('x-penstock-target')).toContain('fleet/')
    const events = parsed(await response.text())
    expect(events.map((one) => one.id)).toEqual(events.map((_, at) => at))
    expect(shapeOf(events)).toEqual(shapeOf(said))
    for (const after of [undefined, 0, 3, events.length - 1]) {
      const again = await resume(world, dialect, id, after)
      expect(again.status).toBe(200)
      expect(parsed(again.text)).toEqual(events.slice(after === undefined ? 0 : after + 1))
    }
  })

  test('whose object dies goes on for whoever comes back, in its dialect, and is paid once', async () => {
    const { script, dispatches } = stuck()
    const world = await worldOf(script)
    const { response, id } = await open(world, dialect, RESUMABLE)
    const seen = await readUntil(response, 'quick')
    await kill(world, id)
    const again = await resume(world, dialect, id, seen.at(-1)?.id)
    const events = [...seen, ...parsed(again.text)]
    expect(events.map((one) => one.id)).toEqual(events.map((_, at) => at))
    expect(textOf(dialect, events)).toBe(TEXT)
    expect(dispatches[1]?.resume).toEqual({ choices: [{ choice: 0, tokenIds: [100, 101] }] })
    await expectPaidOnce(world)
  })

  test('that a vendor had begun ends with an error that says so', async () => {
    const world = await worldOf(['unused'])
    const vendor = await world.provider(late(never, piece('Hel'), ''))
    await world.catalog([target(vendor)])
    const { response, id } = await open(world, dialect, RESUMABLE)
    const seen = await readUntil(response, 'Hel')
    await kill(world, id)
    const rest = parsed((await resume(world, dialect, id, seen.at(-1)?.id)).text)
    expect(rest).toHaveLength(1)
    const [last] = rest
    expect(last?.data).toContain(vendor)
    expect(DIALECTS[dialect].errorOf(json(last?.data ?? ''))).toMatch(/unavailable|server_error/)
  })
})

describe('a stream that can be taken up again', () => {
  test('goes on without its client, and ends by its word: an error event, and what was computed is paid', async () => {
    const { script } = stuck()
    const world = await worldOf(script)
    const { response, id, leave } = await open(world, 'chat', RESUMABLE)
    await readUntil(response, 'quick')
    leave()
    const { text } = await call(world, 'POST', `/v1/streams/${id}/cancel`)
    expect(JSON.parse(text)).toEqual({ id, object: 'stream', status: 'ended' })
    expect(JSON.parse((await call(world, 'POST', `/v1/streams/${id}/cancel`)).text)).toMatchObject({ status: 'ended' })
    const events = parsed((await resume(world, 'chat', id, undefined)).text)
    expect(textOf('chat', events)).toBe('The quick ')
    expect(json(events.at(-1)?.data ?? '')).toMatchObject({ error: { message: 'The stream was cancelled.' } })
    await vi.waitFor(async () => {
      const { attempts, holds } = await world.recorded()
      expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', output: 2 }])
      expect(holds).toBe(0)
    })
  })

  test('whose client ends it before its next life has begun is paid as far as it was told', async () => {
    const { script, dispatches } = stuck()
    const world = await worldOf(script)
    const { response, id, leave } = await open(world, 'chat', RESUMABLE)
    await readUntil(response, 'quick')
    leave()
    await kill(world, id)
    // The object wakes for this word, and has not come to its hold yet.
    expect(JSON.parse((await call(world, 'POST', `/v1/streams/${id}/cancel`)).text)).toMatchObject({ status: 'ended' })
    await vi.waitFor(async () => {
      const { attempts, requests, holds } = await world.recorded()
      expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', input: 7, output: 2 }])
      expect(requests).toMatchObject([{ status: 'client_cancelled' }])
      expect(holds).toBe(0)
    })
    expect(dispatches).toHaveLength(1)
    const events = parsed((await resume(world, 'chat', id, undefined)).text)
    expect(textOf('chat', events)).toBe('The quick ')
    expect(json(events.at(-1)?.data ?? '')).toMatchObject({ error: { message: 'The stream was cancelled.' } })
  })

  test('that nobody asks for any more is ended, and what was computed is paid', async () => {
    const { script } = stuck()
    const world = await worldOf(script)
    const { response, id, leave } = await open(world, 'chat', RESUMABLE)
    await readUntil(response, 'quick')
    leave()
    const { runs } = await storedAt(world, id)
    expect(await runDurableObjectAlarm(runs)).toBe(true)
    expect((await world.recorded()).attempts).toEqual([])
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + STREAM_UNATTENDED_MS + 15_000
    })
    expect(await runDurableObjectAlarm(runs)).toBe(true)
    await vi.waitFor(async () => {
      const { attempts, holds } = await world.recorded()
      expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', output: 2 }])
      expect(holds).toBe(0)
    })
  })

  test('is its key’s alone, and kept for a while', async () => {
    const world = await worldOf((dispatch) => toldAnswer(dispatch, WORDS))
    const { response, id } = await open(world, 'chat', RESUMABLE)
    await response.text()
    const { orgId, projectId } = await world.ownTenant()
    const made = await admin('POST', `/organisations/${orgId}/keys`, { project_id: projectId, name: 'another' })
    for (const key of [made.body.key as string, (await newTenant()).key]) {
      expect((await resume(world, 'chat', id, undefined, key)).status).toBe(404)
      expect((await call(world, 'POST', `/v1/streams/${id}/cancel`, {}, key)).status).toBe(404)
    }
    const other = await resume(world, 'messages', `stream_${'0'.repeat(32)}`, undefined)
    expect(other.status).toBe(404)
    expect(JSON.parse(other.text)).toMatchObject({ type: 'error', error: { type: 'not_found_error' } })
    expect((await call(world, 'GET', `/v1/responses/${id.replace('stream', 'resp')}`)).status).toBe(404)
    const { runs, name } = await storedAt(world, id)
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + STREAM_KEPT_MS
    })
    expect((await resume(world, 'chat', id, undefined)).status).toBe(404)
    await runDurableObjectAlarm(runs)
    await runInDurableObject(runs, (_, state) => {
      for (const table of ['events', 'texts', 'journal'])
        expect(state.storage.sql.exec(`SELECT 1 FROM ${table} WHERE run = ?`, name).toArray(), table).toEqual([])
    })
  })

  test('is found again by its idempotency key, by the same call alone', async () => {
    let dispatches = 0
    const release = gate()
    const world = await worldOf((dispatch) => {
      dispatches++
      const lines = toldAnswer(dispatch, WORDS)
      return [...lines.slice(0, 5), { wait: release.opened }, ...lines.slice(5)]
    })
    const headers = { ...RESUMABLE, 'idempotency-key': 'once' }
    const first = await open(world, 'chat', headers)
    await readUntil(first.response, 'quick')
    const second = await open(world, 'chat', headers)
    expect(second.id).toBe(first.id)
    release.open()
    expect(textOf('chat', parsed(await second.response.text()))).toBe(TEXT)
    const third = await open(world, 'chat', headers)
    expect(textOf('chat', parsed(await third.response.text()))).toBe(TEXT)
    expect((await open(world, 'chat', headers, { temperature: 0.5 })).response.status).toBe(409)
    expect(dispatches).toBe(1)
    await expectPaidOnce(world)
  })

  test.each(NAMES)('of %s that a limit refuses is refused by its status, and nothing is kept', async (dialect) => {
    const world = await worldOf((dispatch) => toldAnswer(dispatch, WORDS))
    const { orgId } = await world.ownTenant()
    const limits = [{ meter: 'requests', window: 'day', max: 1 }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBeLessThan(300)
    await (await open(world, dialect, RESUMABLE)).response.text()
    const removed = vi.spyOn(RunStore.prototype, 'remove')
    const { response, id } = await open(world, dialect, { ...RESUMABLE, 'idempotency-key': 'refused' })
    expect([response.status, id]).toEqual([429, ''])
    expect(removed).toHaveBeenCalledOnce()
    expect(response.headers.get('retry-after')).not.toBeNull()
    const body: Json = await response.json()
    expect(dialect === 'messages' ? body.type : body.error.code).toBe(
      dialect === 'messages' ? 'error' : 'rate_limit_exceeded',
    )
  })

  test('whose header or number is none is refused', async () => {
    const world = await worldOf((dispatch) => toldAnswer(dispatch, WORDS))
    expect((await open(world, 'chat', { 'x-penstock-resumable': 'yes' })).response.status).toBe(400)
    const { response, id } = await open(world, 'chat', RESUMABLE)
    await response.text()
    const refused = await call(world, 'GET', `/v1/streams/${id}`, { 'last-event-id': 'seven' })
    expect([refused.status, JSON.parse(refused.text).error.param]).toEqual([400, 'last-event-id'])
    // An empty answer would look as if nothing had come behind it.
    const beyond = await resume(world, 'chat', id, 999_999_999)
    expect([beyond.status, JSON.parse(beyond.text).error.param]).toEqual([400, 'last-event-id'])
    // Numbers alone are too little where all of it is asked for in one piece.
    const whole = await open(world, 'chat', RESUMABLE, { stream: false, stream_options: undefined })
    expect(whole.id).toBe('')
    expect(((await whole.response.json()) as Json).choices[0].message.content).toBe(TEXT)
  })

  test('of a response that is stored is a response afterwards', async () => {
    const world = await worldOf((dispatch) => toldAnswer(dispatch, WORDS))
    const { response, id } = await open(world, 'responses', RESUMABLE, { store: true })
    const events = parsed(await response.text())
    const last = json(events.at(-1)?.data ?? '')
    expect(last).toMatchObject({ type: 'response.completed', sequence_number: events.length - 1 })
    const stored = await call(world, 'GET', `/v1/responses/${id.replace('stream', 'resp')}`)
    expect(JSON.parse(stored.text)).toEqual(last.response)
    const asked = { previous_response_id: last.response.id, store: true }
    const next = await open(world, 'responses', RESUMABLE, asked)
    expect(textOf('responses', parsed(await next.response.text()))).toBe(TEXT)
  })
})
