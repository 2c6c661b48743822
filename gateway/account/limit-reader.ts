// How full each limit is, as admission sees it. Owns the list of an account's limits with what is counted and held in the windows of
// now; it reads what admission reads and changes nothing but to make counters complete, as the next request would.
import type { Counts } from './counts.ts'
import { EACH, type LimitRule } from './limit.ts'
import type { OpenHolds } from './open-holds.ts'
import type { AccountPorts } from './ports.ts'
import type { Readiness } from './readiness.ts'
import type { Rules } from './rules.ts'
import { type WindowSpan, windowOf } from './windows.ts'

/** One limit as one subject meets it. Counts are of the limit's own meter: requests, tokens, nano-USD, or running requests. */
export type LimitReading = {
  limit: LimitRule
  /** Absent: a limit for each of a scope that nobody has used in this window. */
  subject?: string | undefined
  /** Absent for concurrency. */
  span?: WindowSpan | undefined
  /** Absent: not known to be complete. */
  settled?: bigint | undefined
  held: bigint
}
export type LimitReadings = {
  /** Undefined: the rules are not known, and nothing would be granted. */
  version: number | undefined
  readings: LimitReading[]
  /** Some subjects of limits for each were left out. */
  truncated: boolean
  heldNanoUsd: bigint
}

/** Of a limit for each of a scope: the fullest. */
const SUBJECTS_SHOWN_MAX = 50
/** Series whose counters one call makes complete; each is a sum over the record. */
const MADE_READY_MAX = 200

type Parts = { rules: Rules; counts: Counts; open: OpenHolds; readiness: Readiness }

export class LimitReader {
  readonly #ports: AccountPorts
  readonly #parts: Parts
  readonly #bind: (orgId: string) => void

  /** @param bind Says whose account this is. @throws where it is another's */
  constructor(ports: AccountPorts, parts: Parts, bind: (orgId: string) => void) {
    this.#ports = ports
    this.#parts = parts
    this.#bind = bind
  }

  /** In the order of the book; of each limit the fullest first. @throws Error for another organisation's account */
  async read(orgId: string): Promise<LimitReadings> {
    const { rules, counts, open } = this.#parts
    this.#bind(orgId)
    await this.#makeKnown(orgId)
    const { index, version } = rules
    const readings: LimitReading[] = []
    let truncated = false
    const nowMs = this.#ports.now()
    for (const entry of index?.all() ?? []) {
      const { limit } = entry
      const found: LimitReading[] = []
      if ('series' in entry) {
        const { series } = entry
        const span = windowOf(series.window, series.timeZone, nowMs)
        const subjects = limit.scopeId === EACH ? this.#subjects(series.name, span) : [limit.scopeId]
        for (const subject of subjects) {
          const settled = counts.value(series, subject, span)
          found.push({ limit, subject, span, settled, held: open.held(series.name, subject, span.key) })
        }
        if (found.length === 0)
          found.push({ limit, span, settled: counts.isReady(series, nowMs) ? 0n : undefined, held: 0n })
      } else {
        const { place } = entry
        const subjects = limit.scopeId === EACH ? open.runningAt(place) : [limit.scopeId]
        for (const subject of subjects)
          found.push({ limit, subject, settled: 0n, held: BigInt(open.running(place, subject, '')) })
        if (found.length === 0) found.push({ limit, settled: 0n, held: 0n })
      }
      found.sort((a, b) => (total(a) < total(b) ? 1 : total(a) > total(b) ? -1 : 0))
      if (found.length > SUBJECTS_SHOWN_MAX) truncated = true
      readings.push(...found.slice(0, SUBJECTS_SHOWN_MAX))
    }
    return { version, readings, truncated, heldNanoUsd: open.heldNanoUsd }
  }

  async #makeKnown(orgId: string): Promise<void> {
    const { rules, counts, readiness } = this.#parts
    const work = async () => {
      await rules.makeKnown(orgId)
      const nowMs = this.#ports.now()
      const missing = (rules.index?.all() ?? []).flatMap((entry) =>
        'series' in entry && !counts.isReady(entry.series, nowMs) ? [entry.series] : [],
      )
      if (missing.length > 0) await readiness.make(orgId, missing.slice(0, MADE_READY_MAX))
    }
    await (this.#ports.patience === undefined ? work() : this.#ports.patience(work()))
  }

  /** Who has used anything in the window, counted or held; one more than are shown. */
  #subjects(series: string, span: WindowSpan): string[] {
    const { counts, open } = this.#parts
    return [...new Set([...counts.fullest(series, span, SUBJECTS_SHOWN_MAX + 1), ...open.heldIn(series, span.key)])]
  }
}

const total = ({ settled = 0n, held }: LimitReading): bigint => settled + held
