// Sees to it that limits have complete counters before they are asked. Owns which series are made ready when, and the
// order that keeps every end counted once; where the counts come from is seeding.ts, the counters are counts.ts.
import { errorText } from '../observe/log.ts'
import type { Counts } from './counts.ts'
import type { Delivery, DeliveryPorts } from './delivery.ts'
import type { Series } from './rule-index.ts'
import type { Rules } from './rules.ts'
import { countOf, readSeed, type Seed } from './seeding.ts'

/** After counters could not be read the record is left alone this long: callers must not wait for each failure. */
const RETRY_MS = 1_000

export class Readiness {
  readonly #ports: DeliveryPorts
  readonly #counts: Counts
  readonly #rules: Rules
  readonly #delivery: Delivery
  /** Series that the next turn makes ready. */
  readonly #wanted = new Map<string, Series>()
  #failedAtMs: number | undefined

  constructor(ports: DeliveryPorts, parts: { counts: Counts; rules: Rules; delivery: Delivery }) {
    this.#ports = ports
    this.#counts = parts.counts
    this.#rules = parts.rules
    this.#delivery = parts.delivery
  }

  /** Makes series ready; callers that wait at the same time share one turn. Never rejects; answers whether it went well. */
  async make(orgId: string, series: readonly Series[]): Promise<boolean> {
    if (this.#isPaused()) return false
    for (const one of series) this.#wanted.set(one.name, one)
    await this.#delivery.alone(async () => {
      const wanted = [...this.#wanted.values()].filter((one) => !this.#isReady(one))
      this.#wanted.clear()
      if (wanted.length === 0) return
      try {
        await this.#seed(orgId, wanted)
        this.#failedAtMs = undefined
      } catch (error) {
        this.#failedAtMs = this.#ports.now()
        this.#ports.log('warn', 'counters_unreadable', { orgId, series: wanted.length, error: errorText(error) })
      }
    })
    return series.every((one) => this.#isReady(one))
  }

  /** @throws DatabaseUnavailable, QueryFailed */
  async #seed(orgId: string, wanted: readonly Series[]): Promise<void> {
    await this.#delivery.drain()
    const seeds: Seed[] = []
    for (const series of wanted) seeds.push(await readSeed(this.#ports.record, orgId, series, this.#ports.now()))
    const waiting = this.#delivery.waiting()
    this.#ports.transaction(() => {
      for (const { series, coveredFrom, counts } of seeds) {
        // Its rule may be gone by now.
        if (this.#rules.index?.has(series.name) !== true || this.#isReady(series)) continue
        const late = waiting.map((row) => countOf(row, series)).filter((count) => count !== undefined)
        this.#counts.seed(series, coveredFrom, [...counts, ...late])
      }
    })
  }

  #isReady(series: Series): boolean {
    return this.#counts.isReady(series, this.#ports.now())
  }

  /** A clock set back ends the pause. */
  #isPaused(): boolean {
    if (this.#failedAtMs === undefined) return false
    const sinceMs = this.#ports.now() - this.#failedAtMs
    return sinceMs >= 0 && sinceMs < RETRY_MS
  }
}
