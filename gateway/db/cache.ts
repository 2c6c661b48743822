// A bounded copy of database facts in the isolate. Owns age and eviction (least recently used first); the clock is an
// argument. Holds values and no promises: in a Worker one request must not wait for the I/O of another.

type Entry<T> = { value: T; freshUntilMs: number; usableUntilMs: number }

export type Cached<T> = { value: T; fresh: boolean }

/** Left over by requests that were cut off; past it they are forgotten, and some facts are fetched twice. */
const CLAIMS_MAX = 1_000

export class FactCache<T> {
  readonly #entriesMax: number
  readonly #entries = new Map<string, Entry<T>>()
  readonly #claimedUntilMs = new Map<string, number>()

  constructor(entriesMax: number) {
    this.#entriesMax = entriesMax
  }

  /** The copy where it may still be used, and whether it is fresh. */
  get(key: string, nowMs: number): Cached<T> | undefined {
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    this.#entries.delete(key)
    if (nowMs >= entry.usableUntilMs) return undefined
    this.#entries.set(key, entry)
    return { value: entry.value, fresh: nowMs < entry.freshUntilMs }
  }

  /** Keeps a copy: fresh until `freshUntilMs`, and usable where nothing newer can be had until `usableUntilMs`. */
  set(key: string, value: T, freshUntilMs: number, usableUntilMs: number = freshUntilMs): void {
    this.#entries.delete(key)
    this.#entries.set(key, { value, freshUntilMs, usableUntilMs })
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.#entriesMax) break
      this.#entries.delete(oldest)
    }
  }

  /**
   * Calls the copy fresh a little longer, so that one caller renews it while the others go on with it. Without a copy
   * nothing happens.
   */
  postpone(key: string, freshUntilMs: number): void {
    const entry = this.#entries.get(key)
    if (entry !== undefined) entry.freshUntilMs = freshUntilMs
  }

  /**
   * Whether the caller is the one who fetches what is not here yet; the others look here again instead of asking the database too.
   * Nobody waits for a caller that never came back: its claim ends at `untilMs`.
   */
  claim(key: string, nowMs: number, untilMs: number): boolean {
    if (nowMs < (this.#claimedUntilMs.get(key) ?? 0)) return false
    if (this.#claimedUntilMs.size >= CLAIMS_MAX) this.#claimedUntilMs.clear()
    this.#claimedUntilMs.set(key, untilMs)
    return true
  }

  unclaim(key: string): void {
    this.#claimedUntilMs.delete(key)
  }

  delete(key: string): void {
    this.#entries.delete(key)
  }

  clear(): void {
    this.#entries.clear()
  }
}
