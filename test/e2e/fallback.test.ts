// Fallback between our own machines and a provider, in both directions, as an administrator sets it up. The provider is
// an HTTP server of the test that behaves as the OpenAI API documents.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { readEvents, System, TINY_MODEL } from './support/system.ts'

type Behaviour = 'answer' | 'refuse' | 'fail_before_content' | 'fail_after_content' | 'silent'

let system: System
let upstream: Server
let behaviour: Behaviour = 'answer'
const seen: { authorization: string | undefined; body: { stream?: boolean; model?: string } }[] = []

beforeAll(async () => {
  upstream = createServer((request, response) => void serve(request, response))
  upstream.listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  system = await System.start({ model: TINY_MODEL })
  const { port } = upstream.address() as AddressInfo
  await must('PUT', '/providers/elsewhere', {
    kind: 'openai_compatible',
    base_url: `http://127.0.0.1:${port}/v1`,
    allow_private: true,
    secret: 'sk-canary-4711',
  })
  const price = { input_uncached: '1', input_cache_read: '0.5', output_text: '2', output_reasoning: '2' }
  await must('POST', '/prices', { provider: 'elsewhere', model: 'big', usd_per_million: price })
  const own = { provider: 'fleet', model: TINY_MODEL, context_tokens: 8192 }
  const bought = { provider: 'elsewhere', model: 'big', context_tokens: 8192 }
  await must('PUT', '/models/own-first', { targets: [{ ...own, model: 'not-served-anywhere' }, bought] })
  await must('PUT', '/models/bought-first', { targets: [bought, own] })
  await must('PUT', '/models/bought-only', { targets: [bought] })
  await must('POST', '/prices', { provider: 'fleet', model: 'not-served-anywhere', usd_per_million: price })
})
afterAll(async () => {
  await system?.discard()
  upstream?.closeAllConnections()
  upstream?.close()
})

async function must(method: string, path: string, body: unknown) {
  const { status, body: answer } = await system.admin(method, path, body)
  if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`)
}

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  seen.push({ authorization: request.headers.authorization, body: JSON.parse(Buffer.concat(chunks).toString()) })
  if (behaviour === 'refuse') {
    response.writeHead(429, { 'content-type': 'application/json', 'retry-after': '7' })
    response.end('{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}')
    return
  }
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const event = (delta: object, finish: string | null = null) =>
    `data: ${JSON.stringify({ id: 'c1', object: 'chat.completion.chunk', created: 1, model: 'big', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`
  response.write(event({ role: 'assistant', content: '' }))
  if (behaviour === 'silent') return
  if (behaviour === 'fail_before_content') {
    response.end('data: {"error":{"message":"the server had an error","type":"server_error"}}\n\n')
    return
  }
  response.write(event({ content: 'From ' }))
  if (behaviour === 'fail_after_content') {
    response.end('data: {"error":{"message":"the server had an error","type":"server_error"}}\n\n')
    return
  }
  response.write(event({ content: 'elsewhere é川' }))
  response.write(event({}, 'stop'))
  const usage = {
    prompt_tokens: 11,
    completion_tokens: 4,
    total_tokens: 15,
    prompt_tokens_details: { cached_tokens: 3 },
  }
  response.write(
    `data: ${JSON.stringify({ id: 'c1', object: 'chat.completion.chunk', created: 1, model: 'big', choices: [], usage })}\n\n`,
  )
  response.end('data: [DONE]\n\n')
}

const ask = (model: string, more: object = {}) => ({
  model,
  max_tokens: 6,
  messages: [{ role: 'user' as const, content: 'Hello' }],
  ...more,
})

it('a provider answers in place of a fleet that serves no such model, and its usage is billed at its price', async () => {
  behaviour = 'answer'
  const { data, request_id, response } = await system.client.chat.completions.create(ask('own-first')).withResponse()
  expect(data.choices[0]?.message.content).toBe('From elsewhere é川')
  expect(data.usage).toMatchObject({ prompt_tokens: 11, completion_tokens: 4 })
  expect(response.headers.get('x-penstock-attempts')).toBe('2')
  const row = await system.usage(request_id ?? '')
  // 8 x 1 + 3 x 0.5 + 4 x 2 dollars per million, in nano-dollars.
  expect(row).toMatchObject({ status: 'ok', attempts: 2, costNanoUsd: 17_500n })
  expect(seen.at(-1)).toMatchObject({ authorization: 'Bearer sk-canary-4711', body: { model: 'big', stream: true } })
})

async function ownMachinesAnswer(fault: Behaviour): Promise<void> {
  behaviour = fault
  const response = await system.post('/v1/chat/completions', ask('bought-first', { stream: true }))
  expect(response.status).toBe(200)
  const { data } = await readEvents(response)
  expect(data.at(-1)).toBe('[DONE]')
  expect(data.filter((line) => line.includes('"role":"assistant"'))).toHaveLength(1)
  const row = await system.usage(response.headers.get('x-request-id') ?? '')
  expect(row).toMatchObject({ status: 'ok', attempts: 2, outputTokens: 6 })
}

it('own machines answer where the provider fails before its first content; the client sees one clean answer', async () => {
  await ownMachinesAnswer('fail_before_content')
})

it('an error after the first content is told in the stream, without [DONE], and billed for what came', async () => {
  behaviour = 'fail_after_content'
  const response = await system.post('/v1/chat/completions', ask('bought-first', { stream: true }))
  const { data } = await readEvents(response)
  expect(data.join('\n')).toContain('From ')
  expect(JSON.parse(data.at(-1) ?? '{}').error.code).toBe('upstream_error')
  expect(data).not.toContain('[DONE]')
  const row = await system.usage(response.headers.get('x-request-id') ?? '')
  expect(row).toMatchObject({ status: 'upstream_error', attempts: 1 })
})

it('a provider that stays silent past the deadline ends in a typed error', async () => {
  behaviour = 'silent'
  const response = await system.post('/v1/chat/completions', ask('bought-only'), { 'x-penstock-deadline-ms': '600' })
  expect(response.status).toBe(504)
  expect(((await response.json()) as { error: { code: string } }).error.code).toBe('deadline_exceeded')
})

it('a refusal with no other target reaches the caller with its Retry-After and without the secret', async () => {
  behaviour = 'refuse'
  const response = await system.post('/v1/chat/completions', ask('bought-only'))
  const text = await response.text()
  expect([429, 503]).toContain(response.status)
  expect(response.headers.get('retry-after')).toBe('7')
  expect(text).not.toContain('canary')
})

it('the time that a provider names is kept: until then own machines answer, and nothing is sent to it', async () => {
  const askedBefore = seen.length
  const response = await system.post('/v1/chat/completions', ask('bought-first', { stream: true }))
  expect((await readEvents(response)).data.at(-1)).toBe('[DONE]')
  const row = await system.usage(response.headers.get('x-request-id') ?? '')
  expect(row).toMatchObject({ status: 'ok', attempts: 1, outputTokens: 6 })
  expect(seen).toHaveLength(askedBefore)
})

it('the secret of a provider is in no log, no row and no answer of the admin API', async () => {
  const { body } = await system.admin('GET', '/providers')
  expect(JSON.stringify(body)).not.toContain('canary')
  const rows = await system.sql`SELECT * FROM providers`
  expect(JSON.stringify(rows)).not.toContain('canary')
  const { readdir, readFile } = await import('node:fs/promises')
  for (const name of await readdir(`${system.dataDir}/logs`)) {
    const log = await readFile(`${system.dataDir}/logs/${name}`, 'utf8')
    expect(log.includes('canary') || log.includes(system.apiKey), name).toBe(false)
  }
})
