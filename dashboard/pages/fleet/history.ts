// The last minutes of the fleet, as this page saw them. Owns the samples, one for each second that the page looked, and reading
// them as a line; nothing of it is stored anywhere. ○ Pure.
import type { Backend } from '../../app/wire-admin.ts'
import { arithmeticShare, bandwidthShare, engineKey, isReporting, isWorking, share } from './figures.ts'

/** What a sparkline shows at most: five minutes. */
const SECONDS_KEPT = 300
/** And at the least, from the first second on. */
const SECONDS_SHOWN_MIN = 60
/** In a row, before a line is broken. */
const SECONDS_SKIPPED_MAX = 2
/** Engines whose lines are kept; with more the page is about sums. 300 samples of 500 engines are some 10 MB. */
const ENGINES_MAX = 500

export type Figures = {
  running: number
  queued: number
  kv: number
  bandwidth?: number | undefined
  arithmetic?: number | undefined
}
type Sample = { second: number; all: Figures; engines: ReadonlyMap<string, Figures> }
export type History = readonly Sample[]

/** With what the fleet is now. A second that is there already is replaced by what is newer. */
export function recorded(history: History, backends: readonly Backend[], nowMs: number): History {
  const second = Math.floor(nowMs / 1_000)
  const engines = new Map<string, Figures>()
  const sums = { running: 0, queued: 0, used: 0, total: 0, moved: 0, movable: 0, done: 0, doable: 0 }
  for (const backend of backends) {
    if (!isReporting(backend)) continue
    for (const engine of backend.models) {
      const queued = engine.requests_queued + engine.sequences_waiting
      const bandwidth = isWorking(engine) ? bandwidthShare(engine) : undefined
      sums.running += engine.sequences_running
      sums.queued += queued
      sums.used += engine.kv_blocks_used
      sums.total += engine.kv_blocks_total
      if (bandwidth !== undefined) {
        sums.moved += engine.memory_bytes_per_second ?? 0
        sums.movable += engine.memory_bytes_per_second_max ?? 0
      }
      if (arithmeticShare(engine) !== undefined) {
        sums.done += engine.macs_per_second ?? 0
        sums.doable += engine.macs_per_second_max ?? 0
      }
      if (engines.size < ENGINES_MAX) {
        const kv = share(engine.kv_blocks_used, engine.kv_blocks_total)
        engines.set(engineKey(backend, engine), { running: engine.sequences_running, queued, kv })
      }
    }
  }
  const all: Figures = {
    running: sums.running,
    queued: sums.queued,
    kv: share(sums.used, sums.total),
    bandwidth: sums.movable === 0 ? undefined : sums.moved / sums.movable,
    arithmetic: sums.doable === 0 ? undefined : sums.done / sums.doable,
  }
  const kept = history.filter((sample) => sample.second < second && sample.second > second - SECONDS_KEPT)
  return [...kept, { second, all, engines }]
}

/** One value for each second up to the last sample; seconds in which the page did not look are gaps. */
export function line(
  history: History,
  pick: (sample: { all: Figures; engines: ReadonlyMap<string, Figures> }) => number | undefined,
): (number | undefined)[] {
  const [first, last] = [history[0]?.second, history.at(-1)?.second]
  if (first === undefined || last === undefined) return []
  const seconds = Math.max(SECONDS_SHOWN_MIN, last - first + 1)
  const values = new Array<number | undefined>(seconds).fill(undefined)
  let before: { at: number; value: number | undefined } | undefined
  for (const sample of history) {
    const at = sample.second - last + seconds - 1
    if (at < 0) continue
    const value = pick(sample)
    // Timers run late: a second that was skipped is no gap.
    if (before !== undefined && at - before.at <= SECONDS_SKIPPED_MAX + 1) values.fill(before.value, before.at + 1, at)
    values[at] = value
    before = { at, value }
  }
  return values
}
