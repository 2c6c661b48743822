// When an account is woken. Owns the one alarm that an object has, which serves expiries, closings, forgetting and flushes: it
// stands at the earliest time that was asked for. What is done then is account-core.ts.
import type { AccountPorts } from './ports.ts'

/** How late a row may reach the record where its object died between the row and the alarm for it. */
const LATE_MAX_MS = 120_000

export class Waking {
  readonly #ports: Pick<AccountPorts, 'setAlarm' | 'afterwards'>
  /** As it is stored. */
  #alarmAtMs: number | undefined
  #isAsked = false

  constructor(ports: Pick<AccountPorts, 'setAlarm' | 'afterwards'>) {
    this.#ports = ports
  }

  /** As things stand: at the start, and `undefined` once it has rung. */
  stands(alarmAtMs: number | undefined): void {
    this.#alarmAtMs = alarmAtMs
  }

  at(atMs: number | undefined): void {
    if (atMs === undefined || (this.#alarmAtMs !== undefined && this.#alarmAtMs <= atMs)) return
    this.#alarmAtMs = atMs
    this.#ports.setAlarm(atMs)
  }

  /**
   * For a row of the outbox, which is durable itself: moving the alarm is a durable write of its own, and no caller waits for it
   * where an alarm stands that finds the row soon enough, should the object die before.
   */
  soon(due: () => number | undefined): void {
    const { afterwards } = this.#ports
    const atMs = due()
    if (atMs === undefined || this.#isAsked) return
    const isSafe = this.#alarmAtMs !== undefined && this.#alarmAtMs <= atMs + LATE_MAX_MS
    if (afterwards === undefined || !isSafe) {
      this.at(atMs)
      return
    }
    this.#isAsked = true
    afterwards(() => {
      this.#isAsked = false
      this.at(due())
    })
  }
}
