// A fleet for the tests of routing over it: frames and backends with what matters named, and one way to ask. Owns the defaults.
import { FiguresBySnapshot } from '../../../../gateway/routing/figures.ts'
import { FleetLedger, type Load } from '../../../../gateway/routing/ledger.ts'
import { type Ask, type LocalKnowledge, pick } from '../../../../gateway/routing/pick.ts'
import type { BackendView } from '../../../../gateway/routing/snapshot.ts'
import type { CapacityFrame } from '../../../../protocol/capacity.ts'

export const frame = (over: Partial<CapacityFrame> = {}): CapacityFrame => ({
  model: 'm',
  role: 'both',
  epoch: 'e',
  sequence: 1,
  contextTokensMax: 100_000,
  blockTokens: 16,
  kvBlocksTotal: 100_000,
  kvBlocksUsed: 0,
  kvBlocksCached: 0,
  sequencesRunning: 0,
  sequencesWaiting: 0,
  sequencesMax: 10,
  requestsQueued: 0,
  requestsQueuedMax: 20,
  prefillTokensQueued: 0,
  decodeKvTokens: 0,
  stepMs: 1,
  measuredPrefillTokensPerSecond: 1000,
  stepModel: { baseMs: 10, prefillTokenMs: 1, decodeSequenceMs: 1, kvTokenMs: 0.0001 },
  draining: false,
  ...over,
})

export const backend = (
  backendId: string,
  over: Partial<CapacityFrame> = {},
  more: Partial<BackendView> = {},
): BackendView => ({
  backendId,
  url: `http://${backendId}`,
  keyThumbprint: `key of ${backendId}`,
  reportAgeMs: 0,
  frames: [frame(over)],
  ...more,
})

/** A layout of K and V that can be handed over. */
export const transfer = (over: Partial<NonNullable<CapacityFrame['transfer']>> = {}) => ({
  transfer: { fingerprint: 'f', host: 'h', remote: true, bytesPerToken: 1000, reservations: 0, ...over },
})

export const ask = (over: Partial<Ask> = {}): Ask => ({
  model: 'm',
  chunks: [],
  promptChars: 16_000,
  promptTokens: 4000,
  sequences: 1,
  wantsGrammar: false,
  ...over,
})

/** Of a prompt of 4,000 tokens in 16,000 characters. */
export const TOKENS_PER_CHUNK = 128

export const knowing = (over: Partial<LocalKnowledge> = {}): LocalKnowledge => ({
  loads: [],
  inhibited: new Set(),
  tried: new Set(),
  tokensPerChar: 0.25,
  usualUncachedTokens: 1000,
  matches: new Map(),
  sent: new Map(),
  ...over,
})

export function choose(
  backends: BackendView[],
  { local = {}, random = 0, asked = ask() }: { local?: Partial<LocalKnowledge>; random?: number; asked?: Ask } = {},
) {
  const nowMs = 1000
  const { figures, rows } = new FiguresBySnapshot().of({ staleAfterMs: 3500, backends }, asked, new Map(), nowMs)
  return { figures, decision: pick(asked, figures, rows, knowing(local), random) }
}

/** A ledger in which these backends have sequences that no frame shows. */
export function openAt(sequences: Record<string, number>): Iterable<Load> {
  const ledger = new FleetLedger()
  for (const [backendId, count] of Object.entries(sequences)) {
    for (let index = 0; index < count; index++) {
      ledger.begin([{ backendId, model: 'm', promptTokens: 1000, sequences: 1, kvTokens: 1000 }], 1000)
    }
  }
  return ledger.loads
}
