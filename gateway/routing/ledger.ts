// This isolate's own dispatches ○. Owns the ledger of what is in flight per backend (prompt tokens to be computed, sequences, K
// and V), which part of it no capacity frame shows yet, the short memory of failures, and the way to each backend in
// milliseconds. What a backend is worth by it is predict.ts.
//
//   begun ──frame made later──▶ framed      counted by the frame from there on; only a ledger without frames counts it too
//     └─first token─▶ its prompt part is over ─end─▶ nothing is left of it      (each once, in any order)

/** A backend that just failed is left alone this long: long enough for its report to go stale or its agent to recover. */
export const INHIBIT_MS = 5000
/** Bounds the memory of failures and of ways; the oldest is forgotten. Fleets are smaller than this. */
const REMEMBERED_MAX = 10_000
/**
 * From sending a dispatch until the engine's statistics show it: the network twice, the tokenizer, a step. Within it a dispatch
 * may be counted twice, which only sends the next one elsewhere; a later one would be counted by nobody.
 */
const ARRIVAL_MS = 250
/** Of the way to a backend, how fast a longer one is believed: queues in front of it pass, distances stay. */
const WAY_SHARE = 0.05
/** Or nobody is sent where the way once seemed long, and so nobody finds out that it is not. */
const WAY_FORGET_MS = 60_000

/** What one dispatch asks of one backend. */
export type Work = {
  backendId: string
  model: string
  /** Prompt tokens that are not in its cache: to be computed before the first token. */
  promptTokens: number
  sequences: number
  kvTokens: number
}

export type Sums = Pick<Work, 'promptTokens' | 'sequences' | 'kvTokens'>

/** One dispatch that is open; both calls count once, whatever order they come in. */
export type Open = { firstToken: () => void; end: () => void }

type Entry = Sums & { beganAtMs: number; isFramed: boolean; isOver: boolean; load: Load }

/** Dispatches of one model that are open at one backend. */
export class Load {
  readonly backendId: string
  readonly model: string
  /** Of all that are open. */
  readonly open: Sums = { promptTokens: 0, sequences: 0, kvTokens: 0 }
  /** Of those that no frame shows. */
  readonly pending: Sums = { promptTokens: 0, sequences: 0, kvTokens: 0 }
  /** Where it stands in the snapshot that was looked at last: looked up once per snapshot instead of once per decision. */
  #rows: ReadonlyMap<string, number> | undefined
  #row: number | undefined
  /** In the order they began; those that are framed or over leave from the front. */
  readonly #unframed: Entry[] = []
  #isOrdered = true
  #framedAtMs = Number.NEGATIVE_INFINITY

  constructor(backendId: string, model: string) {
    this.backendId = backendId
    this.model = model
  }

  get isEmpty(): boolean {
    return this.#unframed.length === 0 && this.open.sequences === 0 && this.open.promptTokens === 0
  }

  rowIn(rows: ReadonlyMap<string, number>): number | undefined {
    if (this.#rows !== rows) {
      this.#rows = rows
      this.#row = rows.get(this.backendId)
    }
    return this.#row
  }

  begin({ promptTokens, sequences, kvTokens }: Sums, nowMs: number): Entry {
    const entry: Entry = {
      promptTokens,
      sequences,
      kvTokens,
      beganAtMs: nowMs,
      isFramed: false,
      isOver: false,
      load: this,
    }
    const last = this.#unframed.at(-1)
    if (last !== undefined && last.beganAtMs > nowMs) this.#isOrdered = false
    this.#unframed.push(entry)
    add(this.open, entry, 1)
    add(this.pending, entry, 1)
    return entry
  }

  /** What began long enough before a frame is in it. */
  framed(frameAtMs: number): void {
    if (frameAtMs <= this.#framedAtMs) return
    this.#framedAtMs = frameAtMs
    const entries = this.#unframed
    if (!this.#isOrdered) {
      entries.sort((one, other) => one.beganAtMs - other.beganAtMs)
      this.#isOrdered = true
    }
    let gone = 0
    for (const entry of entries) {
      if (!entry.isOver && entry.beganAtMs + ARRIVAL_MS > frameAtMs) break
      gone++
      if (entry.isOver) continue
      entry.isFramed = true
      add(this.pending, entry, -1)
    }
    if (gone > 0) entries.splice(0, gone)
  }

  /** Takes away what is over of an entry, in every sum that it counts in. */
  release(entry: Entry, part: Sums): void {
    add(this.open, part, -1)
    if (!entry.isFramed) add(this.pending, part, -1)
    entry.promptTokens -= part.promptTokens
    entry.sequences -= part.sequences
    entry.kvTokens -= part.kvTokens
    if (entry.sequences > 0 || entry.promptTokens > 0) return
    entry.isOver = true
    // The others leave with the next frame; without frames none may stay for ever.
    while (this.#unframed[0]?.isOver === true) this.#unframed.shift()
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

  #release(entry: Entry, part: Sums): void {
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

function add(sums: Sums, part: Sums, sign: 1 | -1): void {
  sums.promptTokens += sign * part.promptTokens
  sums.sequences += sign * part.sequences
  sums.kvTokens += sign * part.kvTokens
}

function forgetOldest(memory: Map<string, number>): void {
  if (memory.size < REMEMBERED_MAX) return
  const oldest = memory.keys().next().value
  if (oldest !== undefined) memory.delete(oldest)
}
