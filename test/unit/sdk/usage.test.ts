// Usage of direct calls: what is told of them, how it waits for the gateway, and that nobody waits for it.
import { describe, expect, it } from 'vitest'
import { checkedCall, UsageImport } from '../../../protocol/usage-import.ts'
import {
  type CallOptions,
  type ClientOptions,
  Penstock,
  StreamInterruptedError,
  type UsageOutcome,
  type UsageRecord,
} from '../../../sdk/src/index.ts'
import { penstockFetch } from '../../../sdk/src/openai.ts'
import { chatAnswer, chatPieces, type Step, scriptedFetch } from '../../../sdk/src/testing.ts'

const OURS = { 'x-penstock-request-id': 'req_1', 'x-request-id': 'req_1' }
const GATEWAY = 'http://gateway.test'
const IMPORT = `${GATEWAY}/v1/usage/import`
const SPARE = 'http://spare.test'
const MESSAGES = [{ role: 'user' as const, content: 'Hi' }]
const WAITING_MAX = 1_000

/** As the gateway's route answers: each id is accepted once. */
function importRoute() {
  const ids = new Map<string, UsageRecord>()
  const posts: UsageRecord[][] = []
  const answer = (body: unknown) => {
    const { records } = UsageImport.parse(body)
    const checked = records.map((record) => checkedCall(record, Date.now()))
    posts.push(records as UsageRecord[])
    const results = checked.map((one, index) => {
      if (!one.ok) return { index, outcome: 'refused', why: one.why }
      const outcome = ids.has(one.call.id) ? 'duplicate' : 'accepted'
      ids.set(one.call.id, one.call as UsageRecord)
      return { index, id: one.call.id, outcome }
    })
    return Response.json({ results }, { headers: OURS })
  }
  return { ids, posts, answer }
}

const urlOf = (input: Parameters<typeof fetch>[0]): string => (input instanceof Request ? input.url : String(input))

type Import = (body: unknown, init: RequestInit | undefined) => Response | Promise<Response>

function world(
  steps: { gateway: readonly Step[]; spare?: readonly Step[]; import?: Import },
  options: Partial<ClientOptions> = {},
) {
  const scripted = scriptedFetch({ [GATEWAY]: steps.gateway, [SPARE]: steps.spare ?? [chatAnswer('direct')] })
  const route = importRoute()
  const imports: { init: RequestInit | undefined; headers: Headers }[] = []
  const fetch: typeof globalThis.fetch = async (input, init) => {
    if (urlOf(input) !== IMPORT) return await scripted(input, init)
    const request = new Request(input, init)
    imports.push({ init, headers: request.headers })
    return await (steps.import ?? route.answer)(await request.json(), init)
  }
  const clock = { nowMs: Date.now() }
  const full: ClientOptions = {
    gateway: { baseUrl: GATEWAY, apiKey: 'psk_secret' },
    direct: [{ name: 'spare', baseUrl: `${SPARE}/v1`, apiKey: 'sk-spare', models: { small: 'their-small' } }],
    fetch,
    ...options,
  }
  const surroundings = { nowMs: () => clock.nowMs, random: () => 0, newId: () => crypto.randomUUID() }
  const penstock = new Penstock(full, surroundings)
  const ask = (call?: CallOptions) => penstock.chat.completions.create({ model: 'small', messages: MESSAGES }, call)
  const stream = (call?: CallOptions) =>
    penstock.chat.completions.create({ model: 'small', messages: MESSAGES, stream: true }, call)
  return { penstock, ask, stream, route, imports, clock, options: full, surroundings }
}

const streamed = (pieces: readonly string[], then: 'end' | 'reset' | 'stall' = 'end'): Step => ({
  kind: 'stream',
  pieces,
  then,
})
const down: Step = { kind: 'refuse' }
const well = chatAnswer('from the gateway')
const settled = () => new Promise((resolve) => setTimeout(resolve, 5))
const record = (number: number, change: Partial<UsageRecord> = {}): UsageRecord => ({
  id: `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`,
  model: 'small',
  provider: 'spare',
  started_at: new Date().toISOString(),
  ended_at: new Date().toISOString(),
  status: 'answered',
  usage: { output_text: 1 },
  ...change,
})
const records = (count: number) => Array.from({ length: count }, (_, index) => record(index + 1))

describe('a direct call', () => {
  it('leaves one record that the gateway believes, and calls of the gateway leave none', async () => {
    const { ask, penstock } = world({ gateway: [down, well] })
    await ask({ headers: { 'x-penstock-tags': 'env=prod, feature=search,broken tag' } })
    const [waiting, ...others] = penstock.pendingUsage
    expect(others).toEqual([])
    expect(waiting).toMatchObject({
      model: 'small',
      provider: 'spare',
      status: 'answered',
      usage: { input_uncached: 3, output_text: 2 },
      attempts: 2,
      reason: 'gateway_unreachable',
      tags: { env: 'prod', feature: 'search' },
    })
    expect(checkedCall(waiting, Date.now())).toMatchObject({ ok: true })
  })

  it('through the transport of the official client is told, too, to the hook and to the gateway', async () => {
    const told: boolean[] = []
    const { options, surroundings, route } = world(
      { gateway: [down, well] },
      { hooks: { onUsage: ({ isMetered }) => told.push(isMetered) } },
    )
    const fetch = penstockFetch(options, {}, surroundings)
    const body = JSON.stringify({ model: 'small', messages: MESSAGES })
    for (let call = 0; call < 2; call++) await fetch('http://any.test/v1/chat/completions', { method: 'POST', body })
    expect(told).toEqual([false, true])
    expect(await fetch.flushUsage()).toEqual({ pending: 0, dropped: 0, refused: 0 })
    expect(route.ids.size).toBe(1)
  })

  it('that streams to its end is answered; one that breaks off, or is left, is interrupted with what is known', async () => {
    const { stream, penstock } = world({
      gateway: [down],
      spare: [
        streamed(chatPieces(['a', 'b'])),
        streamed(chatPieces(['half'], false), 'reset'),
        streamed(chatPieces(['one', 'two'], false), 'stall'),
      ],
    })
    for await (const _ of await stream()) void _
    const broken = await stream()
    await expect(
      (async () => {
        for await (const _ of broken) void _
      })(),
    ).rejects.toBeInstanceOf(StreamInterruptedError)
    for await (const _ of await stream()) break
    expect(penstock.pendingUsage.map(({ status, usage }) => [status, usage])).toEqual([
      ['answered', { input_uncached: 3, output_text: 2 }],
      ['interrupted', {}],
      ['interrupted', {}],
    ])
  })

  it('whose stream nobody ever reads is told when it is stopped', async () => {
    const { stream, penstock } = world({ gateway: [down], spare: [streamed(chatPieces(['x'], false), 'stall')] })
    const unread = await stream()
    expect(penstock.pendingUsage).toEqual([])
    unread.abort()
    expect(penstock.pendingUsage.map(({ status }) => status)).toEqual(['interrupted'])
  })

  it('that failed is told as such, once per try, and the answer of the next one too', async () => {
    const second = { name: 'second', baseUrl: 'http://second.test/v1', apiKey: 'x', models: { small: 's' } }
    const { options, surroundings } = world({ gateway: [down], spare: [{ kind: 'json', status: 500, body: {} }] })
    const other = scriptedFetch({ 'http://second.test': [chatAnswer('two')] })
    const fetch: typeof globalThis.fetch = (input, init) =>
      urlOf(input).startsWith('http://second.test') ? other(input, init) : (options.fetch ?? other)(input, init)
    const client = new Penstock({ ...options, fetch, direct: [...(options.direct ?? []), second] }, surroundings)
    await client.chat.completions.create({ model: 'small', messages: MESSAGES })
    expect(client.pendingUsage.map(({ provider, status, attempts }) => [provider, status, attempts])).toEqual([
      ['spare', 'failed', 2],
      ['second', 'answered', 3],
    ])
  })

  it('that lost a race is told as interrupted: it may have cost something', async () => {
    // The gateway answers behind the moment at which the other one is asked.
    const slow = world({ gateway: [well], spare: [{ kind: 'stall' }] })
    const fetch: typeof globalThis.fetch = async (input, init) => {
      if (urlOf(input).startsWith(GATEWAY)) await new Promise((resolve) => setTimeout(resolve, 30))
      return await (slow.options.fetch ?? globalThis.fetch)(input, init)
    }
    const client = new Penstock({ ...slow.options, fetch, hedgeAfterMs: 1 })
    await client.chat.completions.create({ model: 'small', messages: MESSAGES })
    await settled()
    expect(client.pendingUsage.map(({ status, reason }) => [status, reason])).toEqual([['interrupted', 'slow']])
  })

  it('that answers together with the gateway is told once, whoever is heard', async () => {
    const { options } = world({ gateway: [well] })
    let answerGateway = () => {}
    const fetch: typeof globalThis.fetch = async (input, init) => {
      if (urlOf(input).startsWith(GATEWAY)) await new Promise<void>((resolve) => (answerGateway = resolve))
      const response = await (options.fetch ?? globalThis.fetch)(input, init)
      answerGateway()
      return response
    }
    const client = new Penstock({ ...options, fetch, hedgeAfterMs: 1 })
    await client.chat.completions.create({ model: 'small', messages: MESSAGES })
    await settled()
    expect(client.pendingUsage).toHaveLength(1)
  })

  it('leaves nothing where reporting is off', async () => {
    const { ask, penstock, imports } = world({ gateway: [down, well] }, { reportUsage: false })
    await ask()
    await ask()
    await penstock.flushUsage()
    expect([penstock.pendingUsage.length, imports.length]).toEqual([0, 0])
  })
})

describe('the queue', () => {
  it('is posted when the gateway answers again, under its key, and once', async () => {
    const told: UsageOutcome[] = []
    const { ask, route, imports, penstock } = world(
      { gateway: [down, down, well] },
      { hooks: { onUsageReported: (outcome) => told.push(outcome) } },
    )
    await ask()
    await ask()
    expect(imports).toHaveLength(0)
    const waiting = penstock.pendingUsage.map(({ id }) => id)
    await ask()
    await settled()
    expect(penstock.pendingUsage).toEqual([])
    expect([...route.ids.keys()]).toEqual(waiting)
    expect(told).toEqual(waiting.map((id) => ({ id, outcome: 'accepted' })))
    expect(imports[0]?.headers.get('authorization')).toBe('Bearer psk_secret')
    await ask()
    await settled()
    expect(imports).toHaveLength(1)
  })

  it('delays no answer and fails none, whatever becomes of the post', async () => {
    for (const how of [
      () => new Promise<Response>(() => {}),
      () => Promise.reject(new TypeError('fetch failed')),
      () => new Response('<html>', { status: 200 }),
      () => new Response('', { status: 503, headers: { 'retry-after': 'soon' } }),
      () => Response.json({ results: [] }),
      () => Response.json(null),
    ]) {
      const { ask, penstock } = world({ gateway: [down, well], import: how })
      await ask()
      expect((await ask()).choices[0]?.message.content).toBe('from the gateway')
      await settled()
      expect(penstock.pendingUsage).toHaveLength(1)
    }
  })

  it('goes in batches that a browser sends past the end of a page', async () => {
    const long = (number: number) =>
      record(number, {
        model: '\u{1f4a1}'.repeat(64),
        provider: '\u4e16'.repeat(64),
        reason: 'gateway_unreachable',
        tags: Object.fromEntries([...'abcdefgh'].map((name) => [name.repeat(32), 'v'.repeat(64)])),
      })
    const { penstock, route, imports } = world(
      { gateway: [well] },
      { unreported: Array.from({ length: 120 }, (_, index) => long(index + 1)) },
    )
    expect(await penstock.flushUsage()).toEqual({ pending: 0, dropped: 0, refused: 0 })
    expect(route.posts.map((one) => one.length)).toEqual([25, 25, 25, 25, 20])
    for (const one of route.posts) {
      const bytes = new TextEncoder().encode(JSON.stringify({ records: one })).length
      expect(bytes).toBeLessThan(60_000)
    }
    expect(imports.every(({ init }) => init?.keepalive === true)).toBe(true)
  })

  it('keeps a bounded number: failed tries go first, then the oldest, and they are counted', async () => {
    const kept = [record(1, { status: 'failed', usage: {} }), ...records(WAITING_MAX + 1).slice(1)]
    const { penstock } = world(
      { gateway: [down], import: () => new Response('', { status: 503 }) },
      { unreported: kept },
    )
    expect(penstock.pendingUsage).toHaveLength(WAITING_MAX)
    expect(penstock.pendingUsage[0]?.id).toBe(record(2).id)
    await penstock.chat.completions.create({ model: 'small', messages: MESSAGES })
    expect(penstock.pendingUsage).toHaveLength(WAITING_MAX)
    expect(penstock.pendingUsage[0]?.id).toBe(record(3).id)
    expect(await penstock.flushUsage()).toEqual({ pending: WAITING_MAX, dropped: 2, refused: 0 })
  })

  it('rests as the gateway says, and its further tries are taken out of the retry budget', async () => {
    let posts = 0
    const away = () => {
      posts++
      return new Response('', { status: 503, headers: { 'retry-after': '30' } })
    }
    const { ask, clock } = world({ gateway: [well], import: away }, { unreported: records(1) })
    await ask()
    await settled()
    expect(posts).toBe(1)
    await ask()
    await settled()
    expect(posts).toBe(1)
    // Ten retries are what a client may spend at once; each call earns a tenth of one.
    for (let call = 0; call < 40; call++) {
      clock.nowMs += 31_000
      await ask()
      await settled()
    }
    expect(posts).toBeGreaterThanOrEqual(10)
    expect(posts).toBeLessThanOrEqual(16)
  })

  it('keeps records that were stored while their answer was lost; the second post finds them there', async () => {
    const route = importRoute()
    let calls = 0
    const outcomes: UsageOutcome[] = []
    const { penstock } = world(
      {
        gateway: [well],
        import: (body) => {
          const stored = route.answer(body)
          if (calls++ === 0) throw new TypeError('terminated')
          return stored
        },
      },
      { unreported: records(3), hooks: { onUsageReported: (outcome) => outcomes.push(outcome) } },
    )
    expect((await penstock.flushUsage()).pending).toBe(3)
    expect((await penstock.flushUsage()).pending).toBe(0)
    expect(outcomes.map(({ outcome }) => outcome)).toEqual(['duplicate', 'duplicate', 'duplicate'])
    expect(route.ids.size).toBe(3)
  })

  it('lets go of what the gateway refuses, one record or a whole post, and goes on with the rest', async () => {
    const bad = record(1, { model: '' })
    const { penstock, route } = world({ gateway: [well] }, { unreported: [bad, record(2)] })
    expect(await penstock.flushUsage()).toEqual({ pending: 0, dropped: 0, refused: 1 })
    expect([...route.ids.keys()]).toEqual([record(2).id])
    const whole = world(
      { gateway: [well], import: () => new Response('{}', { status: 400, headers: OURS }) },
      { unreported: records(30) },
    )
    expect(await whole.penstock.flushUsage()).toEqual({ pending: 0, dropped: 0, refused: 30 })
  })

  it.each([
    ['an older gateway without the route', new Response('{}', { status: 404, headers: OURS })],
    ['a key that may not', new Response('{}', { status: 403, headers: OURS })],
    ['somebody who stands before the gateway', new Response('no', { status: 400 })],
  ])('is kept, and is not posted again soon, by %s', async (_, answer) => {
    let posts = 0
    const refuse = () => {
      posts++
      return answer.clone()
    }
    const { ask, clock, penstock } = world({ gateway: [well], import: refuse }, { unreported: records(2) })
    for (let call = 0; call < 3; call++) {
      clock.nowMs += 10_000
      await ask()
      await settled()
    }
    expect([posts, penstock.pendingUsage.length]).toEqual([1, 2])
  })

  it('is flushed once at a time, and what is added meanwhile goes along', async () => {
    const route = importRoute()
    let open = 0
    let most = 0
    const { penstock, ask } = world(
      {
        gateway: [down, well],
        import: async (body) => {
          most = Math.max(most, ++open)
          await settled()
          open--
          return route.answer(body)
        },
      },
      { unreported: records(60) },
    )
    const flushing = [penstock.flushUsage(), penstock.flushUsage()]
    await ask()
    await ask()
    await Promise.all([...flushing, penstock.flushUsage()])
    expect([most, route.ids.size, penstock.pendingUsage.length]).toEqual([1, 61, 0])
  })

  it('outlives the process by its hooks: what was stored is posted by the next client, and counts once', async () => {
    const store = new Map<string, UsageRecord>()
    const hooks = {
      onUsageRecord: (one: UsageRecord) => store.set(one.id, JSON.parse(JSON.stringify(one))),
      onUsageReported: ({ id }: UsageOutcome) => store.delete(id),
    }
    const first = world({ gateway: [down] }, { hooks })
    await first.ask()
    expect(store.size).toBe(1)
    const second = world({ gateway: [well] }, { hooks, unreported: [...store.values()] })
    await second.ask()
    await second.penstock.flushUsage()
    expect([store.size, second.route.ids.size]).toEqual([0, 1])
  })

  it('is not upset by a hook that throws', async () => {
    const fail = () => {
      throw new Error('mine')
    }
    const { ask, penstock } = world(
      { gateway: [down, well] },
      { hooks: { onUsageRecord: fail, onUsageReported: fail } },
    )
    await ask()
    await ask()
    expect((await penstock.flushUsage()).pending).toBe(0)
  })
})
