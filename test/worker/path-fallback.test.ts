// Falling over before the first content: between backends, from own to bought and back, and where it must not happen.
import { describe, expect, test, vi } from 'vitest'
import type { Json } from './support/admin.ts'
import { answer, frame, refusal, usage } from './support/fake-agent.ts'
import { FLEET_TARGET, readSse, World } from './support/path.ts'

/** A vendor that streams these words. */
const vendor = (words: string[]) => () => {
  const chunks = words.map((content) => ({ choices: [{ index: 0, delta: { content } }] }))
  const end = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }
  const counted = { choices: [], usage: { prompt_tokens: 5, completion_tokens: words.length } }
  const text = [...chunks, end, counted].map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')
  return new Response(`${text}data: [DONE]\n\n`, { headers: { 'content-type': 'text/event-stream' } })
}

const failing = (
  status: number,
  headers: Record<string, string> = {},
  body: unknown = { error: { message: 'no' } },
) => {
  return () => Response.json(body, { status, headers })
}

const sse = (text: string) => new Response(text, { headers: { 'content-type': 'text/event-stream' } })

const target = (provider: string) => ({ provider, model: 'vendor-model', context_tokens: 4096 })

describe.each([{ stream: false }, { stream: true }])('with stream = $stream', ({ stream }) => {
  const textOf = async (response: Response) => {
    if (!stream) return (await response.json<Json>()).choices[0].message.content
    const { data, done } = readSse(await response.text())
    expect(done).toBe(true)
    return data.map((chunk) => (chunk as Json).choices[0]?.delta.content ?? '').join('')
  }

  test('own backends down: the provider answers, and each side is recorded', async () => {
    const world = new World()
    const agent = await world.agent(() => [
      { type: 'accepted', usage: usage(7, 0), queueMs: 0 },
      { type: 'delta', choice: 0, text: '', outputTokens: 1 },
      { type: 'error', code: 'engine_lost', message: 'gone', usage: usage(7, 1) },
    ])
    const name = await world.provider(vendor(['hello']))
    await world.catalog([FLEET_TARGET(world.model), target(name)])
    const { response, settled } = await world.chat({ stream })
    expect(response.status).toBe(200)
    expect(response.headers.get('x-penstock-attempts')).toBe('2')
    expect(response.headers.get('x-penstock-target')).toBe(name)
    expect(await textOf(response)).toBe('hello')
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      {
        attempt: 1,
        provider: 'fleet',
        status: 'engine_lost',
        charge: 'absorbed',
        input: 7,
        output: 1,
        source: 'provider',
      },
      { attempt: 2, provider: name, status: 'ok', charge: 'customer', input: 5, output: 1, source: 'provider' },
    ])
    expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
    expect(holds).toBe(0)
    expect(agent.dispatches).toHaveLength(1)
  })

  test('the provider down: own backends answer', async () => {
    const world = new World()
    await world.agent(() => answer(['own']))
    const name = await world.provider(failing(500))
    await world.catalog([target(name), FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream })
    expect(await textOf(response)).toBe('own')
    await settled()
    const { attempts } = await world.recorded()
    expect(attempts).toMatchObject([
      { provider: name, status: 'upstream_error', charge: 'absorbed', input: 0, output: 0, costNanoUsd: 0n },
      { provider: 'fleet', status: 'ok', charge: 'customer' },
    ])
  })

  test.each([
    ['a 200 with an error body', () => Response.json({ error: { message: 'quota' } })],
    ['a 200 with an HTML page', () => new Response('<html>', { headers: { 'content-type': 'text/html' } })],
    ['an error event before content', () => sse('data: {"error":{"message":"overloaded"}}\n\n')],
    ['a role and then nothing', () => sse('data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n')],
    ['an empty stream', () => sse('')],
    ['a redirect', () => new Response(null, { status: 302, headers: { location: 'http://169.254.169.254/' } })],
    ['wrong credentials', failing(401)],
    ['an unknown model', failing(404)],
    ['529', failing(529)],
    ['a line without end', () => sse(`data: ${'x'.repeat(3_000_000)}`)],
  ])('%s at the provider falls over', async (_, host) => {
    const world = new World()
    await world.agent(() => answer(['own']))
    const name = await world.provider(host)
    await world.catalog([target(name), FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream })
    expect(await textOf(response)).toBe('own')
    await settled()
    expect((await world.recorded()).attempts.map((row) => row.charge)).toEqual(['absorbed', 'customer'])
  })

  test.each([
    [400, 'invalid_request', 400],
    [413, 'request_too_large', 413],
    [422, 'invalid_request', 400],
  ])('a caller fault (%i) at the provider does not', async (status, code, seen) => {
    const world = new World()
    const agent = await world.agent(() => answer(['own']))
    const name = await world.provider(failing(status, {}, { error: { message: 'bad field', param: 'top_p' } }))
    await world.catalog([target(name), FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream })
    expect(response.status).toBe(seen)
    expect(await response.json()).toMatchObject({ error: { code, param: 'top_p' } })
    await settled()
    expect(agent.dispatches).toHaveLength(0)
    const { requests, holds } = await world.recorded()
    expect(requests).toEqual([{ status: code, attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('Retry-After of the last target reaches the caller', async () => {
    const world = new World()
    const name = await world.provider(failing(429, { 'retry-after': '7' }))
    await world.catalog([target(name)])
    const { response } = await world.chat({ stream })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('7')
    expect(response.headers.get('retry-after-ms')).toBe('7000')
    expect(response.headers.get('x-should-retry')).toBe('true')
    expect(await response.json()).toMatchObject({ error: { code: 'overloaded' } })
  })

  test('a silent target is given up after its time', async () => {
    const world = new World({ firstContentMs: 1_000 })
    await world.agent(() => answer(['own']))
    const name = await world.provider(() => new Promise<Response>(() => {}))
    await world.catalog([target(name), FLEET_TARGET(world.model)])
    const { response } = await world.chat({ stream })
    expect(await textOf(response)).toBe('own')
  })

  test('a backend that refuses is replaced by the next one within the same attempt', async () => {
    const world = new World()
    const script = () => refusal(503, 'overloaded', 1000)
    const full = [await world.agent(script), await world.agent(script)]
    const good = await world.agent(() => answer(['here']))
    // Busy, so that it is asked last.
    await good.report([frame(world.model, { sequencesRunning: 8, sequence: 2 })])
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream })
    expect(await textOf(response)).toBe('here')
    expect(response.headers.get('x-penstock-attempts')).toBe('1')
    expect(full.map((agent) => agent.dispatches.length)).toEqual([1, 1])
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ attempt: 1, status: 'ok' }])
  })

  test('every backend full: 503 with the soonest time to come back', async () => {
    const world = new World()
    await world.agent(() => refusal(429, 'overloaded', 4000))
    await world.agent(() => refusal(429, 'overloaded', 1500))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after-ms')).toBe('1500')
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'overloaded', charge: 'absorbed', costNanoUsd: 0n, httpStatus: 503 }])
    expect(requests).toEqual([{ status: 'overloaded', attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('an engine lost before content: another backend answers in a new attempt', async () => {
    const world = new World()
    let dispatches = 0
    const script = () => {
      dispatches++
      if (dispatches > 1) return answer(['second'])
      return [{ type: 'accepted' as const, usage: usage(7, 0), queueMs: 0 }, 'cut' as const]
    }
    await world.agent(script)
    await world.agent(script)
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ stream })
    expect(await textOf(response)).toBe('second')
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { attempt: 1, status: 'backend_lost', charge: 'absorbed', input: 7, source: 'stream_partial' },
      { attempt: 2, status: 'ok', charge: 'customer' },
    ])
  })
})

test('no backend for the model is a typed 503, and nothing is held or recorded twice', async () => {
  const world = new World()
  await world.catalog([FLEET_TARGET(world.model)])
  const { response, settled } = await world.chat()
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ error: { code: 'no_target' } })
  await settled()
  expect((await world.recorded()).holds).toBe(0)
})

/** A vendor whose content rules end its answer behind these words. */
const withholding = (words: string[]) => () => {
  const chunks = words.map((content) => ({ choices: [{ index: 0, delta: { content } }] }))
  const end = { choices: [{ index: 0, delta: {}, finish_reason: 'content_filter' }] }
  const counted = { choices: [], usage: { prompt_tokens: 9, completion_tokens: words.length } }
  const text = [...chunks, end, counted].map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')
  return sse(`${text}data: [DONE]\n\n`)
}

describe.each([{ stream: false }, { stream: true }])(
  'an answer that is withheld, with stream = $stream',
  ({ stream }) => {
    const asked = async (words: string[], fallback_on: string[], hosts = [vendor(['hello'])]) => {
      const world = new World()
      const names: string[] = []
      for (const host of [withholding(words), ...hosts]) names.push(await world.provider(host))
      await world.catalog(names.map(target), { fallback_on })
      const { response, settled } = await world.chat({ stream })
      const text = await response.text()
      await settled()
      const { attempts, holds } = await world.recorded()
      expect(holds).toBe(0)
      return { status: response.status, text, attempts }
    }

    test('before any of it is shown is tried elsewhere where the policy says so, and the gateway bears it', async () => {
      const { status, text, attempts } = await asked([], ['content_filter'])
      expect(status).toBe(200)
      expect(text).toContain('hello')
      expect(text).not.toContain('content_filter')
      expect(attempts).toMatchObject([
        { attempt: 1, status: 'content_filtered', charge: 'absorbed' },
        { attempt: 2, status: 'ok', charge: 'customer', input: 5 },
      ])
    })

    test('is the answer where the policy says nothing of it, or no other target is left', async () => {
      for (const { text, attempts } of [await asked([], ['refused']), await asked([], ['content_filter'], [])]) {
        expect(text).toContain('content_filter')
        expect(attempts).toMatchObject([{ status: 'ok', charge: 'customer', input: 9 }])
      }
    })

    test('in its middle is tried elsewhere only while the client has had none of it', async () => {
      const { text, attempts } = await asked(['First'], ['content_filter'])
      expect(text.includes('First')).toBe(stream)
      expect(attempts).toHaveLength(stream ? 1 : 2)
    })
  },
)

test('a prompt over the window is the caller fault the agent says it is, and is not tried elsewhere', async () => {
  const world = new World()
  await world.agent(() =>
    Response.json({ code: 'context_length_exceeded', message: 'too long', param: 'messages' }, { status: 400 }),
  )
  const name = await world.provider(() => Response.json({ error: 'must not be called' }, { status: 500 }))
  await world.catalog([FLEET_TARGET(world.model), target(name)])
  const { response } = await world.chat()
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ error: { code: 'context_length_exceeded', param: 'messages' } })
  expect(world.calls.map((call) => call.host)).not.toContain(`${name}.example.com`)
})

test('a secret that an upstream quotes reaches neither the answer nor the log', async () => {
  const secret = `sk-canary-${crypto.randomUUID()}`
  const lines: string[] = []
  const spy = vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line))
  try {
    const world = new World()
    const hosts = [
      failing(400, {}, { error: { message: `Incorrect API key ${secret}` } }),
      () => sse(`data: {"error":{"message":"bad key ${secret}"}}\n\n`),
    ]
    for (const host of hosts) {
      const name = await world.provider(host, secret)
      await world.catalog([target(name)])
      const fresh = new World()
      fresh.hosts.set(`${name}.example.com`, host)
      await fresh.catalog([target(name)])
      const { response } = await fresh.chat()
      expect(response.status).toBeGreaterThanOrEqual(400)
      expect(await response.text()).not.toContain(secret)
    }
    expect(lines.length).toBeGreaterThan(0)
    expect(lines.join('\n')).not.toContain(secret)
    expect(lines.join('\n')).not.toContain('Say something.')
  } finally {
    spy.mockRestore()
  }
})
