// The whole path in workerd: key → hold → own backend or provider → answer → usage in Postgres, exactly once.
import { createExecutionContext, env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { mountedAdmin } from '../../gateway/admin/mounted.ts'
import { ADMIN_PREFIX, METERED_ROUTES, PUBLIC_ROUTES, UNMETERED_ROUTES } from '../../gateway/routes/access.ts'
import { systemPorts } from '../../gateway/routes/generate.ts'
import { MAX_BODY_BYTES } from '../../protocol/request.ts'
import { admin, newTenant } from './support/admin.ts'
import { answer, usage } from './support/fake-agent.ts'
import { FLEET_TARGET, readSse, World } from './support/path.ts'

describe('an own backend', () => {
  test('answers a chat completion, and its usage stands in Postgres once with the same counts', async () => {
    const world = new World()
    const agent = await world.agent(() => answer(['Rivers', ' run', '.']))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat()
    const body = await response.json<Record<string, unknown>>()
    expect(response.status).toBe(200)
    expect(body).toMatchObject({
      object: 'chat.completion',
      model: world.model,
      choices: [{ index: 0, message: { role: 'assistant', content: 'Rivers run.' }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 },
    })
    expect(response.headers.get('x-penstock-attempts')).toBe('1')
    expect(response.headers.get('x-penstock-target')).toBe(`fleet/${agent.backendId}`)
    expect(response.headers.get('x-penstock-request-id')).toBe(response.headers.get('x-request-id'))
    await settled()
    const recorded = await world.recorded()
    expect(recorded).toEqual({
      attempts: [
        {
          attempt: 1,
          provider: 'fleet',
          status: 'ok',
          httpStatus: 200,
          charge: 'customer',
          source: 'provider',
          input: 7,
          cached: 0,
          output: 3,
          costNanoUsd: 13_000n,
          route: expect.objectContaining({ role: 'primary', reason: expect.any(String) }),
        },
      ],
      requests: [{ status: 'ok', attempts: 1 }],
      holds: 0,
    })
    expect(agent.dispatches).toHaveLength(1)
    expect(agent.dispatches[0]).toMatchObject({ attempt: 1, model: world.model, n: 1 })
    expect(agent.dispatches[0]?.tenant).not.toContain(world.tenant?.orgId)
  })

  test('streams role, content, finish, usage and the end mark in this order', async () => {
    const world = new World()
    await world.agent(() => answer(['a', 'b']))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream: true, stream_options: { include_usage: true } })
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    const { data, done } = readSse(await response.text())
    expect(done).toBe(true)
    expect(data.map((chunk) => chunk.choices)).toEqual([
      [{ index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }],
      [{ index: 0, delta: { content: 'a' }, logprobs: null, finish_reason: null }],
      [{ index: 0, delta: { content: 'b' }, logprobs: null, finish_reason: null }],
      [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }],
      [],
    ])
    expect(data.map((chunk) => chunk.usage)).toMatchObject([null, null, null, null, { total_tokens: 9 }])
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', input: 7, output: 2 }])
  })
})

describe('a completion', () => {
  test('takes text, token ids and several prompts, and numbers choices prompt by prompt', async () => {
    const world = new World()
    const agent = await world.agent((dispatch) => {
      const prompts = dispatch.input.kind === 'completion' ? dispatch.input.prompts.length : 0
      const choices = Array.from({ length: prompts * dispatch.n }, (_, choice) => choice)
      return [
        { type: 'accepted', usage: usage(4, 0), queueMs: 0 },
        ...choices.map((choice) => ({ type: 'delta' as const, choice, text: `c${choice}`, outputTokens: 1 })),
        ...choices.map((choice) => ({ type: 'finish' as const, choice, reason: 'length' as const, outputTokens: 1 })),
        { type: 'usage', usage: usage(4, choices.length) },
      ]
    })
    await world.catalog([FLEET_TARGET(world.model)])
    const { response } = await world.send('/v1/completions', {
      model: world.model,
      prompt: [[1, 2], [3]],
      n: 2,
      max_tokens: 1,
    })
    expect(await response.json()).toMatchObject({
      object: 'text_completion',
      choices: [0, 1, 2, 3].map((index) => ({ index, text: `c${index}`, finish_reason: 'length', logprobs: null })),
      usage: { prompt_tokens: 4, completion_tokens: 4 },
    })
    expect(agent.dispatches[0]).toMatchObject({
      input: { kind: 'completion', prompts: [{ tokenIds: [1, 2] }, { tokenIds: [3] }], echo: false },
      n: 2,
      maxOutputTokens: 1,
    })
  })

  test('refuses a token prompt that fills the window before any hold is taken', async () => {
    const world = new World()
    await world.catalog([FLEET_TARGET(world.model)])
    const { response } = await world.send('/v1/completions', { model: world.model, prompt: Array(2048).fill(1) })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { code: 'context_length_exceeded', param: 'prompt' } })
    expect((await world.recorded()).attempts).toEqual([])
  })
})

describe('what the hold is taken for', () => {
  test('a huge max_tokens is cut to the window, so a modest budget still admits it', async () => {
    const world = new World()
    const agent = await world.agent(() => answer(['x']))
    await world.catalog([FLEET_TARGET(world.model)])
    const { orgId } = await world.ownTenant()
    // Window 2048 at $2 per million output tokens, and the prompt: well below one cent.
    await admin('PUT', `/organisations/${orgId}/limits`, {
      limits: [{ meter: 'money', window: 'day', max_usd: '0.01' }],
    })
    const { response, settled } = await world.chat({ max_tokens: 1_000_000_000 })
    expect(response.status).toBe(200)
    expect(agent.dispatches[0]?.maxOutputTokens).toBe(2048)
    await settled()
  })

  test('a budget too small for the worst case refuses before anything is dispatched, and says so', async () => {
    const world = new World()
    const agent = await world.agent(() => answer(['x']))
    await world.catalog([FLEET_TARGET(world.model)])
    const { orgId } = await world.ownTenant()
    await admin('PUT', `/organisations/${orgId}/limits`, {
      limits: [{ meter: 'money', window: 'day', max_usd: '0.0001' }],
    })
    const { response } = await world.chat()
    expect(response.status).toBe(429)
    expect(response.headers.get('x-should-retry')).toBe('false')
    const { error } = await response.json<{ error: Record<string, string> }>()
    expect(error).toMatchObject({ type: 'insufficient_quota', code: 'insufficient_quota' })
    expect(error.message).toContain('$0.0001 per day')
    expect(agent.dispatches).toHaveLength(0)
  })

  test('the request limit shows in headers until it refuses with the time to come back', async () => {
    const world = new World()
    await world.agent(() => answer(['x']))
    await world.catalog([FLEET_TARGET(world.model)])
    const { orgId } = await world.ownTenant()
    await admin('PUT', `/organisations/${orgId}/limits`, { limits: [{ meter: 'requests', window: 'day', max: 2 }] })
    const seen: unknown[] = []
    for (let i = 0; i < 3; i++) {
      const { response, settled } = await world.chat()
      seen.push([
        response.status,
        response.headers.get('x-ratelimit-limit-requests'),
        response.headers.get('x-ratelimit-remaining-requests'),
      ])
      if (response.status === 429) {
        expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0)
        expect(Number(response.headers.get('retry-after-ms'))).toBeGreaterThan(0)
        expect(response.headers.get('x-ratelimit-reset-requests')).toMatch(/^\d+ms$/)
      }
      await response.text()
      await settled()
    }
    expect(seen).toEqual([
      [200, '2', '1'],
      [200, '2', '0'],
      [429, '2', '0'],
    ])
  })
})

describe('a bad request', () => {
  test.each([
    ['not JSON', '{"model": ', 400, 'invalid_request'],
    ['empty', '', 400, 'invalid_request'],
    ['an array', '[]', 400, 'invalid_request'],
    ['nested too deeply', `{"model":"m","messages":${'['.repeat(100_000)}`, 400, 'invalid_request'],
    ['made of a million objects', `[${'{},'.repeat(1_000_000)}{}]`, 400, 'invalid_request'],
  ])('that is %s gets an OpenAI-shaped error', async (_, text, status, code) => {
    const world = new World()
    const { response } = await world.send('/v1/chat/completions', text)
    expect(response.status).toBe(status)
    expect(await response.json()).toEqual({
      error: { message: expect.any(String), type: 'invalid_request_error', param: null, code },
    })
  })

  test('with invalid UTF-8 is refused, not repaired', async () => {
    const world = new World()
    const { key } = await world.ownTenant()
    const body = new Uint8Array([...new TextEncoder().encode('{"model":"'), 0xff, ...new TextEncoder().encode('"}')])
    const request = new Request('http://gateway.test/v1/chat/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key}` },
      body,
    })
    const response = await world.app.fetch(request, env, createExecutionContext())
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { message: expect.stringContaining('UTF-8') } })
  })

  test('over the limit is refused while it is read, also without a declared length', async () => {
    const world = new World()
    const { key } = await world.ownTenant()
    let sent = 0
    const chunk = new Uint8Array(1024 * 1024).fill(0x20)
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += chunk.length
        controller.enqueue(chunk)
      },
    })
    const request = new Request('http://gateway.test/v1/chat/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key}` },
      body: endless,
    })
    const response = await world.app.fetch(request, env, createExecutionContext())
    expect(response.status).toBe(413)
    expect(await response.json()).toMatchObject({ error: { code: 'request_too_large' } })
    // Read on and dropped for a while, so that the refusal reaches a client that is still sending; never kept, never endless.
    expect(sent).toBeLessThan(MAX_BODY_BYTES + 80 * chunk.length)
  })

  test('names the field with its path, and costs nothing', async () => {
    const world = new World()
    const { response } = await world.chat({ messages: [{ role: 'user', content: 5 }] })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { param: 'messages[0].content' } })
    expect((await world.recorded()).attempts).toEqual([])
  })

  test.each(['0', '-5', '1e3', 'soon', ''])('with the deadline %j names the header', async (value) => {
    const world = new World()
    const { response } = await world.chat({}, { headers: { 'x-penstock-deadline-ms': value } })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { param: 'x-penstock-deadline-ms' } })
  })

  test('for an unknown model is 404 and for a key of a smaller scope 403', async () => {
    const world = new World()
    const unknown = await world.chat({ model: 'no-such-model' })
    expect(unknown.response.status).toBe(404)
    const { key } = await newTenant({ models: ['another-model'] })
    const scoped = await world.chat({}, { key })
    expect(scoped.response.status).toBe(403)
  })
})

describe('routes', () => {
  const world = new World()
  const ask = (method: string, path: string, headers: Record<string, string> = {}) =>
    world.app.request(`http://gateway.test${path}`, { method, headers }, env, createExecutionContext())
  const concrete = (path: string) => path.replace(/:\w+(\{[^}]*\})?/g, 'x')
  const routes = [
    ...new Set(
      // Those of the admin API are loaded by the first request for one.
      [...world.app.routes, ...mountedAdmin(systemPorts()).routes]
        .filter((route) => route.method !== 'ALL')
        .map((route) => `${route.method} ${route.path}`),
    ),
  ]

  test('each is public by the list, behind the admin guard, or behind a key and known as metered or unmetered', () => {
    const unlisted = routes.filter((route) => {
      const path = route.split(' ')[1] ?? ''
      return !(route in PUBLIC_ROUTES) && !path.startsWith(ADMIN_PREFIX)
    })
    expect(new Set(unlisted)).toEqual(new Set([...METERED_ROUTES.keys(), ...UNMETERED_ROUTES.keys()]))
    for (const listed of Object.keys(PUBLIC_ROUTES)) expect(routes).toContain(listed)
  })

  test.each(routes.filter((route) => !(route in PUBLIC_ROUTES)))('%s answers 401 to a stranger', async (route) => {
    const [method = '', path = ''] = route.split(' ')
    for (const headers of [{}, { authorization: 'Bearer psk_nobody' }]) {
      const response = await ask(method, concrete(path), headers as Record<string, string>)
      expect(response.status).toBe(401)
      const said = (await response.json()) as { error: { code?: string; type: string } }
      // Each dialect has its own word for it.
      if (path.startsWith('/v1/messages'))
        expect(said).toMatchObject({ type: 'error', error: { type: 'authentication_error' } })
      else expect(said.error.code).toBe('invalid_api_key')
      expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
    }
  })

  test('what is not there is 404, and a wrong method 405 with the right ones', async () => {
    const nothing = await ask('GET', '/v1/nothing')
    expect(nothing.status).toBe(404)
    expect(await nothing.json()).toMatchObject({ error: { code: 'not_found' } })
    const wrong = await ask('GET', '/v1/chat/completions')
    expect(wrong.status).toBe(405)
    expect(wrong.headers.get('allow')).toBe('POST')
    expect(await wrong.json()).toMatchObject({ error: { type: 'invalid_request_error' } })
  })

  test('health says that the gateway lives and how many backends do', async () => {
    const response = await ask('GET', '/health')
    expect(await response.json()).toMatchObject({ status: 'ok', fleet: { reachable: true } })
  })

  test('the key set shows the public half only', async () => {
    const { keys } = await (await ask('GET', '/.well-known/jwks.json')).json<{ keys: Record<string, string>[] }>()
    expect(keys).toHaveLength(1)
    expect(Object.keys(keys[0] ?? {}).sort()).toEqual(['alg', 'crv', 'kid', 'kty', 'use', 'x'])
  })

  test('models lists what the key may use, and finds one by name', async () => {
    const mine = new World()
    await mine.catalog([FLEET_TARGET(mine.model)])
    const { key } = await newTenant({ models: [mine.model] })
    const headers = { authorization: `Bearer ${key}` }
    const list = await ask('GET', '/v1/models', headers)
    expect(await list.json()).toEqual({
      object: 'list',
      data: [{ id: mine.model, object: 'model', created: expect.any(Number), owned_by: 'penstock' }],
    })
    expect((await ask('GET', `/v1/models/${mine.model}`, headers)).status).toBe(200)
    expect((await ask('GET', '/v1/models/some/other', headers)).status).toBe(404)
  })
})
