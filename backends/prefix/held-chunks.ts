// Which chunks of prompts this backend holds, over all its engines, and what of that the gateway has not been told ○. Owns
// the union and the changes to tell; when they are told is report.ts.
//
// What is untold is the difference between what is held and what was told, so a chunk that comes and goes between two
// reports is never mentioned, and telling everything anew may go on while it changes.
import type { KvChanges } from '../../protocol/report.ts'
import type { ChunkTable } from './chunk-table.ts'
import type { KvHistory } from './kv-history.ts'

export class HeldChunks {
  readonly #changed: () => void
  readonly #history: KvHistory | undefined
  /** By chunk how many engines hold it; in the order in which they came, so that beginnings are told first. */
  readonly #held = new Map<number, number>()
  /** True: it is held, and the gateway does not know; false: it is not, and the gateway thinks so. */
  readonly #untold = new Map<number, boolean>()
  readonly #followed = new WeakSet<ChunkTable>()
  #tellsAnew = true

  /**
   * @param changed there is something to tell; called when there was nothing before.
   * @param history Gets every change.
   */
  constructor(changed: () => void, history?: KvHistory) {
    this.#changed = changed
    this.#history = history
  }

  /** Chunks held. */
  get size(): number {
    return this.#held.size
  }

  get hasUntold(): boolean {
    return this.#tellsAnew || this.#untold.size > 0
  }

  /** From now on what the engine holds is part of this, until its table is closed. */
  follow(table: ChunkTable): void {
    if (this.#followed.has(table)) return
    this.#followed.add(table)
    table.follow((chunk, isHeld) => (isHeld ? this.#add(chunk) : this.#remove(chunk)))
  }

  /** The gateway knows nothing, or what it knows is void: everything is told again. */
  reset(): void {
    this.#tellsAnew = true
    this.#untold.clear()
    for (const chunk of this.#held.keys()) this.#untold.set(chunk, true)
    this.#changed()
  }

  /** The next changes to tell, at most `max` chunks; they count as told. Undefined: there are none. */
  take(max: number): KvChanges | undefined {
    if (!this.hasUntold) return undefined
    const changes: KvChanges = { reset: this.#tellsAnew, stored: [], removed: [] }
    this.#tellsAnew = false
    let left = max
    for (const [chunk, isHeld] of this.#untold) {
      if (left-- <= 0) break
      const list = isHeld ? changes.stored : changes.removed
      list.push(chunk)
      this.#untold.delete(chunk)
    }
    return changes
  }

  #add(chunk: number): void {
    const engines = this.#held.get(chunk) ?? 0
    this.#held.set(chunk, engines + 1)
    if (engines === 0) this.#change(chunk, true)
  }

  #remove(chunk: number): void {
    const engines = this.#held.get(chunk) ?? 0
    if (engines > 1) {
      this.#held.set(chunk, engines - 1)
      return
    }
    this.#held.delete(chunk)
    this.#change(chunk, false)
    // Telling each chunk of an engine that died would take longer than saying that there is none.
    if (this.#held.size === 0 && this.#untold.size > 1) this.reset()
  }

  #change(chunk: number, isHeld: boolean): void {
    const had = this.hasUntold
    this.#history?.note(chunk, isHeld)
    // Two changes that were not told make none.
    if (!this.#untold.delete(chunk)) this.#untold.set(chunk, isHeld)
    if (!had && this.hasUntold) this.#changed()
  }
}
