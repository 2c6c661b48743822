// Virtual models on the whole path: who is asked next and with which key, and what is waited for. Pure decisions have their own
// tests in test/unit/gateway/routing; two attempts for one request are routing-beside.test.ts.
import { describe, expect, test, vi } from 'vitest'
import { RETRIES_MIN } from '../../gateway/routing/retry-budget.ts'
import { admin, type Json } from './support/admin.ts'
import { type Host, readSse, World } from './support/path.ts'
import {
  fails,
  hostsAsked,
  keysUsed,
  late,
  MODEL,
  never,
  piece,
  ROLE,
  SSE,
  says,
  target,
  textOf,
} from './support/vendor.ts'

async function addKey(provider: string, name: string, secret: string): Promise<void> {
  const made = await admin('PUT', `/providers/${provider}/keys/${name}`, { secret })
  if (made.status >= 300) throw new Error(made.text)
}

describe('a target that fails', () => {
  test('alone is asked again after a wait, and each try has its row', async () => {
    const world = new World()
    let calls = 0
    const name = await world.provider((request) => (++calls < 3 ? fails(500)(request) : says('back')(request)))
    await world.catalog([target(name)])
    const { response, settled } = await world.chat()
    expect(await textOf(response)).toBe('back')
    expect(response.headers.get('x-penstock-route')).toBe(
      `${name}/${MODEL}:status>${name}/${MODEL}:status>${name}/${MODEL}:ok`,
    )
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts.map(({ status, charge, route }) => [status, charge, route.role])).toEqual([
      ['upstream_error', 'absorbed', 'primary'],
      ['upstream_error', 'absorbed', 'retry'],
      ['ok', 'customer', 'retry'],
    ])
    expect(attempts[1]?.route).toMatchObject({ kind: 'status', turn: 1, reason: 'ordered', key: 'default' })
    expect(requests).toEqual([{ status: 'ok', attempts: 3 }])
    expect(holds).toBe(0)
  })

  test('is asked no more often than the policy allows', async () => {
    const world = new World()
    const name = await world.provider(fails(503))
    await world.catalog([target(name)], { attempts_max: 2 })
    const { response, settled } = await world.chat()
    expect(response.status).toBe(503)
    await settled()
    expect(world.calls).toHaveLength(2)
    expect((await world.recorded()).requests).toEqual([{ status: 'overloaded', attempts: 2 }])
  })

  test('is not asked again where the deadline leaves no time', async () => {
    const world = new World()
    let calls = 0
    const bad = fails(500, { 'retry-after-ms': '3000' })
    const name = await world.provider((request) => (++calls === 1 ? says('warm')(request) : bad(request)))
    await world.catalog([target(name)])
    expect(await textOf((await world.chat()).response)).toBe('warm')
    // Time enough for one attempt, and for none after the pause.
    const { response } = await world.chat({}, { headers: { 'x-penstock-deadline-ms': '3000' } })
    expect(response.status).toBe(502)
    expect(calls).toBe(2)
  })

  test.each([
    ['in seconds', () => ({ 'retry-after': '1' })],
    ['in milliseconds', () => ({ 'retry-after-ms': '700' })],
    ['as a date', () => ({ 'retry-after': new Date(Date.now() + 1500).toUTCString() })],
  ])('and names a time %s is asked again after it', async (_, headers) => {
    const world = new World()
    const asked: number[] = []
    const name = await world.provider((request) => {
      asked.push(Date.now())
      return asked.length === 1 ? fails(429, headers())(request) : says('now')(request)
    })
    await world.catalog([target(name)])
    const { response, settled } = await world.chat()
    expect(await textOf(response)).toBe('now')
    const [first = 0, second = 0] = asked
    // A date has whole seconds: it may be as near as half a second.
    expect(second - first).toBeGreaterThanOrEqual(450)
    await settled()
    const { attempts } = await world.recorded()
    expect(attempts[0]?.route.retry_after_ms).toBeGreaterThan(400)
    expect(attempts[1]?.route.waited_ms).toBeGreaterThanOrEqual(Number(attempts[0]?.route.retry_after_ms))
  })

  test('and names a long time is left alone until then, and the next caller hears of it without an attempt', async () => {
    const world = new World()
    const name = await world.provider(fails(429, { 'retry-after': '30' }))
    await world.catalog([target(name)])
    const first = await world.chat()
    expect(first.response.status).toBe(503)
    expect(first.response.headers.get('retry-after')).toBe('30')
    const second = await world.chat()
    expect(second.response.status).toBe(503)
    expect(Number(second.response.headers.get('retry-after'))).toBeGreaterThan(25)
    expect(await second.response.json()).toMatchObject({ error: { code: 'overloaded' } })
    await Promise.all([first.settled(), second.settled()])
    expect(world.calls).toHaveLength(1)
    expect((await world.recorded()).holds).toBe(0)
  })

  test.each([
    ['no connection', () => Promise.reject(new TypeError('connection refused')), 'connect'],
    ['no head in time', () => new Promise<Response>(() => {}), 'head_timeout'],
    ['a head and no content', late(never, ROLE, ''), 'first_token_timeout'],
    ['an error event', () => new Response(`${ROLE}data: {"error":{"message":"busy"}}\n\n`, SSE), 'in_band'],
    ['a 200 with an error body', () => Response.json({ error: { message: 'quota' } }), 'ok_with_error'],
    ['529', fails(529), 'overloaded'],
    ['an unknown model', fails(404), 'unknown_model'],
  ] as const)('by %s hands over, and the row says how', async (_, host, kind) => {
    const world = new World()
    const [bad, good] = [await world.provider(host), await world.provider(says('good'))]
    await world.catalog([target(bad), target(good)], { first_token_timeout_ms: 500 })
    const { response, settled } = await world.chat({ stream: true })
    expect(response.headers.get('x-penstock-route')).toBe(`${bad}/${MODEL}:${kind}>${good}/${MODEL}:running`)
    expect(await textOf(response)).toBe('good')
    await settled()
    const { attempts } = await world.recorded()
    expect(attempts.map(({ route }) => [route.role, route.kind])).toEqual([
      ['primary', kind],
      ['fallback', undefined],
    ])
  })

  test('after its first content ends the stream in band, never as if it were complete', async () => {
    const world = new World()
    const [bad, good] = [await world.provider(late(never, piece('half'), '')), await world.provider(says('good'))]
    await world.catalog([target(bad), target(good)], { idle_timeout_ms: 200 })
    const { response, settled } = await world.chat({ stream: true })
    const { data, done } = readSse(await response.text())
    expect(done).toBe(false)
    expect(data.at(-1)).toMatchObject({ error: { code: 'upstream_error' } })
    await settled()
    expect(hostsAsked(world)).toEqual([bad])
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'upstream_error', charge: 'customer', route: { kind: 'stall' } }])
    expect(holds).toBe(0)
  })

  test('five times in a row is asked last, and looked at again after its rest', async () => {
    const world = new World()
    let isDown = true
    const name = await world.provider((request) => (isDown ? fails(500)(request) : says('first')(request)))
    const spare = await world.provider(says('spare'))
    await world.catalog([target(name), target(spare)])
    vi.useFakeTimers({ toFake: ['Date'] })
    try {
      for (let index = 0; index < 5; index++) expect(await textOf((await world.chat()).response)).toBe('spare')
      world.calls.length = 0
      expect(await textOf((await world.chat()).response)).toBe('spare')
      expect(hostsAsked(world)).toEqual([spare])
      isDown = false
      vi.setSystemTime(Date.now() + 6_000)
      expect(await textOf((await world.chat()).response)).toBe('first')
      expect(await textOf((await world.chat()).response)).toBe('first')
    } finally {
      vi.useRealTimers()
    }
  })
})

test('an outage is not made worse: repeats of a target stay within a few, or a share of its requests', async () => {
  const world = new World()
  const name = await world.provider(fails(500))
  await world.catalog([target(name)])
  await world.ownTenant()
  const sent = await Promise.all(Array.from({ length: 10 }, () => world.chat()))
  for (const { response } of sent) expect(response.status).toBe(502)
  await Promise.all(sent.map(({ settled }) => settled()))
  // Without a bound it were 40.
  expect(world.calls).toHaveLength(10 + RETRIES_MIN)
  const { requests, holds } = await world.recorded()
  expect(requests).toHaveLength(10)
  expect(holds).toBe(0)
})

describe('several keys of a provider', () => {
  test.each([
    ['over its limit', 429, 'rate_limited'],
    ['refused', 401, 'credentials'],
  ])('one that is %s hands over to the other at once, and rests', async (_, status, kind) => {
    const world = new World()
    const bad = `sk-bad-${crypto.randomUUID()}`
    const good = `sk-good-${crypto.randomUUID()}`
    const name = await world.provider(
      (request) =>
        request.headers.get('authorization') === `Bearer ${bad}` ? fails(status)(request) : says('ok')(request),
      bad,
    )
    await addKey(name, 'spare', good)
    await world.catalog([target(name)])
    for (let index = 0; index < 8; index++) {
      const { response, settled } = await world.chat()
      expect(await textOf(response)).toBe('ok')
      await settled()
    }
    // Until it was drawn once; afterwards it rests.
    expect(keysUsed(world).filter((key) => key === bad).length).toBeLessThanOrEqual(1)
    const { attempts } = await world.recorded()
    for (const { route, status: ended } of attempts)
      if (ended !== 'ok') expect(route).toMatchObject({ key: 'default', kind })
    expect(attempts.filter(({ status: ended }) => ended === 'ok')).toHaveLength(8)
  })
})

describe('faults found in the request', () => {
  test('a prompt too long for one goes to a larger window where the policy says so, and nowhere else', async () => {
    const world = new World()
    const tooLong: Host = () =>
      Response.json({ error: { message: 'long', code: 'context_length_exceeded' } }, { status: 400 })
    const [small, same, large] = [
      await world.provider(tooLong),
      await world.provider(says('same')),
      await world.provider(says('large')),
    ]
    const targets = [target(small), target(same), target(large, { context_tokens: 9000 })]
    await world.catalog(targets, { fallback_on: ['context_length'] })
    expect(await textOf((await world.chat()).response)).toBe('large')
    await world.catalog(targets)
    const { response } = await world.chat()
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { code: 'context_length_exceeded' } })
  })
})

describe('hints', () => {
  test('choose among the targets', async () => {
    const world = new World()
    const [a, b] = [await world.provider(says('a')), await world.provider(says('b'))]
    await world.catalog([target(a, { region: 'us' }), target(b, { region: 'eu' })])
    const ask = async (headers: Record<string, string>) => textOf((await world.chat({}, { headers })).response)
    expect(await ask({})).toBe('a')
    expect(await ask({ 'x-penstock-order': `${b}/${MODEL}` })).toBe('b')
    expect(await ask({ 'x-penstock-only': b })).toBe('b')
    expect(await ask({ 'x-penstock-ignore': a })).toBe('b')
    expect(await ask({ 'x-penstock-region': 'eu' })).toBe('b')
    expect(await ask({ 'x-penstock-max-price': '2' })).toBe('a')
  })

  test('that leave nothing, or are none, are the caller’s fault and cost nothing', async () => {
    const world = new World()
    const name = await world.provider(says('a'))
    await world.catalog([target(name)])
    const cheap = await world.chat({}, { headers: { 'x-penstock-max-price': '0.01' } })
    expect(cheap.response.status).toBe(400)
    expect(await cheap.response.json()).toMatchObject({
      error: { param: 'x-penstock-max-price', message: expect.stringContaining(`${name}/${MODEL}`) },
    })
    const wrong = await world.chat({}, { headers: { 'x-penstock-hedge': 'perhaps' } })
    expect(wrong.response.status).toBe(400)
    expect(await wrong.response.json()).toMatchObject({ error: { param: 'x-penstock-hedge' } })
    expect(world.calls).toHaveLength(0)
    expect((await world.recorded()).attempts).toHaveLength(0)
  })
})

describe('the choice of a target', () => {
  test('sticks to one for each conversation', async () => {
    const world = new World()
    const names = [await world.provider(says('x')), await world.provider(says('x')), await world.provider(says('x'))]
    await world.catalog(
      names.map((name) => target(name)),
      { strategy: 'weighted', sticky: 'conversation' },
    )
    const first = { role: 'user', content: 'Remember me.' }
    for (const turns of [
      [],
      [
        { role: 'assistant', content: 'I do.' },
        { role: 'user', content: 'More.' },
      ],
    ])
      for (let index = 0; index < 3; index++) await world.chat({ messages: [first, ...turns] })
    expect(new Set(hostsAsked(world)).size).toBe(1)
  })

  test('is the fastest, once each has been measured', async () => {
    const world = new World()
    const slow: Host = (request) => new Promise((resolve) => setTimeout(() => resolve(says('slow')(request)), 400))
    const [first, second] = [await world.provider(slow), await world.provider(says('quick'))]
    await world.catalog([target(first), target(second)], { strategy: 'fastest' })
    const asked: string[] = []
    for (let index = 0; index < 4; index++) asked.push(await textOf((await world.chat()).response))
    expect(asked).toEqual(['slow', 'quick', 'quick', 'quick'])
  })

  test('is the cheapest by this request’s worst case', async () => {
    const world = new World()
    const [dear, cheap] = [await world.provider(says('dear')), await world.provider(says('cheap'))]
    // Same prices, smaller window: less can be used there.
    await world.catalog([target(dear), target(cheap, { context_tokens: 2048 })], { strategy: 'cheapest' })
    expect(await textOf((await world.chat()).response)).toBe('cheap')
  })
})

test('how an attempt came about is shown with its request', async () => {
  const world = new World()
  const [bad, good] = [await world.provider(fails(500)), await world.provider(says('good'))]
  await world.catalog([target(bad), target(good)])
  const { response, settled } = await world.chat()
  await settled()
  await world.recorded()
  const { orgId } = await world.ownTenant()
  const shown = await admin('GET', `/usage/requests/${response.headers.get('x-request-id')}?org=${orgId}`)
  expect(shown.body.attempt_rows.map((row: Json) => row.route)).toMatchObject([
    { role: 'primary', reason: 'ordered', turn: 1, kind: 'status', key: 'default' },
    { role: 'fallback', reason: 'ordered', turn: 2, standing: 'closed' },
  ])
})
