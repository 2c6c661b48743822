// More than one attempt for one request, on the whole path: hedges, cascades and shadows: who is asked, who pays, and that every
// hold ends once.
import { describe, expect, test } from 'vitest'
import { admin, type Json } from './support/admin.ts'
import { usage } from './support/fake-agent.ts'
import { FLEET_TARGET, gate, type Host, World } from './support/path.ts'
import {
  chunk,
  ending,
  fails,
  hostsAsked,
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

describe.each([{ stream: false }, { stream: true }])('a hedge with stream = $stream', ({ stream }) => {
  const HEDGE = { headers: { 'x-penstock-hedge': 'true' } }
  const policy = { hedge: { after_ms: 100 } }

  test('asks a second target beside a silent one, and both are paid', async () => {
    const world = new World()
    // Its prompt was taken on and a token held back: what is proven is charged.
    await world.agent(() => [
      { type: 'accepted', usage: usage(7, 0), queueMs: 0 },
      { type: 'delta', choice: 0, text: '', outputTokens: 1 },
      { wait: never },
    ])
    const quick = await world.provider(says('quick'))
    await world.catalog([FLEET_TARGET(world.model), target(quick)], policy)
    const { response, settled } = await world.chat({ stream }, HEDGE)
    expect(await textOf(response)).toBe('quick')
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      {
        attempt: 1,
        provider: 'fleet',
        status: 'client_cancelled',
        charge: 'customer',
        source: 'stream_partial',
        input: 7,
        output: 1,
        costNanoUsd: 9_000n,
      },
      { attempt: 2, provider: quick, status: 'ok', charge: 'customer', input: 5, output: 2, costNanoUsd: 9_000n },
    ])
    expect(attempts.map(({ route }) => route.role)).toEqual(['primary', 'hedge'])
    expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
    expect(holds).toBe(0)
  })

  test('the first one goes on where it is the quicker after all', async () => {
    const world = new World()
    const { opened, open } = gate()
    const first = await world.provider(late(opened, ROLE, piece('first') + ending()))
    const second = await world.provider(() => {
      open()
      return new Promise<Response>(() => {})
    })
    await world.catalog([target(first), target(second)], policy)
    const { response, settled } = await world.chat({ stream }, HEDGE)
    expect(await textOf(response)).toBe('first')
    expect(response.headers.get('x-penstock-target')).toBe(first)
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      { provider: first, status: 'ok', charge: 'customer', costNanoUsd: 9_000n },
      { provider: second, status: 'client_cancelled', charge: 'customer', input: 0, output: 0, costNanoUsd: 0n },
    ])
    expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
    expect(holds).toBe(0)
  })

  test('a second one that fails leaves the first alone, and one that fails first leaves the second', async () => {
    for (const isFirstBad of [false, true]) {
      const world = new World()
      const { opened, open } = gate()
      const breaks = `data: {"error":{"message":"busy"}}\n\n`
      const slow = await world.provider(late(opened, ROLE, isFirstBad ? breaks : piece('slow') + ending()))
      const other = await world.provider((request) => {
        setTimeout(open, 50)
        if (!isFirstBad) return fails(500)(request)
        return new Promise((resolve) => setTimeout(() => resolve(says('other')(request)), 200))
      })
      await world.catalog([target(slow), target(other)], policy)
      const { response, settled } = await world.chat({ stream }, HEDGE)
      expect(await textOf(response)).toBe(isFirstBad ? 'other' : 'slow')
      await settled()
      const { attempts, requests, holds } = await world.recorded()
      expect(attempts.map(({ status, charge }) => [status, charge]).toSorted()).toEqual([
        ['ok', 'customer'],
        ['upstream_error', 'absorbed'],
      ])
      expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
      expect(holds).toBe(0)
    }
  })

  test('is the caller’s choice, and needs the policy’s', async () => {
    const world = new World()
    const slow: Host = (request) => new Promise((resolve) => setTimeout(() => resolve(says('slow')(request)), 300))
    const [first, second] = [await world.provider(slow), await world.provider(says('second'))]
    await world.catalog([target(first), target(second)], policy)
    expect(await textOf((await world.chat({ stream })).response)).toBe('slow')
    await world.catalog([target(first), target(second)])
    expect(await textOf((await world.chat({ stream }, HEDGE)).response)).toBe('slow')
    expect(hostsAsked(world)).toEqual([first, first])
  })

  test('finds no room in the caller’s limits and leaves the first one to answer', async () => {
    const world = new World()
    const slow: Host = (request) => new Promise((resolve) => setTimeout(() => resolve(says('slow')(request)), 400))
    const [first, second] = [await world.provider(slow), await world.provider(says('second'))]
    await world.catalog([target(first), target(second)], policy)
    const { orgId } = await world.ownTenant()
    // A hold is some $0.0085.
    const limits = [{ meter: 'money', window: 'day', max_usd: '0.01' }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBeLessThan(300)
    const { response, settled } = await world.chat({ stream }, HEDGE)
    expect(response.headers.get('x-penstock-attempts')).toBe('1')
    expect(await textOf(response)).toBe('slow')
    await settled()
    expect(hostsAsked(world)).toEqual([first])
    const { requests, holds } = await world.recorded()
    expect(requests).toEqual([{ status: 'ok', attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('a client that leaves both ends both holds', async () => {
    const world = new World()
    const asked = gate()
    const first = await world.provider(late(never, ROLE, ''))
    const second = await world.provider((request) => {
      asked.open()
      return late(never, ROLE, '')(request)
    })
    await world.catalog([target(first), target(second)], policy)
    const leaving = new AbortController()
    const sent = world.chat({ stream }, { ...HEDGE, signal: leaving.signal })
    await asked.opened
    leaving.abort()
    const { settled } = await sent
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts.map(({ status, charge }) => [status, charge])).toEqual([
      ['client_cancelled', 'customer'],
      ['client_cancelled', 'customer'],
    ])
    expect(requests).toHaveLength(1)
    expect(holds).toBe(0)
  })
})

describe.each([{ stream: false }, { stream: true }])('a cascade with stream = $stream', ({ stream }) => {
  const policy = { cascade: { escalate_on: ['length', 'empty'] } }

  test('a good small answer is the answer', async () => {
    const world = new World()
    const [small, large] = [await world.provider(says('small')), await world.provider(says('large'))]
    await world.catalog([target(small), target(large)], policy)
    const { response, settled } = await world.chat({ stream })
    expect(await textOf(response)).toBe('small')
    await settled()
    expect(hostsAsked(world)).toEqual([small])
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', charge: 'customer', output: 2 }])
  })

  test('one that falls under a rule is paid, and the larger model answers', async () => {
    const world = new World()
    const [small, large] = [await world.provider(says('cut', 'length')), await world.provider(says('large'))]
    await world.catalog([target(small), target(large)], policy)
    const { response, settled } = await world.chat({ stream })
    expect(response.headers.get('x-penstock-route')).toContain(`${small}/${MODEL}:escalated_length>${large}`)
    expect(await textOf(response)).toBe('large')
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      { provider: small, status: 'ok', charge: 'customer', costNanoUsd: 9_000n, route: { escalated: 'length' } },
      { provider: large, status: 'ok', charge: 'customer', costNanoUsd: 9_000n, route: { role: 'cascade' } },
    ])
    expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
    expect(holds).toBe(0)
  })

  test('where the larger one fails, the smaller one’s answer is better than none', async () => {
    const world = new World()
    const [small, large] = [await world.provider(says('cut', 'length')), await world.provider(fails(404))]
    await world.catalog([target(small), target(large)], policy)
    const { response, settled } = await world.chat({ stream })
    expect(await textOf(response)).toBe('cut')
    expect(response.headers.get('x-penstock-target')).toBe(small)
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts.map(({ status, charge }) => [status, charge])).toEqual([
      ['ok', 'customer'],
      ['upstream_error', 'absorbed'],
    ])
    expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
    expect(holds).toBe(0)
  })
})

test.each([{ stream: false }, { stream: true }])(
  'a kept answer is given where the deadline ends the larger model, with stream = $stream',
  async ({ stream }) => {
    const world = new World({ deadlineMs: 1000 })
    const [small, large] = [await world.provider(says('cut', 'length')), await world.provider(late(never, ROLE, ''))]
    await world.catalog([target(small), target(large)], { cascade: { escalate_on: ['length'] } })
    const { response, settled } = await world.chat({ stream })
    expect(response.status).toBe(200)
    expect(await textOf(response)).toBe('cut')
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts.map(({ status, charge }) => [status, charge])).toEqual([
      ['ok', 'customer'],
      ['deadline_exceeded', 'absorbed'],
    ])
    expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
    expect(holds).toBe(0)
  },
)

test('confidence is measured by probabilities that the caller did not ask for and does not see', async () => {
  const world = new World()
  const unsure: Host = () => {
    const entry = { token: 'x', logprob: Math.log(0.2), bytes: [120], top_logprobs: [] }
    const choice = { index: 0, delta: { content: 'perhaps' }, logprobs: { content: [entry], refusal: null } }
    return new Response(chunk({ choices: [choice] }) + ending(), SSE)
  }
  const [small, large] = [await world.provider(unsure), await world.provider(says('surely'))]
  await world.catalog([target(small), target(large)], {
    cascade: { escalate_on: ['low_confidence'], confidence_min: 0.5 },
  })
  expect(await textOf((await world.chat()).response)).toBe('surely')
  expect(world.calls.map(({ body }) => body.logprobs)).toEqual([true, undefined])
  await world.catalog([target(small), target(large)], {
    cascade: { escalate_on: ['low_confidence'], confidence_min: 0.1 },
  })
  const body = await (await world.chat()).response.json<Json>()
  expect(body.choices[0]).toMatchObject({ message: { content: 'perhaps' }, logprobs: null })
  // The last attempt that is allowed is followed by none, so nothing is measured.
  world.calls.length = 0
  await world.catalog([target(small), target(large)], {
    cascade: { escalate_on: ['low_confidence'], confidence_min: 0.5 },
    attempts_max: 1,
  })
  expect(await textOf((await world.chat({ stream: true })).response)).toBe('perhaps')
  expect(world.calls.map(({ body: sent }) => sent.logprobs)).toEqual([undefined])
})

describe.each([{ stream: false }, { stream: true }])('behind content rules, with stream = $stream', ({ stream }) => {
  const rule = { name: 'rule', kind: 'pii', stages: ['output'], entities: ['email'], action: 'mask' }
  const put = async (world: World, more: Record<string, unknown> = {}) => {
    const { orgId } = await world.ownTenant()
    const hooks = [{ ...rule, ...more }]
    expect((await admin('PUT', `/organisations/${orgId}/guard-hooks`, { hooks })).status).toBe(200)
  }

  test('a target that breaks off before anything passed them is followed by the next', async () => {
    const world = new World()
    const breaks: Host = () => new Response(`${piece('alice@exam')}data: {"error":{"message":"busy"}}\n\n`, SSE)
    const [bad, good] = [await world.provider(breaks), await world.provider(says('bob@example.com '))]
    await world.catalog([target(bad), target(good)])
    await put(world)
    const { response, settled } = await world.chat({ stream })
    expect(await textOf(response)).toBe('[EMAIL] ')
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts.map(({ provider, status, charge }) => [provider, status, charge])).toEqual([
      [bad, 'upstream_error', 'absorbed'],
      [good, 'ok', 'customer'],
    ])
    expect(requests).toEqual([{ status: 'ok', attempts: 2 }])
    expect(holds).toBe(0)
  })

  test('an answer that they refuse is the end of it, and is paid', async () => {
    const world = new World()
    const [first, second] = [await world.provider(says('bob@example.com ')), await world.provider(says('fine'))]
    await world.catalog([target(first), target(second)])
    await put(world, { action: 'block' })
    const { response, settled } = await world.chat({ stream })
    expect(response.status).toBe(400)
    await settled()
    expect(hostsAsked(world)).toEqual([first])
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'content_filtered', charge: 'customer' }])
  })
})

describe('a shadow', () => {
  test('is asked beside the answer, costs the caller nothing and keeps no limit', async () => {
    const world = new World()
    const { opened, open } = gate()
    const [main, trial] = [
      await world.provider(says('main')),
      await world.provider(late(opened, ROLE, piece('trial') + ending())),
    ]
    await world.catalog([target(main), target(trial)], { shadow: { target: 1, percent: 100 } })
    const { orgId } = await world.ownTenant()
    const limited = await admin('PUT', `/organisations/${orgId}/limits`, {
      limits: [{ meter: 'concurrency', max: 1 }],
    })
    expect(limited.status).toBeLessThan(300)
    const { response, settled } = await world.chat()
    expect(await textOf(response)).toBe('main')
    expect(response.headers.get('x-penstock-attempts')).toBe('1')
    // The trial still runs: the caller's next request has room.
    const second = await world.chat()
    expect(await textOf(second.response)).toBe('main')
    open()
    await Promise.all([settled(), second.settled()])
    const { attempts, requests, holds } = await world.recorded()
    const trials = attempts.filter(({ provider }) => provider === trial)
    expect(trials).toHaveLength(2)
    for (const row of trials)
      expect(row).toMatchObject({ status: 'ok', charge: 'absorbed', output: 2, route: { role: 'shadow' } })
    expect(requests).toEqual([
      { status: 'ok', attempts: 1 },
      { status: 'ok', attempts: 1 },
    ])
    expect(holds).toBe(0)
  })

  test('that fails changes nothing, and none is cast at 0 %', async () => {
    const world = new World()
    const [main, trial] = [await world.provider(says('main')), await world.provider(fails(500))]
    await world.catalog([target(main), target(trial)], { shadow: { target: 1, percent: 100 } })
    const first = await world.chat({ stream: true })
    expect(await textOf(first.response)).toBe('main')
    await first.settled()
    await world.catalog([target(main), target(trial)], { shadow: { target: 1, percent: 0 } })
    const second = await world.chat()
    expect(await textOf(second.response)).toBe('main')
    await second.settled()
    expect(hostsAsked(world).filter((name) => name === trial)).toHaveLength(1)
    const { requests, holds } = await world.recorded()
    expect(requests.map(({ status }) => status)).toEqual(['ok', 'ok'])
    expect(holds).toBe(0)
  })

  test('goes nowhere the caller did not allow', async () => {
    const world = new World()
    const [main, trial] = [await world.provider(says('main')), await world.provider(says('trial'))]
    await world.catalog([target(main, { region: 'eu' }), target(trial, { region: 'us' })], {
      shadow: { target: 1, percent: 100 },
    })
    for (const headers of [
      { 'x-penstock-region': 'eu' },
      { 'x-penstock-only': main },
      { 'x-penstock-ignore': trial },
    ] as Record<string, string>[]) {
      const { response, settled } = await world.chat({}, { headers })
      expect(await textOf(response)).toBe('main')
      await settled()
    }
    expect(hostsAsked(world)).toEqual([main, main, main])
  })
})
