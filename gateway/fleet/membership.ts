// What a backend's life looks like to the fleet. Owns epochs, sequences and staleness. Pure; storage is fleet.ts.
//
//   (absent) ──join──▶ present ──report in order──▶ present
//                        │  ├──report out of order──▶ present, told to resync
//                        │  └──no report for STALE_AFTER_MS──▶ stale (kept, not routed to)
//                        │        └──none for FORGET_AFTER_MS──▶ forgotten (what it holds; told to resync when it is back)
//                        └──leave──▶ absent
//
// Each life of an agent has its own epoch. A join with a new epoch drops all that the old one said, and the old epoch
// can never come back: a process that was thought dead must not overwrite its successor.
import type { CapacityFrame } from '../../protocol/capacity.ts'

/** How often agents are asked to report. */
export const REPORT_INTERVAL_MS = 1000
/** Three reports missed in a row: two can be bad luck. */
export const STALE_AFTER_MS = 3500
/** What a backend's engines hold is dropped then: a host that paused for less is believed to hold it still. */
export const FORGET_AFTER_MS = 60_000
/** Past lives remembered per backend. A zombie older than that many restarts is not a real case. */
const RETIRED_EPOCHS_MAX = 16

/** What of a backend lives in memory only: the agent's next join brings it back. */
export type Presence = {
  epoch: string
  /** Of the last report; absent right after a join. */
  sequence?: number
  frames: CapacityFrame[]
  reportedAtMs: number
  /** Nothing is known of what it holds: the next report is answered by a resync. */
  forgotten?: true
}

export type EpochHistory = { current?: string; retired: string[] }

/** The history after a join, or undefined where the joining epoch was superseded. */
export function joinEpoch(history: EpochHistory, epoch: string): EpochHistory | undefined {
  if (history.retired.includes(epoch)) return undefined
  if (history.current === undefined || history.current === epoch) return { current: epoch, retired: history.retired }
  return { current: epoch, retired: [...history.retired, history.current].slice(-RETIRED_EPOCHS_MAX) }
}

/** What becomes of the changes of K and V that came with a report, and of those that came before. */
export type KvFate = 'apply' | 'ignore' | 'drop'

/**
 * Presence after a report, and what the agent does next. A repeated or overtaken report changes nothing; one after a
 * gap is still the newest truth about load and counts, but what was lost in between has to come again, and until it has
 * nothing is known of what the backend holds.
 */
export function applyReport(
  presence: Presence | undefined,
  report: { epoch: string; sequence: number; frames: CapacityFrame[] },
  nowMs: number,
): { presence: Presence | undefined; next: 'continue' | 'resync'; kv: KvFate } {
  if (presence === undefined || presence.epoch !== report.epoch) return { presence, next: 'resync', kv: 'ignore' }
  if (presence.sequence !== undefined && report.sequence <= presence.sequence)
    return { presence, next: 'continue', kv: 'ignore' }
  const { epoch, sequence, frames } = report
  const isNext = presence.sequence === undefined || sequence === presence.sequence + 1
  const after: Presence = { epoch, sequence, frames, reportedAtMs: nowMs }
  if (isNext && presence.forgotten === undefined) return { presence: after, next: 'continue', kv: 'apply' }
  return { presence: { ...after, forgotten: true }, next: 'resync', kv: 'drop' }
}

/** Used token ids, until they expire. Bounded by what can arrive in a token's life; full means refuse, not forget. */
export class ReplayMemory {
  readonly #seen = new Map<string, number>()
  readonly #max: number

  constructor(max: number) {
    this.#max = max
  }

  /** True the first time within the token's life. */
  firstUse(jti: string, expiresAtMs: number, nowMs: number): boolean {
    this.#forgetOldest(nowMs)
    if (this.#seen.has(jti)) return false
    if (this.#seen.size >= this.#max) this.#forgetAll(nowMs)
    if (this.#seen.size >= this.#max) return false
    this.#seen.set(jti, expiresAtMs)
    return true
  }

  /** Lives are of about one length, so the first that still lives ends the sweep: memory stays near what is alive. */
  #forgetOldest(nowMs: number): void {
    for (const [jti, expiresAtMs] of this.#seen) {
      if (expiresAtMs > nowMs) return
      this.#seen.delete(jti)
    }
  }

  /** Whatever the order: before anything is refused for want of room. */
  #forgetAll(nowMs: number): void {
    for (const [jti, expiresAtMs] of this.#seen) {
      if (expiresAtMs <= nowMs) this.#seen.delete(jti)
    }
  }
}
