// Runs that do not go on, or not as they had begun: each is over at once for its caller and for its account, with the truth about why, and
// what was told is paid once.
import { createExecutionContext, env, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Account } from '../../gateway/account/account.ts'
import { AccountCore } from '../../gateway/account/account-core.ts'
import type { SettleEnd } from '../../gateway/account/contract.ts'
import { Itinerary } from '../../gateway/attempts/itinerary.ts'
import { DEFAULT_TIMINGS } from '../../gateway/attempts/job.ts'
import { life } from '../../gateway/handover/life.ts'
import { NO_USAGE } from '../../gateway/meter/usage.ts'
import { RunStore } from '../../gateway/runs/run-store.ts'
import { Runs } from '../../gateway/runs/runs.ts'
import { STREAM_UNATTENDED_MS } from '../../gateway/runs/stored-run.ts'
import type { DispatchRequest } from '../../protocol/dispatch.ts'
import { admin } from './support/admin.ts'
import { type AgentScript, toldAnswer, usage } from './support/fake-agent.ts'
import { gate, type World } from './support/path.ts'
import { ask, create, kill, storedAt, until, untilStored, worldOf } from './support/responses.ts'
import { ending, late, never, piece, target } from './support/vendor.ts'

// Runs of this file say their head soon, as the ports that they share are made by the first of them.
DEFAULT_TIMINGS.keepAliveMs = 300

afterEach(() => {
  vi.restoreAllMocks()
})

const WORDS = ['The ', 'quick ', 'brown ', 'fox ', 'jumps ', '😀.']
const CHAT = { messages: [{ role: 'user', content: 'hi' }], stream: true }

async function open(world: World, over: Record<string, unknown> = {}, headers: Record<string, string> = {}) {
  const client = new AbortController()
  const { response } = await world.send(
    '/v1/chat/completions',
    { model: world.model, ...CHAT, ...over },
    { headers: { 'x-penstock-resumable': 'true', ...headers }, signal: client.signal },
  )
  return { response, id: response.headers.get('x-penstock-stream-id') ?? '', leave: () => client.abort() }
}

async function call(world: World, method: string, path: string, headers: Record<string, string> = {}) {
  const authorization = `Bearer ${(await world.ownTenant()).key}`
  const request = new Request(`http://gateway.test${path}`, { method, headers: { authorization, ...headers } })
  return await world.app.fetch(request, env, createExecutionContext())
}

/** All of a stream, by its numbers. */
async function followed(world: World, id: string): Promise<string[]> {
  const text = await (await call(world, 'GET', `/v1/streams/${id}`)).text()
  const blocks = text.split('\n\n').filter((block) => block.startsWith('id: '))
  expect(blocks.map((block) => Number(/^id: (\d+)/.exec(block)?.[1]))).toEqual(blocks.map((_, at) => at))
  return blocks.map((block) => block.slice(block.indexOf('data: ') + 6))
}
const textOf = (events: string[]) =>
  events.map((data) => (data === '[DONE]' ? '' : (JSON.parse(data).choices?.[0]?.delta?.content ?? ''))).join('')
const errorOf = (events: string[]) => JSON.parse(events.at(-1) ?? '{}').error

/** Stops after the second word, in its first life or in all of them. */
function stuck(always = false): { script: AgentScript; dispatches: DispatchRequest[] } {
  const dispatches: DispatchRequest[] = []
  const script: AgentScript = (dispatch) => {
    dispatches.push(dispatch)
    const isStuck = always || dispatches.length === 1
    return toldAnswer(dispatch, WORDS, isStuck ? { cut: 2, end: [{ wait: never }] } : {})
  }
  return { script, dispatches }
}

async function expectEnded(world: World, attempts: object[], requests: object[]): Promise<void> {
  await vi.waitFor(async () => expect(await world.recorded()).toMatchObject({ attempts, requests, holds: 0 }))
}

/** The holds of the world's tenant, which is the only one that has any. */
async function openHold(world: World): Promise<string> {
  const account = env.ACCOUNT.getByName((await world.ownTenant()).orgId)
  const hold = await vi.waitFor(async () => {
    const [first] = (await account.inspect()).openHolds
    if (first === undefined) throw new Error('not held yet')
    return first.holdId
  })
  return hold
}

/** As a gateway does that dies right behind it. */
async function settle(world: World, over: Partial<SettleEnd>): Promise<void> {
  const holdId = await openHold(world)
  const end = {
    holdId,
    usage: NO_USAGE,
    usageSource: 'stream_partial',
    status: 'upstream_error',
    charge: 'absorbed',
  } as const
  const account = env.ACCOUNT.getByName((await world.ownTenant()).orgId)
  await account.settle({ ...end, endedAtMs: Date.now(), final: false, httpStatus: 502, ...over })
}

describe('a run that nobody can go on with', () => {
  test.each([
    ['cancel', 'customer'],
    ['cancel_free', 'absorbed'],
  ])('ends its hold at once, as a vendor with the policy %s is charged that breaks off: %s', async (cutoff, charge) => {
    const world = await worldOf(['unused'])
    const vendor = await world.provider(late(never, piece('Hel') + piece('lo'), ''))
    const changed = { kind: 'openai_compatible', base_url: `https://${vendor}.example.com/v1`, cutoff }
    expect((await admin('PUT', `/providers/${vendor}`, changed)).status).toBeLessThan(300)
    await world.catalog([target(vendor)])
    const { id } = await open(world)
    await untilStored(world, id, (text) => text.includes('lo'))
    await kill(world, id)
    const events = await followed(world, id)
    expect([textOf(events), errorOf(events).code]).toEqual(['Hello', 'unavailable'])
    const [attempt] = (await world.recorded()).attempts
    await expectEnded(
      world,
      [
        {
          attempt: 1,
          status: 'unavailable',
          httpStatus: 200,
          charge,
          source: 'stream_partial',
          output: attempt?.output,
        },
      ],
      [{ status: 'unavailable', attempts: 1 }],
    )
    expect(attempt?.output).toBeGreaterThan(0)
  })

  test('is charged what an own backend had told, and what nobody was told by nobody', async () => {
    for (const [script, words] of [
      [stuck(true).script, 2],
      [() => [{ type: 'accepted', usage: usage(7, 0), queueMs: 0 }, { wait: never }], 0],
    ] as [AgentScript, number][]) {
      const world = await worldOf(script)
      const { id } = await open(world)
      for (let life = 0; life < 3; life++) {
        await untilStored(
          world,
          id,
          (text, journal) => journal.includes('accepted') && (words === 0 || text.includes('quick')),
        )
        await kill(world, id)
        const { runs, name, owner } = await storedAt(world, id)
        await runs.state(name, owner)
      }
      const charge = words === 0 ? 'absorbed' : 'customer'
      await expectEnded(
        world,
        [{ attempt: 1, status: 'unavailable', charge, input: 7, output: words }],
        [{ status: 'unavailable', attempts: 1 }],
      )
      expect(errorOf(await followed(world, id)).message).toContain('each try to go on')
    }
  })

  test('is owed until its account takes it, also by the object’s next life, and paid once', async () => {
    const world = await worldOf(['unused'])
    const vendor = await world.provider(late(never, piece('Hel'), ''))
    await world.catalog([target(vendor)])
    const { id } = await open(world)
    await untilStored(world, id, (text) => text.includes('Hel'))
    const away = vi.spyOn(Account.prototype, 'settle').mockRejectedValue(new Error('the account is away'))
    await kill(world, id)
    await followed(world, id)
    await vi.waitFor(() => expect(away).toHaveBeenCalled())
    expect((await world.recorded()).holds).toBe(1)
    await kill(world, id)
    away.mockRestore()
    const { runs } = await storedAt(world, id)
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + 60_000
    })
    await runDurableObjectAlarm(runs)
    await expectEnded(world, [{ status: 'unavailable', charge: 'customer' }], [{ attempts: 1 }])
    await runInDurableObject(runs, (_, state) => {
      expect(state.storage.sql.exec('SELECT count(*) AS rows FROM owed').one().rows).toBe(0)
    })
  })
})

describe('a run whose object dies', () => {
  test('between two attempts goes on with the next one', async () => {
    const world = await worldOf(['unused'])
    let asked = 0
    const vendor = await world.provider((request) => {
      asked++
      return late(
        asked === 1 ? never : Promise.resolve(),
        asked === 1 ? '' : piece('Hel'),
        piece('lo') + ending(),
      )(request)
    })
    await world.catalog([target(vendor)])
    const { body } = await create(world, { background: true })
    await vi.waitFor(() => expect(asked).toBe(1))
    await settle(world, {})
    await kill(world, body.id)
    expect((await until(world, body.id, 'completed')).output[0].content[0].text).toBe('Hello')
    await expectEnded(
      world,
      [
        { attempt: 1, status: 'upstream_error', charge: 'absorbed' },
        { attempt: 2, status: 'ok', charge: 'customer' },
      ],
      [{ status: 'ok', attempts: 2 }],
    )
  })

  test.each([
    ['upstream_error', 'upstream_error'],
    ['ok', 'unavailable'],
  ] as const)('when its request has ended as %s and nobody knows yet says so: %s', async (status, code) => {
    const world = await worldOf(['unused'])
    const asked = gate()
    const vendor = await world.provider((request) => {
      asked.open()
      return late(never, '', '')(request)
    })
    await world.catalog([target(vendor)])
    const { id } = await open(world)
    await asked.opened
    await settle(world, { status, final: true, charge: status === 'ok' ? 'customer' : 'absorbed' })
    await kill(world, id)
    const { message, code: said } = errorOf(await followed(world, id))
    expect(said).toBe(code)
    expect(message).toContain('when the gateway was restarted')
    await expectEnded(world, [{ attempt: 1, status }], [{ status, attempts: 1 }])
  })

  test('and is refused before it comes to its hold ends that hold, and says why', async () => {
    const { script } = stuck()
    const world = await worldOf(script)
    const { id } = await open(world)
    await untilStored(world, id, (text) => text.includes('quick'))
    const gone = { code: 'no_target', message: 'It is not served any more.' } as const
    vi.spyOn(Itinerary.prototype, 'again').mockResolvedValue({ ok: false, error: gone })
    await kill(world, id)
    const events = await followed(world, id)
    expect([textOf(events), errorOf(events)]).toMatchObject(['The quick ', gone])
    await expectEnded(world, [{ attempt: 1, status: 'no_target', charge: 'customer', output: 2 }], [{ attempts: 1 }])
  })

  test('before it has a hold, and gets none afterwards, owes nothing', async () => {
    const world = await worldOf((dispatch) => toldAnswer(dispatch, WORDS))
    const asked = gate()
    const silent = vi.spyOn(AccountCore.prototype, 'batch').mockImplementation(() => {
      asked.open()
      return new Promise(() => {})
    })
    const { body } = await create(world, { background: true })
    await asked.opened
    await untilStored(world, body.id, (text) => text.includes('in_progress'))
    const { runs } = await storedAt(world, body.id)
    silent.mockRestore()
    const { orgId } = await world.ownTenant()
    const limits = [{ meter: 'requests', window: 'day', max: 0 }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBeLessThan(300)
    const owed = vi.spyOn(RunStore.prototype, 'putOwed')
    await kill(world, body.id)
    expect(await until(world, body.id, 'failed')).toMatchObject({ error: { code: 'rate_limit_exceeded' } })
    await vi.waitFor(() =>
      runInDurableObject(runs, (_, state) => {
        expect(state.storage.sql.exec('SELECT hold FROM owed').toArray()).toEqual([])
      }),
    )
    expect(owed).toHaveBeenCalledOnce()
    expect(await world.recorded()).toMatchObject({ attempts: [], holds: 0 })
  })

  test('while its process is replaced, and is deleted then, is paid as far as it was told', async () => {
    const { script } = stuck()
    const world = await worldOf(script)
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('quick'))
    const { name, runs, owner } = await storedAt(world, body.id)
    vi.spyOn(life, 'defersRuns', 'get').mockReturnValue(true)
    await kill(world, body.id)
    expect(await runs.state(name, owner)).toEqual({ ok: true, value: 'running' })
    expect((await ask(world, 'DELETE', `/v1/responses/${body.id}`)).body).toMatchObject({ deleted: true })
    await expectEnded(
      world,
      [{ status: 'client_cancelled', charge: 'customer', input: 7, output: 2 }],
      [{ attempts: 1 }],
    )
  })

  test('before its caller has its head is begun once, and its caller gets it', async () => {
    let dispatches = 0
    const world = await worldOf((dispatch) => {
      dispatches++
      return toldAnswer(dispatch, WORDS)
    })
    const real = Runs.prototype.startStream
    vi.spyOn(Runs.prototype, 'startStream').mockImplementationOnce(async function (this: Runs, job) {
      await real.call(this, job)
      throw new Error('the answer is lost')
    })
    const { response } = await open(world)
    expect(response.status).toBe(200)
    expect(await response.text()).toContain('jumps')
    expect(dispatches).toBe(1)
    await expectEnded(world, [{ status: 'ok', charge: 'customer' }], [{ status: 'ok', attempts: 1 }])
  })
})

describe('a run that cannot be stored', () => {
  test('as it comes ends where it is, with nothing missing before its end', async () => {
    const release = gate()
    const world = await worldOf((dispatch) => {
      const lines = toldAnswer(dispatch, WORDS)
      return [...lines.slice(0, 5), { wait: release.opened }, ...lines.slice(5)]
    })
    const { id } = await open(world)
    await untilStored(world, id, (text) => text.includes('quick'))
    vi.spyOn(RunStore.prototype, 'append').mockImplementationOnce(() => {
      throw new Error('the storage fails')
    })
    release.open()
    const events = await vi.waitFor(async () => {
      const all = await followed(world, id)
      expect(errorOf(all)).toMatchObject({ code: 'unavailable' })
      return all
    })
    expect(textOf(events)).toBe('The quick ')
    await vi.waitFor(async () => {
      const { attempts, holds } = await world.recorded()
      expect(attempts).toMatchObject([{ charge: 'customer', input: 7 }])
      expect(holds).toBe(0)
    })
  })

  test.each(['stream', 'background'] as const)(
    'any more since the object is full is ended or bounded: %s',
    async (form) => {
      const release = gate()
      const world = await worldOf((dispatch) => {
        const lines = toldAnswer(dispatch, WORDS)
        return [...lines.slice(0, 5), { wait: release.opened }, ...lines.slice(5)]
      })
      const id = form === 'stream' ? (await open(world)).id : (await create(world, { background: true })).body.id
      await untilStored(world, id, (text) => text.includes('quick'))
      vi.spyOn(RunStore.prototype, 'bytes', 'get').mockReturnValue(9.5e9)
      release.open()
      if (form === 'stream') {
        const events = await followed(world, id)
        expect(textOf(events)).toBe('The quick ')
        expect(errorOf(events)).toMatchObject({ code: 'overloaded', type: 'server_error' })
        expect((await open(world)).response.status).toBe(503)
        await expectEnded(world, [{ charge: 'customer', input: 7 }], [{ attempts: 1 }])
        return
      }
      // Its answer is what it was asked for; its events can be followed no more.
      expect((await until(world, id, 'completed')).output[0].content[0].text).toBe(WORDS.join(''))
      expect(await ask(world, 'GET', `/v1/responses/${id}?stream=true`)).toMatchObject({ status: 400 })
      const { runs, name } = await storedAt(world, id)
      await runInDurableObject(runs, (_, state) => {
        for (const table of ['events', 'journal'])
          expect(
            state.storage.sql.exec(`SELECT 1 FROM ${table} WHERE run = ? AND piece LIKE '%jumps%'`, name).toArray(),
          ).toEqual([])
      })
      await expectEnded(world, [{ status: 'ok', charge: 'customer', output: WORDS.length }], [{ attempts: 1 }])
    },
  )
})

describe('a stream', () => {
  test('that is refused when its head is out says so in the stream', async () => {
    const world = await worldOf((dispatch) => toldAnswer(dispatch, WORDS))
    const { orgId } = await world.ownTenant()
    const limits = [{ meter: 'requests', window: 'day', max: 0 }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBeLessThan(300)
    const asked = gate()
    const real = AccountCore.prototype.batch
    vi.spyOn(AccountCore.prototype, 'batch').mockImplementation(async function (this: AccountCore, calls) {
      await asked.opened
      return real.call(this, calls)
    })
    const { response, id } = await open(world)
    expect(response.status).toBe(200)
    asked.open()
    expect(await response.text()).toContain('rate_limit_exceeded')
    expect(errorOf(await followed(world, id))).toMatchObject({ code: 'rate_limit_exceeded' })
    expect((await world.recorded()).holds).toBe(0)
  })

  test('is not followed by who asks for its head alone', async () => {
    const { script } = stuck()
    const world = await worldOf(script)
    const { id, leave } = await open(world)
    await untilStored(world, id, (text) => text.includes('quick'))
    leave()
    const follows = vi.spyOn(Runs.prototype, 'follow')
    const head = await call(world, 'HEAD', `/v1/streams/${id}`)
    expect([head.status, head.headers.get('content-type'), head.body]).toEqual([
      200,
      expect.stringContaining('event-stream'),
      null,
    ])
    expect(head.headers.get('x-penstock-stream-id')).toBe(id)
    expect(follows).toHaveBeenCalledOnce()
    expect((await call(world, 'HEAD', `/v1/streams/stream_${'0'.repeat(32)}`)).status).toBe(404)
    expect((await call(world, 'HEAD', `/v1/streams/${id}`, { 'last-event-id': '999' })).status).toBe(400)
    // It is no sign that anybody wants its events.
    const { runs } = await storedAt(world, id)
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + STREAM_UNATTENDED_MS + 15_000
    })
    await call(world, 'HEAD', `/v1/streams/${id}`)
    await runDurableObjectAlarm(runs)
    await expectEnded(world, [{ status: 'client_cancelled', charge: 'customer', output: 2 }], [{ attempts: 1 }])
  })

  test('with as many followers as it may have refuses another by its status', async () => {
    const { script } = stuck()
    const world = await worldOf(script)
    const { id } = await open(world)
    await untilStored(world, id, (text) => text.includes('quick'))
    const { runs, name, owner } = await storedAt(world, id)
    const at = await runInDurableObject(runs, (_, state) =>
      Number(state.storage.sql.exec('SELECT max(last) AS last FROM events WHERE run = ?', name).one().last),
    )
    const own = { ...owner, keyLineId: await keyLineOf(world, id) }
    const waiting = Array.from({ length: 32 }, () => runs.follow(name, own, at, 10_000, 'stream'))
    await vi.waitFor(async () => {
      const refused = await call(world, 'GET', `/v1/streams/${id}`, { 'last-event-id': String(at) })
      expect(refused.status).toBe(429)
      expect(refused.headers.get('retry-after')).not.toBeNull()
    })
    await call(world, 'POST', `/v1/streams/${id}/cancel`)
    // The one who began it may be among them.
    const found = (await Promise.all(waiting)).filter(({ ok }) => ok)
    expect(found.length).toBeGreaterThan(waiting.length - 2)
  })

  test.each([true, false])('whose client keeps its connection is attended as long as it reads: %s', async (reads) => {
    const [second, third] = [gate(), gate()]
    const long = (name: string) => `${name} ${'x'.repeat(64 * 1024)}`
    const world = await worldOf((dispatch) => {
      const lines = toldAnswer(dispatch, [long('first'), long('second'), 'third', 'end'])
      const [one, two, three] = [lines.slice(0, 3), lines.slice(3, 5), lines.slice(5, 7)]
      return [...one, { wait: second.opened }, ...two, { wait: third.opened }, ...three, { wait: never }]
    })
    const follows = vi.spyOn(Runs.prototype, 'follow')
    const { response, id } = await open(world)
    const reading = reads ? response.text().catch(() => '') : undefined
    const hasTaken = (word: string) =>
      vi.waitFor(() => {
        const pages = follows.mock.settledResults.flatMap(({ type, value }) =>
          type === 'fulfilled' && value.ok ? [value.value.text] : [],
        )
        expect(pages.some((text) => text.includes(word))).toBe(true)
      })
    await hasTaken('first')
    second.open()
    // One is under way to the client by now, and the other waits for it.
    await hasTaken('second')
    const { runs } = await storedAt(world, id)
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + STREAM_UNATTENDED_MS + 15_000
    })
    third.open()
    await untilStored(world, id, (text) => text.includes('third'))
    if (reads) await hasTaken('third')
    await runDurableObjectAlarm(runs)
    const state = await runInDurableObject(
      runs,
      (_, { storage }) => storage.sql.exec('SELECT state FROM runs').one().state,
    )
    expect(state).toBe(reads ? 'running' : 'ended')
    await call(world, 'POST', `/v1/streams/${id}/cancel`)
    await reading
  })
})

async function keyLineOf(world: World, id: string): Promise<string> {
  const { runs, name } = await storedAt(world, id)
  return runInDurableObject(runs, (_, state) => {
    const { body } = state.storage.sql.exec<{ body: string }>('SELECT body FROM runs WHERE name = ?', name).one()
    return JSON.parse(body).owner.keyLineId
  })
}
