// Which backend serves a request. Owns filter → score → pick with an explanation. Pure: data in, decision out.
import type { FleetSnapshot } from './snapshot.ts'

/** What this isolate knows beside the snapshot. */
export type LocalKnowledge = {
  /** Own dispatches that are open, by backend. */
  inFlight: ReadonlyMap<string, number>
  /** Backends that failed within the last seconds: asked last, yet asked, since most failures are short. */
  inhibited: ReadonlySet<string>
  /** Backends this request has used already. */
  tried: ReadonlySet<string>
}

export type Verdict =
  | 'candidate'
  | 'full'
  | 'other_model'
  | 'no_grammars'
  | 'stale'
  | 'draining'
  | 'inhibited'
  | 'tried'

/** Why each backend was or was not taken; `load` is unset where none was computed. */
export type Considered = { backendId: string; verdict: Verdict; load?: number }

export type Decision = { chosen: { backendId: string; url: string } | undefined; considered: Considered[] }

/** Backends this close in load are equal: the figures are up to a second old, and ties are spread at random. */
const LOAD_TIE = 0.02
/** Puts a full backend behind every other one, and still before none: its own refusal carries the honest Retry-After. */
const FULL_PENALTY = 1000
/** A backend that just failed comes after full ones: those at least are known to answer. */
const INHIBITED_PENALTY = 2 * FULL_PENALTY
/** KV occupancy counts less than sequences: cached blocks are given up on demand. */
const KV_WEIGHT = 0.5

/**
 * Picks the least loaded backend that serves the model.
 * @param random In [0, 1); breaks ties, so that many isolates with one snapshot do not all pick the same backend.
 * @param wantsGrammar Only backends whose engine can hold its output to one.
 */
export function pick(
  model: string,
  snapshot: FleetSnapshot,
  local: LocalKnowledge,
  random: number,
  wantsGrammar = false,
): Decision {
  const considered = snapshot.backends.map((backend) =>
    consider(model, backend, snapshot.staleAfterMs, local, wantsGrammar),
  )
  const usable = considered.filter((one) => one.load !== undefined)
  const least = usable.reduce((most, one) => Math.min(most, one.load ?? 0), Number.POSITIVE_INFINITY)
  const ties = usable.filter((one) => (one.load ?? 0) <= least + LOAD_TIE)
  const winner = ties[Math.min(ties.length - 1, Math.floor(random * ties.length))]
  const backend = snapshot.backends.find((one) => one.backendId === winner?.backendId)
  return { chosen: backend && { backendId: backend.backendId, url: backend.url }, considered }
}

function consider(
  model: string,
  backend: FleetSnapshot['backends'][number],
  staleAfterMs: number,
  local: LocalKnowledge,
  wantsGrammar: boolean,
): Considered {
  const { backendId } = backend
  // Prefill and decode workers alone cannot finish a request.
  const frames = backend.frames.filter((frame) => frame.model === model && frame.role === 'both')
  if (frames.length === 0) return { backendId, verdict: 'other_model' }
  if (backend.reportAgeMs > staleAfterMs) return { backendId, verdict: 'stale' }
  const able = wantsGrammar ? frames.filter((frame) => frame.grammars === true) : frames
  if (able.length === 0) return { backendId, verdict: 'no_grammars' }
  const open = able.filter((frame) => !frame.draining)
  if (open.length === 0) return { backendId, verdict: 'draining' }
  if (local.tried.has(backendId)) return { backendId, verdict: 'tried' }

  let busy = 0
  let slots = 0
  let queued = 0
  let queueRoom = 0
  let kvUsed = 0
  let kvTotal = 0
  for (const frame of open) {
    busy += frame.sequencesRunning + frame.sequencesWaiting + frame.requestsQueued
    slots += frame.sequencesMax
    queued += frame.requestsQueued
    queueRoom += frame.requestsQueuedMax
    kvUsed += frame.kvBlocksUsed
    kvTotal += frame.kvBlocksTotal
  }
  // The frame may not show what this isolate sent since, or may show all of it: the larger count is the safer one.
  const own = local.inFlight.get(backendId) ?? 0
  const load = Math.max(busy, own) / Math.max(1, slots) + (KV_WEIGHT * kvUsed) / Math.max(1, kvTotal)
  if (local.inhibited.has(backendId)) return { backendId, verdict: 'inhibited', load: load + INHIBITED_PENALTY }
  const isFull = queueRoom > 0 && queued >= queueRoom
  return isFull ? { backendId, verdict: 'full', load: load + FULL_PENALTY } : { backendId, verdict: 'candidate', load }
}
