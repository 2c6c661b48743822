// The own fleet's door on the whole path: who is turned away before a backend is asked, and where it goes then.
import { expect, test } from 'vitest'
import { answer, frame } from './support/fake-agent.ts'
import { FLEET_TARGET, World } from './support/path.ts'
import { MODEL, says, target, textOf } from './support/vendor.ts'

const busy = { measuredPrefillTokensPerSecond: 100, prefillTokensQueued: 1000 }

test('a fleet that cannot begin as soon as promised is passed over for the next target, unasked', async () => {
  const world = new World()
  const agent = await world.agent(() => answer(['own']))
  await agent.report([frame(world.model, { ...busy, sequence: 2 })])
  const vendor = await world.provider(says('bought'))
  await world.catalog([FLEET_TARGET(world.model), target(vendor)], { first_token_target_ms: 2000 })
  const { response, settled } = await world.chat()
  expect(await textOf(response)).toBe('bought')
  expect(response.headers.get('x-penstock-route')).toBe(`fleet/${world.model}:overloaded>${vendor}/${MODEL}:ok`)
  expect(agent.dispatches).toEqual([])
  await settled()
  expect((await world.recorded()).attempts).toMatchObject([
    { status: 'overloaded', charge: 'absorbed' },
    { status: 'ok' },
  ])
})

test('a fleet alone says when to come back, and serves who has promised nothing', async () => {
  const world = new World()
  const agent = await world.agent(() => answer(['own']))
  await agent.report([frame(world.model, { ...busy, sequence: 2 })])
  await world.catalog([FLEET_TARGET(world.model)], { first_token_target_ms: 2000 })
  const refused = await world.chat()
  expect(Number(refused.response.headers.get('retry-after-ms'))).toBeGreaterThan(7000)
  expect(await refused.response.json()).toMatchObject({ error: { message: expect.stringContaining('busy') } })
  expect(agent.dispatches).toEqual([])
  await world.catalog([FLEET_TARGET(world.model)], { priority: 7 })
  const { response } = await world.chat()
  expect(await textOf(response)).toBe('own')
  expect(response.headers.get('x-penstock-route')).toMatch(/^fleet\/.*:ok\(\d+ms;0%\)$/)
  expect(agent.dispatches).toMatchObject([{ priority: 7 }])
})
