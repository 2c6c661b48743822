// The lane between real requests: each has a context of its own in the runtime, which ends when its client hangs up. The
// Worker tests cannot show this, because their runner lets promises resolve across contexts.
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Driver } from '../../bench/gateway/driver.ts'

const SHARING = 1
const LOSING = 2
const REQUESTS = 60
const SLOW_MS = 400

let driver: Driver
beforeAll(async () => {
  driver = await Driver.start()
})
afterAll(async () => {
  await driver?.stop()
})

async function attemptsOf(org: number): Promise<number> {
  await driver.command('/flush', { org })
  const orgId = `00000000-0000-4000-8000-${String(org).padStart(12, '0')}`
  const [row] = await driver.stack.sql`SELECT count(*)::int AS count FROM usage_attempts WHERE org_id = ${orgId}`
  return row?.count
}

describe('concurrent requests', () => {
  it('share calls to their account: each gets its own answer, and nothing is sent twice', async () => {
    const pairs = Array.from({ length: REQUESTS }, () => driver.command('/pair', { org: SHARING }))
    expect(await Promise.all(pairs)).toEqual(pairs.map(() => ({ settled: true })))
    const { calls, batches, openHolds } = await driver.state(SHARING)
    expect({ calls, openHolds }).toEqual({ calls: 2 * REQUESTS, openHolds: 0 })
    expect(batches).toBeLessThan(REQUESTS)
    expect(await attemptsOf(SHARING)).toBe(REQUESTS)
  })
})

describe('a request whose client hangs up', () => {
  it('while it leads a batch strands none of the calls in it and behind it, and each is counted once', async () => {
    const slow = { org: LOSING, slowMs: SLOW_MS }
    const first = driver.command('/abandon', slow)
    await sleep(SLOW_MS / 4)
    // When it hangs up, its batch is on its way with the others in it, or it is about to lead.
    const lost = driver.hangUp('/abandon', slow, SLOW_MS)
    const passengers = Array.from({ length: 10 }, () => driver.command('/pair', { org: LOSING }))
    await lost
    expect(await Promise.all(passengers)).toEqual(passengers.map(() => ({ settled: true })))
    await first
    // Those ten and the first: what the lost one had asked for died with it.
    expect(await attemptsOf(LOSING)).toBe(11)
    // A batch that another one led can have opened its hold: nobody is left to settle that, and it ends at its deadline.
    expect((await driver.state(LOSING)).openHolds).toBeLessThanOrEqual(1)
  })
})
