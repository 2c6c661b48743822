// From the request path to the account. Owns that each hold is ended exactly once from here, however the attempt went,
// and that a failing account is asked again. What a hold is and costs is account/.
import type { Hold, SettleEnd } from './account/contract.ts'
import type { AccountCalls } from './account/lane.ts'
import type { Usage } from './meter/usage.ts'
import { errorText, log } from './observe/log.ts'

/**
 * Waits between tries: some 20 s together, inside the 30 s the platform leaves to work after a response. Beyond that
 * the hold's own expiry charges the last checkpoint.
 */
const RETRY_DELAYS_MS = [100, 300, 1000, 3000, 6000, 10_000]

/** How often a running stream's usage is made durable: what a crash of this isolate can lose. */
const CHECKPOINT_INTERVAL_MS = 5000

export type SettlementPorts = {
  account: AccountCalls
  /** Keeps the work alive after the response is sent or the client is gone. */
  waitUntil: (work: Promise<unknown>) => void
  sleep: (ms: number) => Promise<void>
}

/** One hold on its way to its end. */
export class Settlement {
  readonly hold: Pick<Hold, 'holdId'>
  readonly #ports: SettlementPorts
  readonly #requestId: string
  #ended: Promise<void> | undefined
  #end: SettleEnd | undefined
  #checkpointAtMs: number

  constructor(hold: Pick<Hold, 'holdId'>, requestId: string, ports: SettlementPorts, nowMs: number) {
    this.hold = hold
    this.#requestId = requestId
    this.#ports = ports
    this.#checkpointAtMs = nowMs
  }

  /** The first end counts, later ones wait for it. Never rejects. */
  end(end: Omit<SettleEnd, 'holdId'>): Promise<void> {
    if (this.#ended === undefined) {
      this.#end = { ...end, holdId: this.hold.holdId }
      this.#ended = this.#settle(this.#end)
      this.#ports.waitUntil(this.#ended)
    }
    return this.#ended
  }

  /** The attempt that should have followed this one never came to be: says that this was the request's last. */
  conclude(): void {
    const end = this.#end
    if (end === undefined || end.final) return
    const concluding = (this.#ended ?? Promise.resolve()).then(() => this.#settle({ ...end, final: true }))
    this.#ports.waitUntil(concluding)
  }

  /** Makes the usage so far durable, at most every `intervalMs`. A failure costs precision after a crash only. */
  checkpoint(usage: Usage, nowMs: number, intervalMs = CHECKPOINT_INTERVAL_MS): void {
    if (this.#ended !== undefined || nowMs - this.#checkpointAtMs < intervalMs) return
    this.#checkpointAtMs = nowMs
    const work = this.#ports.account.checkpoint(this.hold.holdId, usage).catch((error: unknown) => {
      log('warn', 'checkpoint_failed', { requestId: this.#requestId, error: errorText(error) })
    })
    this.#ports.waitUntil(work)
  }

  async #settle(end: SettleEnd): Promise<void> {
    for (const delayMs of [0, ...RETRY_DELAYS_MS]) {
      if (delayMs > 0) await this.#ports.sleep(delayMs)
      try {
        await this.#ports.account.settle(end)
        return
      } catch (error) {
        log('error', 'settle_failed', { requestId: this.#requestId, holdId: end.holdId, error: errorText(error) })
      }
    }
    log('error', 'settle_given_up', { requestId: this.#requestId, holdId: end.holdId })
  }
}
