// Membership against a fake gateway that checks every signature.
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { loadIdentity } from '../../../backends/identity.ts'
import { Reporter } from '../../../backends/report.ts'
import { type FakeGateway, startFakeGateway, until } from './support/harness.ts'

let folder: string
let gateway: FakeGateway
let reporter: Reporter | undefined
const state = { version: 0 }

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'report-test-'))
  gateway = await startFakeGateway()
  state.version = 0
})
afterEach(async () => {
  await reporter?.leave()
  reporter = undefined
  await gateway.close()
  rmSync(folder, { recursive: true, force: true })
})

async function start(joinToken?: string): Promise<Reporter> {
  reporter = new Reporter({
    gatewayUrl: gateway.url,
    publicUrl: 'http://127.0.0.1:1',
    identity: await loadIdentity(join(folder, 'state')),
    ...(joinToken === undefined ? {} : { joinToken }),
    epoch: 'epoch-1',
    frames: () => [],
    fingerprint: () => String(state.version),
    log: () => {},
  })
  reporter.start()
  return reporter
}

test('the first join carries the token, and reports are numbered from zero without gaps', async () => {
  await start('secret-token')
  for (let i = 1; i <= 3; i++) {
    state.version = i
    await until(() => {
      reporter?.changed()
      return gateway.reports.length >= i
    })
  }
  expect(gateway.joins.map((join) => join.token)).toEqual(['secret-token'])
  expect(gateway.reports.slice(0, 3).map((report) => report.sequence)).toEqual([0, 1, 2])
})

test('a resync is answered by a whole join without the token', async () => {
  await start('secret-token')
  await until(() => gateway.joins.length === 1)
  gateway.status.next = 'resync'
  state.version = 1
  reporter?.changed()
  await until(() => gateway.joins.length === 2)
  gateway.status.next = 'continue'
  expect(gateway.joins[1]?.token).toBeUndefined()
})

test('a refused token gives way to the enrolled key, and back', async () => {
  gateway.status.join = 403
  await start('secret-token')
  await until(() => gateway.joins.length >= 3)
  expect(gateway.joins.slice(0, 3).map((join) => join.token !== undefined)).toEqual([true, false, true])
})

test('after a failed report the agent joins again', async () => {
  await start()
  await until(() => gateway.joins.length === 1)
  gateway.status.report = 500
  state.version = 1
  await until(() => {
    reporter?.changed()
    return gateway.joins.length >= 2
  })
})

test('leaving is told to the gateway once', async () => {
  const member = await start()
  await until(() => member.joined)
  await member.leave()
  await member.leave()
  expect(gateway.leaves).toEqual([{ version: 1, backendId: gateway.joins[0]?.backendId, epoch: 'epoch-1' }])
})

test('the identity is made once, kept private, and the same at the next start', async () => {
  const first = await loadIdentity(join(folder, 'state'))
  const second = await loadIdentity(join(folder, 'state'))
  expect(second.backendId).toBe(first.backendId)
  expect(second.publicKey).toEqual(first.publicKey)
  expect(statSync(join(folder, 'state', 'agent-identity.json')).mode & 0o777).toBe(0o600)
})

test('a damaged identity is an error that says so, not a new identity', async () => {
  await loadIdentity(join(folder, 'state'))
  writeFileSync(join(folder, 'state', 'agent-identity.json'), '{"backendId":1}')
  await expect(loadIdentity(join(folder, 'state'))).rejects.toThrow(/damaged at/)
  writeFileSync(join(folder, 'state', 'agent-identity.json'), 'x')
  await expect(loadIdentity(join(folder, 'state'))).rejects.toThrow(/not JSON/)
})
