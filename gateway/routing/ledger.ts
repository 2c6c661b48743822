// This isolate's own dispatches ○. Owns the ledger of what is in flight per backend (prompt tokens to be computed, sequences, K
// and V), which part of it no capacity frame shows yet, the short memory of failures, and the way to each backend in
// milliseconds. What a backend is worth by it is predict.ts, how the sums are kept protocol/load.ts.
//
//   begun ─first token─▶ its prompt part is over ─end─▶ nothing is left of it      (each once, in any order)
import { type Entry, LoadSums, type Sums } from '../../protocol/load.ts'

/** A backend that just failed is left alone this long: long enough for its report to go stale or its agent to recover. */
export const INHIBIT_MS = 5000
/** Bounds the memory of failures and of ways; the oldest is forgotten. Fleets are smaller than this. */
const REMEMBERED_MAX = 10_000
/** Of the way to a backend, how fast a longer one is believed: queues in front of it pass, distances stay. */
const WAY_SHARE = 0.05
/** Or nobody is sent where the way once seemed long, and so nobody finds out that it is not. */
const WAY_FORGET_MS = 60_000

/** What one dispatch asks of one backend; of its prompt, what is not in the backend's cache. */
export type Work = Sums & { backendId: string; model: string }

/** One dispatch that is open; both calls count once, whatever order they come in. */
export type Open = { firstToken: () => void; end: () => void }

type Begun = Entry & { load: Load }

/** Dispatches of one model that are open at one backend. */
export class Load extends LoadSums<Begun> {
  readonly backendId: string
  readonly model: string
  /** Where it stands in the snapshot that was looked at last: looked up once per snapshot instead of once per decision. */
  #rows: ReadonlyMap<string, number> | undefined
  #row: number | undefined

  constructor(backendId: string, model: string) {
    super()
    this.backendId = backendId
    this.model = model
  }

  rowIn(rows: ReadonlyMap<string, number>): number | undefined {
    if (this.#rows !== rows) {
      this.#rows = rows
      this.#row = rows.get(this.backendId)
    }
    return this.#row
  }

  begin({ promptTokens, sequences, kvTokens }: Sums, nowMs: number): Begun {
    return this.take({
      promptTokens,
      sequences,
      kvTokens,
      beganAtMs: nowMs,
      isFramed: false,
      isOver: false,
      load: this,
    })
  }
}

export class FleetLedger {
  readonly #loads = new Map<string, Load>()
  readonly #inhibitedUntilMs = new Map<string, number>()
  readonly #wayMs = new Map<string, number>()
  /** When each was found; in the order of `#wayMs`. */
  readonly #wayFoundAtMs = new Map<string, number>()

  /** Every backend and model with a dispatch that is open. */
  get loads(): Iterable<Load> {
    return this.#loads.values()
  }

  get wayMs(): ReadonlyMap<string, number> {
    return this.#wayMs
  }

  /**
   * Counts one dispatch until it ends.
   * @param works At the backend that finishes it, and at the one that computes its prompt where that is another.
   */
  begin(works: readonly Work[], nowMs: number): Open {
    const entries = works.map((work) => this.#load(work).begin(work, nowMs))
    return {
      firstToken: () => {
        for (const entry of entries) {
          this.#release(entry, { promptTokens: entry.promptTokens, sequences: 0, kvTokens: 0 })
        }
      },
      end: () => {
        for (const entry of entries) this.#release(entry, { ...entry })
      },
    }
  }

  #load({ backendId, model }: Work): Load {
    const name = `${backendId} ${model}`
    const known = this.#loads.get(name)
    if (known !== undefined) return known
    const made = new Load(backendId, model)
    this.#loads.set(name, made)
    return made
  }

  #release(entry: Begun, part: Sums): void {
    if (entry.isOver) return
    const { load } = entry
    load.release(entry, part)
    if (load.isEmpty) this.#loads.delete(`${load.backendId} ${load.model}`)
  }

  /**
   * @param ms From sending to the head of the answer: its least is the way there and back, the rest is queues.
   * @param waitMs Of it, what was expected of queues: behind one only a shorter way is found.
   */
  answered(backendId: string, ms: number, nowMs: number, waitMs = 0): void {
    for (const [known, atMs] of this.#wayFoundAtMs) {
      if (nowMs - atMs < WAY_FORGET_MS) break
      this.#forgetWay(known)
    }
    const before = this.#wayMs.get(backendId)
    if (waitMs > 0 && (before === undefined || ms >= before)) return
    this.#forgetWay(backendId)
    forgetOldest(this.#wayMs)
    forgetOldest(this.#wayFoundAtMs)
    this.#wayMs.set(backendId, before === undefined ? ms : Math.min(ms, before + WAY_SHARE * (ms - before)))
    this.#wayFoundAtMs.set(backendId, nowMs)
  }

  #forgetWay(backendId: string): void {
    this.#wayMs.delete(backendId)
    this.#wayFoundAtMs.delete(backendId)
  }

  inhibit(backendId: string, nowMs: number, forMs = INHIBIT_MS): void {
    this.#inhibitedUntilMs.delete(backendId)
    forgetOldest(this.#inhibitedUntilMs)
    this.#inhibitedUntilMs.set(backendId, nowMs + forMs)
  }

  /** An answer came: whatever was wrong is over. */
  recovered(backendId: string): void {
    this.#inhibitedUntilMs.delete(backendId)
  }

  inhibited(nowMs: number): ReadonlySet<string> {
    for (const [backendId, untilMs] of this.#inhibitedUntilMs) {
      if (untilMs <= nowMs) this.#inhibitedUntilMs.delete(backendId)
    }
    return new Set(this.#inhibitedUntilMs.keys())
  }
}

function forgetOldest(memory: Map<string, number>): void {
  if (memory.size < REMEMBERED_MAX) return
  const oldest = memory.keys().next().value
  if (oldest !== undefined) memory.delete(oldest)
}
