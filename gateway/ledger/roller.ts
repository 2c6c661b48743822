// Rolls an account's usage up beside its other work. Owns that one roll runs at a time, in the background, and that there
// is an alarm for the next one; when that is roll-pace.ts, what it does rollups.ts.
//
// Nothing waits for a roll: requests, flushes and expiries go on. The alarm outlives the object, so that marks which one
// object left are found by the next; where even that is lost, the next rows or the operator's POST /usage/rollup find them.
import type { Database } from '../db/port.ts'
import { errorText, log } from '../observe/log.ts'
import type { OutboxEntry } from './outbox.ts'
import { RollPace } from './roll-pace.ts'

/** Most rolls touch the current quarter hour and perhaps the one before; corrections touch others. */
const BUCKETS_PER_ROLL = 8

export type RollerPorts = {
  database: Database
  now(): number
  /** Asks for `alarm()` at the latest at this time. */
  wakeAt(atMs: number): void
  /** Keeps the object alive for the work. */
  background(work: Promise<void>): void
}

export class Roller {
  readonly #ports: RollerPorts
  readonly #pace: RollPace
  #orgId: string | undefined
  #rolling = false

  /** @param orgId undefined where the runtime does not tell an object its name: it is known with the first rows then. */
  constructor(ports: RollerPorts, orgId: string | undefined) {
    this.#ports = ports
    this.#pace = new RollPace(ports.now())
    this.#orgId = orgId
  }

  /** These have reached Postgres, and with them their marks. */
  written(entries: readonly OutboxEntry[]): void {
    const orgId = entries.flatMap(({ attempts, request }) => request?.orgId ?? attempts[0]?.orgId ?? [])[0]
    if (orgId === undefined) return
    this.#orgId ??= orgId
    this.#pace.rowsWritten()
    this.#wake()
  }

  /** At every alarm of the object, whatever it was for. */
  alarm(): void {
    const dueAtMs = this.#pace.dueAtMs
    if (dueAtMs === undefined || this.#orgId === undefined || this.#rolling) return
    if (dueAtMs > this.#ports.now()) this.#wake()
    else this.#ports.background(this.#roll(this.#orgId))
  }

  async #roll(orgId: string): Promise<void> {
    this.#rolling = true
    this.#pace.begin()
    const startedAtMs = this.#ports.now()
    try {
      // Loaded by the first roll: a cold start does without.
      const { rollUp } = await import('./rollups.ts')
      const { left, failed } = await rollUp(this.#ports.database, orgId, BUCKETS_PER_ROLL, startedAtMs)
      this.#pace.end(startedAtMs, this.#ports.now(), left || failed > 0)
    } catch (error) {
      this.#pace.fail(this.#ports.now())
      log('warn', 'roll_failed', { orgId, error: errorText(error) })
    }
    this.#rolling = false
    this.#wake()
  }

  #wake(): void {
    const dueAtMs = this.#pace.dueAtMs
    if (dueAtMs !== undefined && !this.#rolling) this.#ports.wakeAt(dueAtMs)
  }
}
