// How long one decision takes: a prompt's beginning looked up in a full index, then filter, score and pick over a fleet. Owns the
// made fleet and index, and the timing; the snapshot is renewed as often as in a gateway, so its figures are part of the mean.
import { KvIndex } from '../../gateway/fleet/kv-index.ts'
import type { Open } from '../../gateway/routing/ledger.ts'
import type { Ask } from '../../gateway/routing/pick.ts'
import { FleetRouter } from '../../gateway/routing/router.ts'
import { type FleetSnapshot, MATCHES_MAX } from '../../gateway/routing/snapshot.ts'
import { type Spread, spreadOf } from '../gateway/statistics.ts'
import { seeded } from './trace.ts'
import { Worker } from './worker.ts'

const CHUNKS = 1_000_000
/** Of a prompt of some 12,000 tokens. */
const PROMPT_CHUNKS = 94
/** What every prompt begins with, held everywhere. */
const SHARED_CHUNKS = 8
/** At some 400 requests a second per isolate a snapshot serves so many decisions. */
const DECISIONS_PER_SNAPSHOT = 100
const SNAPSHOTS_PER_ROUND = 5
const ROUNDS = 15
/** Dispatches that are open at any time. */
const OPEN_MAX = 500

export type DecisionTime = {
  workers: number
  chunks: number
  /** Means of the rounds, of processor time: looking a prompt up where the index is (the Fleet object), ... */
  lookupUs: Spread
  /** ... and deciding, in the isolate; the figures that each new snapshot is turned into are shared among its decisions. */
  decisionUs: Spread
  /** The first decision of a snapshot, which makes them. */
  firstMs: Spread
}

export function measureDecisions(workers: number): DecisionTime {
  const random = seeded(workers)
  const ids = Array.from({ length: workers }, (_, index) => `00000000-0000-4000-8000-${`${index}`.padStart(12, '0')}`)
  const { index, prompts } = fullIndex(ids, random)
  const router = new FleetRouter()
  const opens: Open[] = []
  const lookups: number[] = []
  const means: number[] = []
  const firsts: number[] = []
  let nowMs = 0
  for (let round = -2; round < ROUNDS; round++) {
    let lookupUs = 0
    let decisionUs = 0
    for (let turn = 0; turn < SNAPSHOTS_PER_ROUND; turn++) {
      const snapshot = madeSnapshot(ids, random)
      const asks = Array.from({ length: DECISIONS_PER_SNAPSHOT }, () => askFor(prompts, random))
      nowMs += 250
      let fromUs = cpuUs()
      const matches = asks.map(({ chunks }) => index.match(chunks, MATCHES_MAX))
      lookupUs += cpuUs() - fromUs
      for (const [count, ask] of asks.entries()) {
        if (count <= 1) fromUs = cpuUs()
        const routed = router.decide(ask, snapshot, matches[count] as Map<string, number>, new Set(), nowMs, random())
        opens.push(router.begin(ask, routed, nowMs))
        if (opens.length > OPEN_MAX) opens.shift()?.end()
        if (count > 0) continue
        const firstUs = cpuUs() - fromUs
        decisionUs += firstUs
        if (round >= 0) firsts.push(firstUs / 1000)
      }
      decisionUs += cpuUs() - fromUs
    }
    if (round < 0) continue
    const decisions = SNAPSHOTS_PER_ROUND * DECISIONS_PER_SNAPSHOT
    lookups.push(lookupUs / decisions)
    means.push(decisionUs / decisions)
  }
  return {
    workers,
    chunks: index.chunks,
    lookupUs: spreadOf(lookups),
    decisionUs: spreadOf(means),
    firstMs: spreadOf(firsts),
  }
}

/** Of this thread alone: what else runs on the machine does not count. */
function cpuUs(): number {
  const { user, system } = process.threadCpuUsage()
  return user + system
}

const askFor = (prompts: readonly number[][], random: () => number): Ask => ({
  model: 'm',
  chunks: prompts[Math.floor(random() * prompts.length)] as number[],
  promptChars: 48_500,
  sequences: 1,
  wantsGrammar: false,
})

/** Conversations of one length, each held by one or two backends, all with the same beginning. */
function fullIndex(ids: readonly string[], random: () => number): { index: KvIndex; prompts: number[][] } {
  const index = new KvIndex({ chunksMax: 2 * CHUNKS, rowBytesMax: 1 << 30, backendChunksMax: CHUNKS })
  const shared = Array.from({ length: SHARED_CHUNKS }, (_, at) => at)
  for (const id of ids) index.apply(id, { reset: true, stored: shared, removed: [] })
  const prompts: number[][] = []
  for (let next = SHARED_CHUNKS; next < CHUNKS; ) {
    const own = Array.from({ length: PROMPT_CHUNKS - SHARED_CHUNKS }, () => 1000 * next++)
    for (let holder = 0; holder < (random() < 0.1 ? 2 : 1); holder++) {
      const id = ids[Math.floor(random() * ids.length)] as string
      index.apply(id, { reset: false, stored: own, removed: [] })
    }
    prompts.push([...shared, ...own])
  }
  return { index, prompts }
}

function madeSnapshot(ids: readonly string[], random: () => number): FleetSnapshot {
  const options = { prefillTokensPerSecond: 8000, cacheBlocks: 1000, sequencesMax: 256, kvTokensMax: 1e6 }
  const backends = ids.map((backendId) => {
    const frame = new Worker(backendId, options, () => {}).frame('m')
    const sequencesRunning = Math.floor(random() * 100)
    const prefillTokensQueued = Math.floor(random() * 20_000)
    const decodeKvTokens = 5000 * sequencesRunning
    const frames = [{ ...frame, sequencesRunning, prefillTokensQueued, decodeKvTokens }]
    return { backendId, url: `http://${backendId}`, keyThumbprint: backendId, reportAgeMs: random() * 1000, frames }
  })
  return { staleAfterMs: 3500, backends }
}
