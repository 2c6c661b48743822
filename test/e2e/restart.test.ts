// The gateway is replaced while answers are open that nobody can hurry: a vendor says each word when the test tells it to. Streams end
// in the old process, background responses in whichever has them, nothing is lost, and each is billed once.
import { once } from 'node:events'
import { mkdir, readdir, stat } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { z } from 'zod'
import { GatewayAlone } from './support/gateway-alone.ts'
import { System } from './support/system.ts'

/** What is open at a restart has so long. */
const DRAIN_MS = 8_000
const TEST_MS = 120_000

let gateway: GatewayAlone
let upstream: Server
/** By the caller's text: what the vendor says next, and ends with. */
const open = new Map<string, (words: string, isLast?: boolean) => void>()

beforeAll(async () => {
  upstream = createServer((request, response) => void serve(request, response))
  upstream.listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  gateway = await GatewayAlone.start('slow', DRAIN_MS)
  const { port } = upstream.address() as AddressInfo
  const must = (method: string, path: string, body: unknown) => gateway.admin.call(method, path, z.unknown(), body)
  const base_url = `http://127.0.0.1:${port}/v1`
  await must('PUT', '/providers/patient', { kind: 'openai_compatible', base_url, allow_private: true, secret: 'sk-1' })
  const price = { input_uncached: '1', input_cache_read: '0.5', output_text: '2', output_reasoning: '2' }
  await must('POST', '/prices', { provider: 'patient', model: 'slow', usd_per_million: price })
  await must('PUT', '/models/slow', { targets: [{ provider: 'patient', model: 'slow', context_tokens: 8192 }] })
})
afterAll(async () => {
  await gateway?.stop()
  upstream?.closeAllConnections()
  upstream?.close()
})

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let text = ''
  for await (const part of request) text += part
  const { messages } = JSON.parse(text) as { messages: { content: string }[] }
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const chunk = (choices: object[], more = {}) =>
    response.write(
      `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: 'slow', choices, ...more })}\n\n`,
    )
  chunk([{ index: 0, delta: { role: 'assistant', content: 'Well' }, finish_reason: null }])
  open.set(messages.at(-1)?.content ?? '', (words, isLast = false) => {
    chunk([{ index: 0, delta: { content: words }, finish_reason: null }])
    if (!isLast) return
    chunk([{ index: 0, delta: {}, finish_reason: 'stop' }])
    chunk([], { usage: { prompt_tokens: 5, completion_tokens: 7, total_tokens: 12 } })
    response.end('data: [DONE]\n\n')
  })
}

/** Resolves when the vendor has the request with this text. */
const asked = (content: string) => System.until(async () => open.get(content))
const finish = async (content: string) => (await asked(content))(' done.', true)

type Stored = { id: string; status: string; output: { content: { text: string }[] }[] }

const call = (path: string, body?: object, more: Record<string, string> = {}) =>
  fetch(`${gateway.baseUrl}/v1${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer ${gateway.apiKey}`, 'content-type': 'application/json', ...more },
    ...(body && { body: JSON.stringify(body) }),
  })

async function background(input: string): Promise<{ id: string; requestId: string }> {
  const response = await call('/responses', { model: 'slow', input, background: true })
  const { id } = (await response.json()) as Stored
  return { id, requestId: response.headers.get('x-request-id') ?? '' }
}

async function read(id: string): Promise<{ status: string; text: string | undefined }> {
  const { status, output } = (await (await call(`/responses/${id}`)).json()) as Stored
  return { status, text: output[0]?.content[0]?.text }
}

async function stream(content: string) {
  const { data, request_id: requestId } = await gateway.client.chat.completions
    .create({ model: 'slow', stream: true, messages: [{ role: 'user', content }] })
    .withResponse()
  const whole = (async () => {
    let text = ''
    for await (const part of data) text += part.choices[0]?.delta.content ?? ''
    return text
  })()
  // Looked at when the test is there.
  whole.catch(() => {})
  return { whole, requestId: requestId ?? '' }
}

async function rowOf(requestId: string) {
  const id = requestId.replace(/^req_/, '')
  return await System.until(async () => {
    const rows = await gateway.sql`
      SELECT r.status, a.attempts, a.output FROM usage_requests r CROSS JOIN LATERAL (
        SELECT count(*)::int AS attempts, sum(output_text)::int AS output FROM usage_attempts WHERE request_id = r.request_id
      ) a WHERE r.request_id = ${id}`
    return rows[0] === undefined ? undefined : { ...rows[0] }
  })
}

it('streams and background responses outlast a restart, and nobody waits for them', { timeout: TEST_MS }, async () => {
  const old = gateway.running
  const long = await stream('long')
  const running = await background('running')
  await asked('long')
  await asked('running')
  const restarted = gateway.restart()
  // What is asked for in the background now is the next process's; who asks again and again sees when.
  const waiting = await System.until(async () => {
    const made = { ...(await background(`later ${open.size}`)), content: `later ${open.size}` }
    await System.until(async () => open.has(made.content) || (await read(made.id)).status === 'queued')
    return open.has(made.content) ? undefined : made
  })
  const followed = (async () => {
    const response = await call(`/responses/${waiting.id}?stream=true`)
    return await response.text()
  })()
  expect(gateway.running.pid).toBe(old.pid)
  for (const content of open.keys()) if (content !== 'long') await finish(content)
  await restarted
  expect(gateway.running.pid).not.toBe(old.pid)
  expect(await read(running.id)).toEqual({ status: 'completed', text: 'Well done.' })

  // Both serve: the old one its stream, the next one whoever comes.
  const other = await stream('other')
  await finish('other')
  expect(await other.whole).toBe('Well done.')
  await finish(waiting.content)
  expect(await followed).toContain('response.completed')
  expect(await read(waiting.id)).toEqual({ status: 'completed', text: 'Well done.' })

  open.get('long')?.(' then,')
  open.get('long')?.(' done.', true)
  expect(await long.whole).toBe('Well then, done.')
  await old.exited
  for (const { requestId } of [long, running, waiting, other]) {
    expect(await rowOf(requestId)).toEqual({ status: 'ok', attempts: 1, output: 7 })
  }
})

it('a stream that its client can come back to ends before the objects go, and one that begins meanwhile is a plain one', {
  timeout: TEST_MS,
}, async () => {
  const old = gateway.running
  const openKept = async (content: string) => {
    const body = { model: 'slow', stream: true, messages: [{ role: 'user', content }] }
    const response = await call('/chat/completions', body, { 'x-penstock-resumable': 'true' })
    return { response, id: response.headers.get('x-penstock-stream-id') }
  }
  const kept = await openKept('kept')
  expect(kept.id).toMatch(/^stream_/)
  await asked('kept')
  const restarted = gateway.restart()
  // The restart waits for it, and says so to those who come.
  const plain = await System.until(async () => {
    const content = `plain ${open.size}`
    const made = await openKept(content)
    await finish(content)
    if (made.id === null) return made
    await made.response.text()
    return undefined
  })
  expect(await plain.response.text()).toContain('[DONE]')
  expect(gateway.running.pid).toBe(old.pid)
  await finish('kept')
  const text = await kept.response.text()
  expect(text.match(/^id: \d+$/gm)).toEqual(Array.from(text.match(/^data: /gm) ?? [], (_, at) => `id: ${at}`))
  expect(text).toContain('[DONE]')
  await restarted
  expect(await (await call(`/streams/${kept.id}`)).text()).toBe(text)
  await old.exited
})

it('a second restart finds the first one still at its streams, and each of three processes ends its own', async () => {
  const pids = [gateway.running.pid]
  const texts: Promise<string>[] = []
  const processes = [gateway.running]
  for (const content of ['first', 'second']) {
    texts.push((await stream(content)).whole)
    await asked(content)
    await gateway.restart()
    pids.push(gateway.running.pid)
    processes.push(gateway.running)
  }
  expect(new Set(pids).size).toBe(3)
  await finish('first')
  await finish('second')
  expect(await Promise.all(texts)).toEqual(['Well done.', 'Well done.'])
  await Promise.all(processes.slice(0, 2).map(({ exited }) => exited))
})

it('a stream that outlasts its time ends with an error that says what to do', { timeout: TEST_MS }, async () => {
  const old = gateway.running
  const endless = await stream('endless')
  await asked('endless')
  await gateway.restart()
  await expect(endless.whole).rejects.toThrow('did not end within the time')
  expect(await old.exited).toMatchObject({ signal: undefined })
  expect(await rowOf(endless.requestId)).toMatchObject({ status: 'unavailable', attempts: 1 })
})

it('objects that cannot all be taken over are lost to nobody: the next process has those that had moved, too', {
  timeout: TEST_MS,
}, async () => {
  const { id } = await background('before')
  await finish('before')
  const ended = async () => {
    const stored = (await (await call(`/responses/${id}`)).json()) as Stored
    return stored.status === 'completed' ? stored : undefined
  }
  await System.until(ended)
  const objectsDir = join(gateway.dataDir, 'objects')
  /** The very files: one that is missing is made again, empty. */
  const files = async () => {
    const names = (await readdir(objectsDir, { recursive: true })).filter((name) => /[0-9a-f]\.sqlite$/.test(name))
    return await Promise.all(names.sort().map(async (name) => [name, (await stat(join(objectsDir, name))).ino]))
  }
  const before = await files()
  // The copy of the first list of alarms fails, when the objects beside it have moved.
  for (const namespace of await readdir(objectsDir))
    await mkdir(join(gateway.dataDir, 'objects.next', namespace, 'metadata.sqlite.draft', 'taken'), { recursive: true })
  await gateway.restart()
  expect(gateway.takeNotes()).toMatchObject([expect.stringContaining('could not hand its objects over')])
  expect(await files()).toEqual(before)
  expect(await ended()).toMatchObject({ id, status: 'completed' })
})

it('who has not the key learns nothing and takes nothing away', async () => {
  for (const path of ['/.penstock/handover', '/.penstock/objects']) {
    for (const key of [undefined, 'x'.repeat(43)]) {
      const headers = key === undefined ? {} : { 'x-penstock-handover': key }
      const body = JSON.stringify({ step: 'prepare' })
      expect((await fetch(`${gateway.baseUrl}${path}`, { method: 'POST', headers, body })).status).toBe(404)
    }
  }
})

it('nothing is left of the processes that went, and the books agree', async () => {
  await System.until(async () => {
    const shape = z.object({ held_nanousd: z.string() })
    const state = await gateway.admin.call('GET', `/organisations/${gateway.orgId}/limits/state`, shape)
    return state.held_nanousd === '0'
  })
  const check = await gateway.admin.call('GET', `/ledger/check?org=${gateway.orgId}`, z.unknown())
  expect(check).toMatchObject({ ok: true, balanced: true, complete: true, matches_usage: true })
  await System.until(async () => (await readdir(gateway.dataDir)).filter((name) => /^objects./.test(name)).length === 0)
  expect(gateway.notes).toEqual([])
})
