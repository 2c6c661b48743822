// Membership against a fake gateway that checks every signature.
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { loadIdentity } from '../../../backends/identity.ts'
import { ChunkTable } from '../../../backends/prefix/chunk-table.ts'
import { HeldChunks } from '../../../backends/prefix/held-chunks.ts'
import { Reporter, type ReporterOptions, reportText } from '../../../backends/report.ts'
import { KvIndex } from '../../../gateway/fleet/kv-index.ts'
import { CapacityFrame } from '../../../protocol/capacity.ts'
import { KV_CHUNKS_PER_REPORT_MAX, ReportRequest } from '../../../protocol/report.ts'
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

async function start(joinToken?: string, more: Partial<ReporterOptions> = {}): Promise<Reporter> {
  reporter = new Reporter({
    gatewayUrl: gateway.url,
    publicUrl: 'http://127.0.0.1:1',
    identity: await loadIdentity(join(folder, 'state')),
    ...(joinToken === undefined ? {} : { joinToken }),
    epoch: 'epoch-1',
    frames: () => [],
    fingerprint: () => String(state.version),
    log: () => {},
    ...more,
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

/** An engine that holds one long prompt: chunk n needs block n. */
function engine(chunks: number) {
  const held = new HeldChunks(() => reporter?.changed())
  const table = new ChunkTable({ blockTokens: 16, blocksTotal: 1e6 }, () => true)
  held.follow(table)
  const hashes = Array.from({ length: chunks }, (_, at) => BigInt(at + 1))
  table.admitted(
    hashes.map((_, at) => ({ chunk: at, tokens: 16 * (at + 1) })),
    hashes,
  )
  const event = (kind: 'stored' | 'removed', at: number) =>
    table.blocks([{ kind, hash: hashes[at] as bigint, parent: 0n }])
  return { held, lose: (at: number) => event('removed', at), regain: (at: number) => event('stored', at) }
}

/** What the gateway knows from the reports since the last reset. */
function known(chunks: number): number | undefined {
  const index = new KvIndex()
  for (const { kv } of gateway.reports) if (kv !== undefined) index.apply('b', kv)
  expect(index.held('b').chunks).toBe(index.match(Array.from({ length: chunks }, (_, at) => at)).get('b') ?? 0)
  return index.held('b').chunks
}

test('what the engines hold is told from the start after a join, in portions, and then its changes', async () => {
  const { held, lose, regain } = engine(9000)
  await start(undefined, { kv: held })
  await until(() => gateway.reports.length >= 3)
  expect(gateway.reports.slice(0, 3).map(({ kv }) => [kv?.reset, kv?.stored.length])).toEqual([
    [true, KV_CHUNKS_PER_REPORT_MAX],
    [false, KV_CHUNKS_PER_REPORT_MAX],
    [false, 9000 - 2 * KV_CHUNKS_PER_REPORT_MAX],
  ])
  // Nothing else changes, and nobody calls: an idle engine's last changes are told too.
  lose(8990)
  await until(() => gateway.reports.some(({ kv }) => kv !== undefined && kv.removed.length === 10))
  expect(known(9000)).toBe(8990)
  regain(8990)
  await until(() => gateway.reports.filter(({ kv }) => kv?.stored.length === 10).length === 1)
  expect(known(9000)).toBe(9000)
})

test('changes while everything is told anew end in what is held', async () => {
  const { held, lose, regain } = engine(9000)
  await start(undefined, { kv: held })
  await until(() => gateway.reports.length >= 1)
  lose(3000)
  regain(3000)
  lose(8000)
  await until(() => known(9000) === 8000)
  expect(held.hasUntold).toBe(false)
})

test.each([
  ['a resync', () => Object.assign(gateway.status, { next: 'resync' })],
  ['a failed report', () => Object.assign(gateway.status, { report: 500 })],
])('after %s everything is told again', async (_, fail) => {
  const { held, lose } = engine(100)
  await start(undefined, { kv: held })
  await until(() => gateway.reports.length === 1)
  fail()
  lose(50)
  await until(() => gateway.joins.length >= 2)
  Object.assign(gateway.status, { next: 'continue', report: 200 })
  const before = gateway.reports.length
  await until(() => gateway.reports.slice(before).some(({ kv }) => kv?.reset === true && kv.stored.length === 50))
})

test('what an administrator wants is passed on once per revision', async () => {
  const wanted: unknown[] = []
  await start(undefined, { onDesired: (desired) => wanted.push(desired) })
  const want = async (revision: number) => {
    gateway.status.desired = { revision, draining: revision > 1, roles: { gpu0: 'prefill' } }
    for (let reports = 0; reports < 2; reports++) {
      const before = gateway.reports.length
      state.version++
      await until(() => {
        reporter?.changed()
        return gateway.reports.length > before
      })
    }
    await until(() => wanted.length === revision)
  }
  await want(1)
  await want(2)
  expect(wanted).toEqual([
    { revision: 1, draining: false, roles: { gpu0: 'prefill' } },
    { revision: 2, draining: true, roles: { gpu0: 'prefill' } },
  ])
})

test('a report without changes of K and V is at most a kilobyte for each engine, whatever an engine says', () => {
  const odd = Math.fround(123.456)
  const count = 1_234_567
  const frame: CapacityFrame = {
    model: 'meta-llama/Llama-3.3-70B-Instruct-of-some-length',
    engine: 'decode-1',
    role: 'prefill',
    epoch: '0123456789abcdef',
    sequence: 123_456_789,
    contextTokensMax: count,
    blockTokens: 16,
    kvBlocksTotal: count,
    kvBlocksUsed: count,
    kvBlocksCached: count,
    sequencesRunning: 1024,
    sequencesWaiting: 1024,
    sequencesMax: 1024,
    requestsQueued: 1024,
    requestsQueuedMax: 1024,
    prefillTokensQueued: count,
    decodeKvTokens: count,
    stepMs: odd,
    measuredPrefillTokensPerSecond: odd,
    measuredDecodeTokensPerSecond: odd,
    memoryBytesPerSecond: odd * 1e10,
    memoryBytesPerSecondMax: 4_000_000_000_000,
    macs: [odd, 1_000_000, 1],
    busyShare: 0.12,
    stepModel: { baseMs: odd, prefillTokenMs: odd / 3, decodeSequenceMs: odd / 7, kvTokenMs: odd / 1e9 },
    transfer: {
      fingerprint: 'llama:layers=80:kv_heads=8:dim=128:block=16:type=bf16:version=3',
      host: 'a'.repeat(36),
      remote: true,
      bytesPerToken: 327_680,
      measuredBytesPerSecond: odd * 1e8,
      reservations: 1024,
    },
    draining: false,
    grammars: true,
  }
  // An engine that is not ready says why instead of how fast it is.
  const { macs: _, busyShare: __, ...rest } = frame
  const unready: CapacityFrame = { ...rest, notReady: 'canary_timeout', canaryFailures: 3 }
  expect(new Set([...Object.keys(frame), ...Object.keys(unready)])).toEqual(new Set(Object.keys(CapacityFrame.shape)))
  const report = { version: 1, backendId: crypto.randomUUID(), epoch: crypto.randomUUID(), sequence: 1e9 }
  const ENVELOPE_BYTES = 160
  for (const engines of [1, 8]) {
    for (const said of [frame, unready]) {
      const text = reportText({ ...report, frames: Array.from({ length: engines }, () => said) })
      expect(ReportRequest.safeParse(JSON.parse(text)).success).toBe(true)
      expect(text.length).toBeLessThanOrEqual(1024 * engines + ENVELOPE_BYTES)
    }
  }
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
