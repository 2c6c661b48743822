// A stream's end in every way but the good one: the client leaves, time runs out, the other side dies. Each time the
// client learns the truth, the upstream is let go, and the usage that was computed stands once.
import { env } from 'cloudflare:test'
import { exports } from 'cloudflare:workers'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { answer, type Line, usage } from './support/fake-agent.ts'
import { FLEET_TARGET, gate, readSse, World } from './support/path.ts'

const accepted: Line = { type: 'accepted', usage: usage(7, 0), queueMs: 0 }
const delta = (text: string, outputTokens: number): Line => ({ type: 'delta', choice: 0, text, outputTokens })
const never = { wait: new Promise(() => {}) }
/** What a request needs before its backend is silent has to fit, on a busy machine too. */
const DEADLINE_MS = 2_000

/** The deployed Worker, reached over the runtime's own connection. */
const worker = (exports as unknown as { default: Fetcher }).default

afterEach(() => {
  vi.restoreAllMocks()
})

/** Reads until `text` has come. */
async function readUntil(reader: ReadableStreamDefaultReader<Uint8Array>, text: string): Promise<string> {
  const decoder = new TextDecoder()
  let seen = ''
  while (!seen.includes(text)) {
    const { done, value } = await reader.read()
    if (done) throw new Error(`the stream ended before ${text}: ${seen}`)
    seen += decoder.decode(value, { stream: true })
  }
  return seen
}

const bodyOf = (response: Response) => {
  if (response.body === null) throw new Error('no body')
  return response.body.getReader()
}

describe('after content the stream breaks, and the client is told in the stream', () => {
  test.each([
    [
      'the engine dies',
      { type: 'error' as const, code: 'engine_lost' as const, message: 'died', usage: usage(7, 5) },
      'engine_lost',
      5,
      'provider',
    ],
    ['the agent is cut off', 'cut' as const, 'backend_lost', 2, 'stream_partial'],
    ['the agent ends without usage', undefined, 'backend_lost', 2, 'stream_partial'],
    [
      'the agent is cut in the middle of a line',
      { raw: '{"type":"delta","choice":0,"te' },
      'backend_lost',
      2,
      'stream_partial',
    ],
    ['the agent sends nonsense', { raw: '{"type":"nonsense"}\n' }, 'backend_lost', 2, 'stream_partial'],
  ])('when %s', async (_, end, code, output, source) => {
    const world = new World()
    await world.agent(() => [accepted, delta('one', 1), delta(' two', 2), ...(end === undefined ? [] : [end])])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream: true })
    expect(response.status).toBe(200)
    const { data, done } = readSse(await response.text())
    expect(done).toBe(false)
    expect(data.at(-1)).toMatchObject({ error: { code, type: 'server_error', param: null } })
    expect(
      data
        .slice(0, -1)
        .map((chunk) => JSON.stringify(chunk))
        .join(''),
    ).toContain(' two')
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: code, charge: 'customer', input: 7, output, source, httpStatus: 200 }])
    expect(requests).toEqual([{ status: code, attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('when the provider sends an error event', async () => {
    const world = new World()
    const text = [
      'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n',
      'data: {"choices":[{"index":0,"delta":{"content":"lo"}}]}\n\n',
      'data: {"error":{"message":"it broke"}}\n\n',
    ].join('')
    const name = await world.provider(() => new Response(text, { headers: { 'content-type': 'text/event-stream' } }))
    await world.catalog([{ provider: name, model: 'm', context_tokens: 1000 }, FLEET_TARGET(world.model)])
    const agent = await world.agent(() => answer(['other']))
    const { response, settled } = await world.chat({ stream: true })
    const { data, done } = readSse(await response.text())
    expect(done).toBe(false)
    expect(data.at(-1)).toMatchObject({
      error: { code: 'upstream_error', message: expect.stringContaining('it broke') },
    })
    expect(agent.dispatches).toHaveLength(0)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { provider: name, status: 'upstream_error', charge: 'customer', output: 2, source: 'stream_partial' },
    ])
  })
})

describe('the client leaves', () => {
  test('before the first content: the dispatch is cancelled and what was computed is charged', async () => {
    const world = new World()
    const started = gate()
    const agent = await world.agent(() => [accepted, { run: started.open }, never])
    await world.catalog([FLEET_TARGET(world.model)])
    await world.ownTenant()
    const client = new AbortController()
    const sending = world.chat({ stream: true }, { signal: client.signal })
    await started.opened
    client.abort()
    const { settled } = await sending
    await settled()
    await vi.waitFor(() => expect(agent.cancelled).toBe(1))
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', httpStatus: 499, output: 0 }])
    expect(requests).toEqual([{ status: 'client_cancelled', attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('in the middle: the dispatch is cancelled and the tokens so far are charged', async () => {
    const world = new World()
    const agent = await world.agent(() => [accepted, delta('one', 1), delta(' two', 2), never])
    await world.catalog([FLEET_TARGET(world.model)])
    await world.ownTenant()
    const client = new AbortController()
    const { response, settled } = await world.chat({ stream: true }, { signal: client.signal })
    await readUntil(bodyOf(response), ' two')
    client.abort()
    await settled()
    await vi.waitFor(() => expect(agent.cancelled).toBe(1))
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      { status: 'client_cancelled', charge: 'customer', input: 7, output: 2, source: 'stream_partial' },
    ])
    expect(holds).toBe(0)
  })

  test('by not reading any more: the body is cancelled', async () => {
    const world = new World()
    const agent = await world.agent(() => [
      accepted,
      ...Array.from({ length: 500 }, (_, i) => delta(`w${i} `, i + 1)),
      never,
    ])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream: true })
    const reader = bodyOf(response)
    await readUntil(reader, 'w0')
    await reader.cancel()
    await settled()
    await vi.waitFor(() => expect(agent.cancelled).toBe(1))
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', input: 7 }])
    expect(attempts[0]?.output).toBeGreaterThan(0)
    expect(holds).toBe(0)
  })

  test('while a whole answer is gathered: cancelled, charged, settled', async () => {
    const world = new World()
    const started = gate()
    await world.agent(() => [accepted, delta('one', 1), { run: started.open }, never])
    await world.catalog([FLEET_TARGET(world.model)])
    await world.ownTenant()
    const client = new AbortController()
    const sending = world.chat({}, { signal: client.signal })
    await started.opened
    client.abort()
    const { settled } = await sending
    await settled()
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', httpStatus: 499 }])
    expect(holds).toBe(0)
  })

  test('after the end mark: the request is a success', async () => {
    const world = new World()
    await world.agent(() => answer(['one']))
    await world.catalog([FLEET_TARGET(world.model)])
    const client = new AbortController()
    const { response, settled } = await world.chat({ stream: true }, { signal: client.signal })
    await readUntil(bodyOf(response), '[DONE]')
    client.abort()
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', output: 1 }])
  })

  test('over a real connection: the runtime tells, the dispatch ends, the tokens stand', async () => {
    const world = new World()
    const agent = await world.agent(() => [accepted, delta('one', 1), delta(' two', 2), never])
    await world.catalog([FLEET_TARGET(world.model)])
    const { key, orgId } = await world.ownTenant()
    vi.spyOn(globalThis, 'fetch').mockImplementation((input, init) => world.fetch(input as RequestInfo, init))
    const client = new AbortController()
    const response = await worker.fetch('http://gateway.test/v1/chat/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key}` },
      body: JSON.stringify({ model: world.model, messages: [{ role: 'user', content: 'x' }], stream: true }),
      signal: client.signal,
    })
    expect(response.status).toBe(200)
    await readUntil(bodyOf(response), ' two')
    client.abort()
    await vi.waitFor(() => expect(agent.cancelled).toBe(1), { timeout: 5000 })
    await vi.waitFor(async () => expect((await env.ACCOUNT.getByName(orgId).inspect()).openHolds).toEqual([]), {
      timeout: 5000,
    })
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'client_cancelled', charge: 'customer', input: 7, output: 2 },
    ])
  })
})

describe('time runs out', () => {
  test('before content: a 504 in the right shape, nothing charged beyond what the caller cut short', async () => {
    const world = new World()
    const agent = await world.agent(() => [accepted, never])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat(
      { stream: true },
      { headers: { 'x-penstock-deadline-ms': String(DEADLINE_MS) } },
    )
    expect(response.status).toBe(504)
    expect(await response.json()).toMatchObject({ error: { code: 'deadline_exceeded' } })
    expect(agent.dispatches[0]?.deadlineInMs).toBeLessThanOrEqual(DEADLINE_MS)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'deadline_exceeded', charge: 'customer', input: 7, output: 0, httpStatus: 504 },
    ])
  })

  test('of the gateway itself: the customer does not pay for it', async () => {
    const world = new World({ deadlineMs: DEADLINE_MS })
    await world.agent(() => [accepted, never])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat()
    expect(response.status).toBe(504)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'deadline_exceeded', charge: 'absorbed' }])
  })

  test('in the middle: an error event, no end mark, the tokens so far charged', async () => {
    const world = new World()
    await world.agent(() => [accepted, delta('one', 1), never])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat(
      { stream: true },
      { headers: { 'x-penstock-deadline-ms': String(DEADLINE_MS) } },
    )
    const { data, done } = readSse(await response.text())
    expect(done).toBe(false)
    expect(data.at(-1)).toMatchObject({ error: { code: 'deadline_exceeded' } })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'deadline_exceeded', charge: 'customer', input: 7, output: 1, source: 'stream_partial' },
    ])
  })

  test('between two events: the stall is an error of the backend', async () => {
    const world = new World({ idleMs: 1_000 })
    const agent = await world.agent(() => [accepted, delta('one', 1), never])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream: true })
    const { data, done } = readSse(await response.text())
    expect(done).toBe(false)
    expect(data.at(-1)).toMatchObject({ error: { code: 'backend_lost' } })
    await settled()
    await vi.waitFor(() => expect(agent.cancelled).toBe(1))
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'backend_lost', charge: 'customer', output: 1 }])
  })
})

describe('a long wait', () => {
  test('begins the stream with comments, and then answers in it', async () => {
    const world = new World({ keepAliveMs: 50 })
    const turn = gate()
    await world.agent(() => [{ wait: turn.opened }, ...answer(['late'])])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream: true })
    expect(response.status).toBe(200)
    const reader = bodyOf(response)
    await readUntil(reader, ': keep-alive\n\n: keep-alive\n\n')
    turn.open()
    await readUntil(reader, '[DONE]')
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', output: 1 }])
  })

  test('that ends in a failure says so in the stream, without an end mark', async () => {
    const world = new World({ keepAliveMs: 50 })
    const turn = gate()
    await world.agent(() => [{ wait: turn.opened }, 'cut'])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream: true })
    const reader = bodyOf(response)
    await readUntil(reader, ': keep-alive')
    turn.open()
    const rest = await readUntil(reader, 'error')
    expect(rest).toContain('backend_lost')
    expect(rest).not.toContain('[DONE]')
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'backend_lost', charge: 'absorbed', httpStatus: 200 },
    ])
  })
})

test('a client that reads slowly makes the backend wait, not the gateway remember', async () => {
  const world = new World()
  let produced = 0
  const endless = new Response(
    new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          produced++
          const line = produced === 1 ? accepted : delta('x'.repeat(10_000), produced - 1)
          controller.enqueue(new TextEncoder().encode(`${JSON.stringify(line)}\n`))
        },
      },
      { highWaterMark: 0 },
    ),
    { headers: { 'content-type': 'application/x-ndjson' } },
  )
  await world.agent(() => endless)
  await world.catalog([FLEET_TARGET(world.model)])
  const { response, settled } = await world.chat({ stream: true })
  const reader = bodyOf(response)
  await readUntil(reader, 'xxx')
  const before = produced
  await vi.waitFor(() => expect(produced).toBeGreaterThanOrEqual(before))
  expect(produced).toBeLessThan(20)
  await reader.cancel()
  await settled()
})

test('the only backend breaks off, and the next request goes to it all the same', async () => {
  const world = new World()
  let dispatches = 0
  await world.agent(() => (dispatches++ === 0 ? [accepted, delta('one', 1), 'cut'] : answer(['back'])))
  await world.catalog([FLEET_TARGET(world.model)])
  const first = await world.chat({ stream: true })
  expect(await first.response.text()).toContain('backend_lost')
  const second = await world.chat()
  expect(second.response.status).toBe(200)
  await second.settled()
})

test('a connection that was closed while it was idle is tried once more', async () => {
  const world = new World()
  const agent = await world.agent(() => answer(['one']))
  await world.catalog([FLEET_TARGET(world.model)])
  let lost = 0
  const host = new URL(agent.url).host
  world.hosts.set(host, (request) => {
    if (lost++ === 0) throw new Error('Network connection lost.')
    return agent.handle(request)
  })
  const { response, settled } = await world.chat()
  expect(response.status).toBe(200)
  expect(response.headers.get('x-penstock-attempts')).toBe('1')
  await settled()
})

test('a settle that fails is asked again until it stands', async () => {
  const world = new World()
  await world.agent(() => answer(['one']))
  await world.catalog([FLEET_TARGET(world.model)])
  const { orgId } = await world.ownTenant()
  let failures = 2
  const real = env.ACCOUNT.getByName(orgId)
  vi.spyOn(env.ACCOUNT, 'getByName').mockImplementation(
    () =>
      new Proxy(real, {
        get(target, name) {
          if (name === 'settle' && failures-- > 0) return () => Promise.reject(new Error('overloaded'))
          return Reflect.get(target, name, target)
        },
      }),
  )
  const { response, settled } = await world.chat()
  expect(response.status).toBe(200)
  await settled()
  vi.restoreAllMocks()
  const { attempts, holds } = await world.recorded()
  expect(attempts).toMatchObject([{ status: 'ok', output: 1 }])
  expect(holds).toBe(0)
})

test('an account that cannot be reached is a 503, and nothing is dispatched', async () => {
  const world = new World()
  const agent = await world.agent(() => answer(['one']))
  await world.catalog([FLEET_TARGET(world.model)])
  const { orgId } = await world.ownTenant()
  const real = env.ACCOUNT.getByName(orgId)
  vi.spyOn(env.ACCOUNT, 'getByName').mockImplementation(
    () => new Proxy(real, { get: () => () => Promise.reject(new Error('object reset')) }),
  )
  const { response } = await world.chat()
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ error: { code: 'unavailable' } })
  expect(response.headers.get('retry-after')).toBe('1')
  expect(agent.dispatches).toHaveLength(0)
})
