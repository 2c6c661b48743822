// The holds that are open now, as sums per limit. Owns an in-memory projection of the `held` rows, so that a reserve
// costs the same with ten open requests and with ten thousand; the rows in SQLite stay the truth, and the projection is
// remade from them when the object starts and when the rules change. Pure.
import { type Amounts, amountsOfAsk } from './amounts.ts'
import type { HoldRecord } from './holds.ts'
import type { Applying, RuleIndex } from './rule-index.ts'
import { windowOf } from './windows.ts'

type Traces = {
  amounts: Amounts
  requestId: string
  /** Sums this hold is part of, with the meter it moves. */
  sums: { key: string; meter: keyof Amounts }[]
  places: string[]
}

export class OpenHolds {
  #rules: RuleIndex | undefined
  readonly #holds = new Map<string, HoldRecord>()
  readonly #traces = new Map<string, Traces>()
  readonly #sums = new Map<string, bigint>()
  #heldNanoUsd = 0n
  /** Open attempts by request, by place. */
  readonly #running = new Map<string, Map<string, number>>()

  get count(): number {
    return this.#holds.size
  }

  /** Set aside by all of them. */
  get heldNanoUsd(): bigint {
    return this.#heldNanoUsd
  }

  /** Starts anew from these holds under these rules. */
  rebuild(rules: RuleIndex | undefined, holds: readonly HoldRecord[]): void {
    this.#rules = rules
    this.#heldNanoUsd = 0n
    for (const state of [this.#holds, this.#traces, this.#sums, this.#running]) state.clear()
    for (const hold of holds) this.add(hold)
  }

  /** The same holds under other rules. */
  regroup(rules: RuleIndex | undefined): void {
    this.rebuild(rules, [...this.#holds.values()])
  }

  /** Adding a hold twice changes nothing. */
  add(hold: HoldRecord): void {
    const { holdId } = hold.granted
    if (this.#holds.has(holdId)) return
    this.#holds.set(holdId, hold)
    this.#heldNanoUsd += hold.granted.heldNanoUsd
    if (this.#rules === undefined) return
    const { terms } = hold
    const applying = this.#rules.applying(terms, terms.modelRequested)
    const traces: Traces = {
      amounts: amountsOfAsk(terms, hold.granted.heldNanoUsd),
      requestId: terms.requestId,
      sums: applying.counted.map(({ series, subject }) => ({
        key: sumKey(series.name, subject, windowOf(series.window, series.timeZone, terms.startedAtMs).key),
        meter: series.meter,
      })),
      places: terms.isTrial === true ? [] : placesOf(applying),
    }
    this.#traces.set(holdId, traces)
    for (const { key, meter } of traces.sums) this.#move(key, traces.amounts[meter])
    for (const place of traces.places) {
      const requests = this.#running.get(place) ?? new Map<string, number>()
      requests.set(terms.requestId, (requests.get(terms.requestId) ?? 0) + 1)
      this.#running.set(place, requests)
    }
  }

  /** Removing a hold that is not open changes nothing. */
  remove(holdId: string): void {
    const hold = this.#holds.get(holdId)
    if (hold === undefined) return
    this.#holds.delete(holdId)
    this.#heldNanoUsd -= hold.granted.heldNanoUsd
    const traces = this.#traces.get(holdId)
    if (traces === undefined) return
    this.#traces.delete(holdId)
    for (const { key, meter } of traces.sums) this.#move(key, -traces.amounts[meter])
    for (const place of traces.places) {
      const requests = this.#running.get(place)
      const attempts = (requests?.get(traces.requestId) ?? 0) - 1
      if (attempts > 0) requests?.set(traces.requestId, attempts)
      else requests?.delete(traces.requestId)
      if (requests?.size === 0) this.#running.delete(place)
    }
  }

  /** What open holds set aside in a window, in the series' meter. */
  held(series: string, subject: string, windowKey: string): bigint {
    return this.#sums.get(sumKey(series, subject, windowKey)) ?? 0n
  }

  /** Distinct requests running, `exceptRequestId` not counted. */
  running(place: string, subject: string, exceptRequestId: string): number {
    const requests = this.#running.get(placeKey(place, subject))
    if (requests === undefined) return 0
    return requests.size - (requests.has(exceptRequestId) ? 1 : 0)
  }

  /** Subjects that have something set aside in a window. */
  heldIn(series: string, windowKey: string): string[] {
    return endsOf(this.#sums.keys(), sumKey(series, '', windowKey))
  }

  /** Subjects with requests running. */
  runningAt(place: string): string[] {
    return endsOf(this.#running.keys(), placeKey(place, ''))
  }

  #move(key: string, by: bigint): void {
    const sum = (this.#sums.get(key) ?? 0n) + by
    if (sum === 0n) this.#sums.delete(key)
    else this.#sums.set(key, sum)
  }
}

/** A window's key holds no newline. */
const sumKey = (series: string, subject: string, windowKey: string) => `${windowKey}\n${series}\n${subject}`
const placeKey = (place: string, subject: string) => `${place}\n${subject}`

const endsOf = (keys: Iterable<string>, beginning: string): string[] =>
  [...keys].flatMap((key) => (key.startsWith(beginning) ? [key.slice(beginning.length)] : []))

const placesOf = ({ places }: Applying): string[] => [
  ...new Set(places.map(({ name, subject }) => placeKey(name, subject))),
]
