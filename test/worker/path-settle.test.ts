// When an answer is charged: before its last bytes are out, and in any case behind them.
import { env } from 'cloudflare:test'
import { afterEach, describe, expect, test } from 'vitest'
import { Account } from '../../gateway/account/account.ts'
import { answer } from './support/fake-agent.ts'
import { FLEET_TARGET, gate, World } from './support/path.ts'

const realBatch = Account.prototype.batch
afterEach(() => {
  Account.prototype.batch = realBatch
})

async function worldWithAnswer(): Promise<World> {
  const world = new World()
  await world.agent(() => answer(['Rivers', ' run', '.']))
  await world.catalog([FLEET_TARGET(world.model)])
  await world.ownTenant()
  return world
}

async function openHolds(world: World): Promise<number> {
  const { orgId } = await world.ownTenant()
  return (await env.ACCOUNT.getByName(orgId).inspect()).openHolds.length
}

describe('an answer that a client has had to its end', () => {
  test('is charged by then, as a stream and in one piece', async () => {
    const world = await worldWithAnswer()
    for (const stream of [true, false]) {
      const { response, settled } = await world.chat({ stream })
      await response.text()
      expect(await openHolds(world)).toBe(0)
      await settled()
    }
    expect((await world.recorded()).attempts).toHaveLength(2)
  })

  test('is not kept back by an account that does not answer, and is charged when it does', async () => {
    const world = await worldWithAnswer()
    const stuck = gate()
    Account.prototype.batch = async function (this: Account, calls) {
      if (calls.some(({ kind }) => kind === 'settle')) await stuck.opened
      return realBatch.call(this, calls)
    }
    const { response, settled } = await world.chat({ stream: true })
    expect((await response.text()).endsWith('data: [DONE]\n\n')).toBe(true)
    expect(await openHolds(world)).toBe(1)
    stuck.open()
    await settled()
    expect(await world.recorded()).toMatchObject({ attempts: [{ status: 'ok', output: 3 }], holds: 0 })
  })
})
