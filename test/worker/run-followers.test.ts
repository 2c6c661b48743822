// Those who read a stream: who asks for its head alone, one too many, one that keeps its connection and does not read; and a stream that
// is refused when its head is out.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { AccountCore } from '../../gateway/account/account-core.ts'
import { DEFAULT_TIMINGS } from '../../gateway/attempts/job.ts'
import { Runs } from '../../gateway/runs/runs.ts'
import { STREAM_UNATTENDED_MS } from '../../gateway/runs/stored-run.ts'
import { admin } from './support/admin.ts'
import { toldAnswer } from './support/fake-agent.ts'
import { gate, type World } from './support/path.ts'
import { storedAt, untilStored, worldOf } from './support/responses.ts'
import { call, errorOf, expectEnded, followed, open, stuck, WORDS } from './support/resumable.ts'
import { never } from './support/vendor.ts'

// Runs of this file say their head soon, as the ports that they share are made by the first of them.
DEFAULT_TIMINGS.keepAliveMs = 300

afterEach(() => {
  vi.restoreAllMocks()
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
