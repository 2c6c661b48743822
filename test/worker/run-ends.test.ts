// Runs that do not go on, or not as they had begun: each is over at once for its caller and for its account, with the truth about why, and
// what was told is paid once.
import { env, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
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
import { Settlement } from '../../gateway/settlement.ts'
import { admin } from './support/admin.ts'
import { type AgentScript, toldAnswer, usage } from './support/fake-agent.ts'
import { gate, type World } from './support/path.ts'
import { ask, create, kill, storedAt, until, untilStored, worldOf } from './support/responses.ts'
import { call, errorOf, expectEnded, followed, open, stuck, textOf, WORDS } from './support/resumable.ts'
import { ending, hostsAsked, late, never, piece, says, target } from './support/vendor.ts'

// Runs of this file say their head soon, as the ports that they share are made by the first of them.
DEFAULT_TIMINGS.keepAliveMs = 300

afterEach(() => {
  vi.restoreAllMocks()
})

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

describe('a run that its caller has ended', () => {
  test('is paid as far as it was told where its process dies before the account knows', async () => {
    const { script } = stuck()
    const world = await worldOf(script)
    const { id } = await open(world)
    await untilStored(world, id, (text) => text.includes('quick'))
    const end = vi.spyOn(Settlement.prototype, 'end').mockResolvedValue()
    expect((await call(world, 'POST', `/v1/streams/${id}/cancel`)).status).toBe(200)
    await vi.waitFor(() => expect(end).toHaveBeenCalled())
    await kill(world, id)
    const { runs } = await storedAt(world, id)
    await runDurableObjectAlarm(runs)
    // Its own end may still be on its way by then.
    expect((await world.recorded()).holds).toBe(1)
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + 60_000
    })
    await runDurableObjectAlarm(runs)
    await expectEnded(
      world,
      [{ attempt: 1, status: 'client_cancelled', charge: 'customer', input: 7, output: 2 }],
      [{ status: 'client_cancelled', attempts: 1 }],
    )
  })
})

describe('what another release has left of a run', () => {
  test('keeps nothing that is stored beside it', async () => {
    const world = await worldOf(['unused'])
    const vendor = await world.provider(late(never, piece('Hel'), ''))
    await world.catalog([target(vendor)])
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('Hel'))
    const { runs, name, owner } = await storedAt(world, body.id)
    await runInDurableObject(runs, (_, { storage }) => {
      storage.sql.exec("UPDATE texts SET piece = '?' WHERE run = ? AND kind = 'response'", name)
      storage.sql.exec("INSERT INTO owed (hold, due_at_ms, body) VALUES ('unreadable', 0, '?')")
      storage.sql.exec("INSERT INTO owed (hold, due_at_ms, body) VALUES ('of another shape', 0, '{}')")
    })
    await kill(world, body.id)
    const { runs: again } = await storedAt(world, body.id)
    expect(await again.state(name, owner)).toEqual({ ok: true, value: 'ended' })
    await expectEnded(world, [{ status: 'unavailable', charge: 'customer' }], [{ attempts: 1 }])
    await vi.waitFor(() =>
      runInDurableObject(again, (_, { storage }) => {
        expect(storage.sql.exec('SELECT hold FROM owed').toArray()).toEqual([])
      }),
    )
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

  test('when a cascade’s smaller answer was paid goes on with the larger model, and pays the smaller one once', async () => {
    const world = await worldOf(['unused'])
    let asked = 0
    const small = await world.provider((request) => {
      asked++
      return late(never, '', '')(request)
    })
    const large = await world.provider(says('Hello'))
    await world.catalog([target(small), target(large)], { cascade: { escalate_on: ['length'] } })
    const { body } = await create(world, { background: true })
    await vi.waitFor(() => expect(asked).toBe(1))
    await settle(world, { status: 'ok', charge: 'customer', usage: { ...NO_USAGE, inputUncached: 5, outputText: 2 } })
    await kill(world, body.id)
    expect((await until(world, body.id, 'completed')).output[0].content[0].text).toBe('Hello')
    expect(hostsAsked(world)).toEqual([small, large])
    await expectEnded(
      world,
      [
        { attempt: 1, provider: small, status: 'ok', charge: 'customer' },
        { attempt: 2, provider: large, status: 'ok', charge: 'customer' },
      ],
      [{ status: 'ok', attempts: 2 }],
    )
  })

  test.each([
    ['upstream_error', 'upstream_error'],
    ['client_cancelled', 'cancelled'],
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

  test.each(['stream', 'background'] as const)(
    'with nothing told and is refused then is paid by nobody, though the refusal is told: %s',
    async (form) => {
      const world = await worldOf(() => [{ type: 'accepted', usage: usage(7, 0), queueMs: 0 }, { wait: never }])
      const id = form === 'stream' ? (await open(world)).id : (await create(world, { background: true })).body.id
      await untilStored(world, id, (_, journal) => journal.includes('accepted'))
      const gone = { code: 'no_target', message: 'It is not served any more.' } as const
      vi.spyOn(Itinerary.prototype, 'again').mockResolvedValue({ ok: false, error: gone })
      await kill(world, id)
      if (form === 'stream') expect(errorOf(await followed(world, id))).toMatchObject(gone)
      else await until(world, id, 'failed')
      await expectEnded(world, [{ status: 'no_target', charge: 'absorbed', input: 7, output: 0 }], [{ attempts: 1 }])
    },
  )

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
