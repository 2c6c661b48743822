// The holds of runs that ended without the work that had them. Owns what each is charged, as any answer that breaks off is, and that it is
// ended exactly once: what is owed is written in the transaction that ends its run, and the account is asked until it has taken it. Of two
// ends the account takes the first, so a runner that has ended its hold itself does no harm.
import type { Failure } from '../../protocol/errors.ts'
import type { SettleEnd } from '../account/contract.ts'
import { holdIdOf, unknownHold } from '../account/holds.ts'
import { endOf } from '../attempts/end.ts'
import { failureStatus } from '../errors.ts'
import { packed, unpacked } from '../handover/packed.ts'
import { errorText, log } from '../observe/log.ts'
import { within } from '../stream/within.ts'
import { leftOf } from './run-journal.ts'
import type { RunStore } from './run-store.ts'
import type { RunJob } from './runner.ts'

/** Longer than a healthy account takes, and than it needs to come up after a restart. */
const ASK_MAX_MS = 10_000
const RETRY_MS = 5_000
const RETRY_MAX_MS = 300_000
/** By then the hold has ended by its own time, with the last count that its account was told. */
const KEPT_MS = 3_600_000
/** Longer than what is cut off is read on (DRAIN_MAX_MS) and its end is tried (settlement.ts). */
const OWN_END_MS = 60_000

type Owed = { orgId: string; end: SettleEnd; untilMs: number; tries: number }

export type OwedPorts = {
  settle: (orgId: string, end: SettleEnd) => Promise<unknown>
  nowMs: () => number
}

export class OwedEnds {
  readonly #store: RunStore
  readonly #ports: OwedPorts
  #isAsking = false

  constructor(store: RunStore, ports: OwedPorts) {
    this.#store = store
    this.#ports = ports
  }

  /**
   * In the transaction that ends the run, while its journal is there.
   * @param wasShown The caller has had some of the answer: it pays for what was told.
   * @param isOwn The work itself is ending the hold by now: the account is asked when that must have come to it.
   */
  owe({ name, owner, carried }: RunJob, failure: Failure, wasShown: boolean, isOwn = false): void {
    const left = leftOf(this.#store.journal(name), carried.request)
    if (left === undefined) return
    const { attempt, counted, isFree, firstTokenAtMs, backendId } = left
    const nowMs = this.#ports.nowMs()
    const isPaid = !isFree && (wasShown || failure.code === 'cancelled')
    const end = endOf(
      counted,
      {
        status: failure.code,
        charge: isPaid ? 'customer' : 'absorbed',
        final: true,
        httpStatus: wasShown ? 200 : failureStatus(failure.code),
      },
      nowMs,
    )
    const holdId = holdIdOf({ requestId: carried.requestId, attempt })
    const more = {
      ...(firstTokenAtMs === undefined ? {} : { firstTokenAtMs }),
      ...(backendId === undefined ? {} : { backendId }),
    }
    const owed = { orgId: owner.orgId, end: { ...end, ...more, holdId }, untilMs: nowMs + KEPT_MS, tries: 0 }
    this.#put(owed, isOwn ? nowMs + OWN_END_MS : nowMs)
  }

  /** When the next of them is to be asked for; undefined: nothing is owed. */
  get dueAtMs(): number | undefined {
    return this.#store.owedDueAtMs()
  }

  /** Asks the accounts for what is due. Never rejects. */
  async settle(): Promise<void> {
    if (this.#isAsking) return
    this.#isAsking = true
    try {
      for (;;) {
        const row = this.#store.owed(this.#ports.nowMs())
        if (row === undefined) return
        const owed = ownOwed(row.body)
        if (owed !== undefined) await this.#ask(row.hold, owed)
        else {
          log('error', 'owed_unreadable', { hold: row.hold })
          this.#store.dropOwed(row.hold)
        }
      }
    } catch (error) {
      log('error', 'owed_not_kept', { error: errorText(error) })
    } finally {
      this.#isAsking = false
    }
  }

  async #ask(hold: string, owed: Owed): Promise<void> {
    let error = 'the account does not answer'
    try {
      const settling = this.#ports.settle(owed.orgId, owed.end).then(() => true)
      if (await within(settling, ASK_MAX_MS)) {
        this.#store.dropOwed(hold)
        log('info', 'owed_settled', { hold, status: owed.end.status, charge: owed.end.charge })
        return
      }
    } catch (thrown) {
      error = errorText(thrown)
    }
    // The process died before the hold was given.
    if (error.includes(unknownHold(hold))) return this.#store.dropOwed(hold)
    const nowMs = this.#ports.nowMs()
    const isOver = nowMs >= owed.untilMs
    log(isOver ? 'error' : 'warn', isOver ? 'owed_given_up' : 'owed_not_settled', { hold, error })
    if (isOver) this.#store.dropOwed(hold)
    else this.#put({ ...owed, tries: owed.tries + 1 }, nowMs + Math.min(RETRY_MAX_MS, RETRY_MS * 2 ** owed.tries))
  }

  #put(owed: Owed, dueAtMs: number): void {
    this.#store.putOwed(owed.end.holdId, dueAtMs, packed(owed))
  }
}

/** Written by this class alone. @returns undefined where another release has written it: then the hold ends by its own time. */
function ownOwed(body: string): Owed | undefined {
  try {
    const owed = unpacked(body) as Partial<Owed>
    return owed.end === undefined || owed.orgId === undefined ? undefined : (owed as Owed)
  } catch {
    return undefined
  }
}
