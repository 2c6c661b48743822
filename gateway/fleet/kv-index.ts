// Which backend holds which beginnings of prompts ○. Owns the table of chunks, its bounds and the walk along a prompt; what
// a chunk is stands in protocol/prefix.ts, whose word counts is fleet.ts.
//
// A chunk is held by one backend (most are), or by several (what many prompts begin with): then its holders are a row of
// bits. Both live in typed arrays, since a Durable Object has 128 MB for everything, and objects would take ten times the
// room. What is dropped is masked at once and swept out later, many backends in one pass.
//
// The index may know less than is held, never more: beyond its bounds it leaves out what is told last, and a backend whose
// changes do not follow from a beginning that was told here is not believed.
import type { KvChanges } from '../../protocol/report.ts'

export type KvBounds = {
  /** Distinct chunks: 12 bytes each at a load of 3/4 or less. */
  chunksMax: number
  /** All rows of chunks that several backends hold. Full: such a chunk keeps the holders that it has. */
  rowBytesMax: number
  /** Chunks of one backend. */
  backendChunksMax: number
}

/**
 * 25 MB of table and 24 MB of rows: with copies while they grow, and with what else the object holds, below its 128 MB. 131,072
 * chunks are some 16 M tokens: more than one host keeps.
 */
export const KV_BOUNDS: KvBounds = { chunksMax: 1_500_000, rowBytesMax: 24 * 1024 * 1024, backendChunksMax: 131_072 }

/** Where less than this share is free, only backends below an equal part may add: nobody's prompts keep out all others'. */
const RESERVED_SHARE = 1 / 8
const SLOTS_MIN = 1024
const LOAD_MAX = 3 / 4
/** Dropped backends that wait for the sweep, and their share of the table: one pass over all of it serves them all. */
const DEAD_MAX = 32
const DEAD_SHARE_MAX = 1 / 16

/** `#heads` of a slot: free, a row as ROW - its number, or the one holder's number. */
const FREE = -1
const ROW = -2
const NO_ROW = -1

type Holder = { number: number; chunks: number; leftOut: number }

export class KvIndex {
  readonly #bounds: KvBounds
  readonly #seed: number
  readonly #holders = new Map<string, Holder>()
  /** By number; undefined where the number is free, or waits for the sweep. */
  readonly #names: (string | undefined)[] = []
  readonly #freeNumbers: number[] = []
  /** Numbers that wait for the sweep, also as a mask. */
  #dead: number[] = []
  #deadChunks = 0
  #deadMask = new Uint32Array(1)

  #keys = new Float64Array(SLOTS_MIN)
  #heads = new Int32Array(SLOTS_MIN).fill(FREE)
  #chunks = 0

  #words = 1
  #rows = new Uint32Array(0)
  #rowsMade = 0
  #freeRows: number[] = []

  /** @param seed 32 bits that no backend knows: chunks chosen for one place of the table would make every look a walk. */
  constructor(bounds: KvBounds = KV_BOUNDS, seed = 0) {
    this.#bounds = bounds
    this.#seed = seed
  }

  /** Distinct chunks that somebody holds, dropped ones included until they are swept. */
  get chunks(): number {
    return this.#chunks
  }

  /** Of one backend: known here, and left out for want of room. */
  held(backendId: string): { chunks: number; leftOut: number } {
    const { chunks = 0, leftOut = 0 } = this.#holders.get(backendId) ?? {}
    return { chunks, leftOut }
  }

  /** @returns false where the changes have no beginning here: the backend has to tell everything again. */
  apply(backendId: string, changes: KvChanges): boolean {
    if (changes.reset) this.drop(backendId)
    let holder = this.#holders.get(backendId)
    if (holder === undefined) {
      if (!changes.reset) return false
      holder = { number: this.#newNumber(backendId), chunks: 0, leftOut: 0 }
      this.#holders.set(backendId, holder)
    }
    for (const chunk of changes.stored) this.#add(chunk, holder)
    for (const chunk of changes.removed) this.#remove(chunk, holder)
    return true
  }

  /** Forgets a backend: from now on it holds nothing. */
  drop(backendId: string): void {
    const holder = this.#holders.get(backendId)
    if (holder === undefined) return
    const { number } = holder
    this.#holders.delete(backendId)
    this.#names[number] = undefined
    if (holder.chunks === 0) {
      this.#freeNumbers.push(number)
      return
    }
    this.#dead.push(number)
    this.#deadChunks += holder.chunks
    setBit(this.#deadMask, 0, number)
    if (this.#dead.length >= DEAD_MAX || this.#deadChunks >= this.#bounds.chunksMax * DEAD_SHARE_MAX) this.#sweep()
  }

  /**
   * How many leading chunks each backend holds; those that hold none are left out.
   * @param limit Answers no more backends than that: those with the longest beginnings.
   */
  match(chunks: readonly number[], limit = Number.POSITIVE_INFINITY): Map<string, number> {
    const found: [name: string, length: number][] = []
    const words = this.#words
    const alive = new Uint32Array(words)
    const at = chunks.length === 0 ? undefined : this.#find(chunks[0] as number)
    if (at === undefined) return new Map()
    this.#holdersAt(at, alive)
    for (let word = 0; word < words; word++) alive[word] = (alive[word] as number) & ~(this.#deadMask[word] as number)

    const held = new Uint32Array(words)
    for (let length = 1; ; length++) {
      const next = length < chunks.length ? this.#find(chunks[length] as number) : undefined
      if (next === undefined) held.fill(0)
      else this.#holdersAt(next, held)
      let left = 0
      for (let word = 0; word < words; word++) {
        const before = alive[word] as number
        const after = before & (held[word] as number)
        for (let gone = before & ~after; gone !== 0; gone &= gone - 1) {
          const name = this.#names[word * 32 + lowestBit(gone)]
          if (name !== undefined) found.push([name, length])
        }
        alive[word] = after
        left |= after
      }
      if (left === 0) break
    }
    // Found shortest first.
    return new Map(limit < found.length ? found.slice(found.length - limit) : found)
  }

  #add(chunk: number, holder: Holder): void {
    const { number } = holder
    let slot = this.#slotOf(chunk)
    let head = this.#heads[slot] as number
    if (head === number || (head <= ROW && this.#hasBit(ROW - head, number))) return
    if (!this.#hasRoom(holder, head === FREE)) {
      holder.leftOut++
      return
    }
    // Making room moves what is in the table.
    slot = this.#slotOf(chunk)
    head = this.#heads[slot] as number
    if (head === FREE) {
      this.#keys[slot] = chunk
      this.#heads[slot] = number
      this.#chunks++
    } else if (head <= ROW) {
      setBit(this.#rows, (ROW - head) * this.#words, number)
    } else if (this.#names[head] === undefined) {
      this.#heads[slot] = number
    } else {
      const row = this.#newRow()
      if (row === NO_ROW) {
        holder.leftOut++
        return
      }
      setBit(this.#rows, row * this.#words, head)
      setBit(this.#rows, row * this.#words, number)
      this.#heads[slot] = ROW - row
    }
    holder.chunks++
  }

  #remove(chunk: number, holder: Holder): void {
    const { number } = holder
    const slot = this.#find(chunk)
    if (slot === undefined) return
    const head = this.#heads[slot] as number
    if (head === number) this.#free(slot)
    else if (head <= ROW && this.#hasBit(ROW - head, number)) this.#clear(slot, number)
    else return
    holder.chunks--
  }

  /** Takes a holder out of a row, which has two at least: with one left there is no row. */
  #clear(slot: number, number: number): void {
    const row = ROW - (this.#heads[slot] as number)
    const from = row * this.#words
    clearBit(this.#rows, from, number)
    let only = FREE
    for (let word = 0; word < this.#words; word++) {
      const bits = this.#rows[from + word] as number
      if (bits === 0) continue
      if (only !== FREE || (bits & (bits - 1)) !== 0) return
      only = word * 32 + lowestBit(bits)
    }
    this.#freeRow(row)
    this.#heads[slot] = only
  }

  #hasRoom(holder: Holder, isNew: boolean): boolean {
    const { chunksMax, backendChunksMax } = this.#bounds
    if (holder.chunks >= backendChunksMax) return false
    if (!isNew) return true
    if (this.#chunks >= chunksMax && this.#dead.length > 0) this.#sweep()
    const share = this.#chunks < chunksMax * (1 - RESERVED_SHARE) ? chunksMax : chunksMax / (this.#holders.size + 1)
    if (this.#chunks >= chunksMax || holder.chunks >= share) return false
    if (this.#chunks + 1 > this.#keys.length * LOAD_MAX) this.#grow()
    return true
  }

  // The table: linear probing, and what follows a freed slot moves up, so that there are no marks of what was.

  #home(chunk: number): number {
    let mixed = Math.imul(chunk ^ this.#seed, 0x9e3779b1)
    mixed = Math.imul(mixed ^ (mixed >>> 15) ^ (chunk / 0x1_0000_0000), 0x85ebca6b)
    mixed = Math.imul(mixed ^ (mixed >>> 13) ^ this.#seed, 0xc2b2ae35)
    return (mixed >>> 8) & (this.#keys.length - 1)
  }

  /** Where the chunk is, or where it would go. */
  #slotOf(chunk: number): number {
    const mask = this.#keys.length - 1
    let slot = this.#home(chunk)
    while (this.#heads[slot] !== FREE && this.#keys[slot] !== chunk) slot = (slot + 1) & mask
    return slot
  }

  #find(chunk: number): number | undefined {
    const slot = this.#slotOf(chunk)
    return this.#heads[slot] === FREE ? undefined : slot
  }

  #free(slot: number): void {
    const mask = this.#keys.length - 1
    let gap = slot
    for (let at = (gap + 1) & mask; this.#heads[at] !== FREE; at = (at + 1) & mask) {
      const chunk = this.#keys[at] as number
      // It may move up unless its home lies behind the gap.
      if (((at - this.#home(chunk)) & mask) < ((at - gap) & mask)) continue
      this.#keys[gap] = chunk
      this.#heads[gap] = this.#heads[at] as number
      gap = at
    }
    this.#heads[gap] = FREE
    this.#chunks--
  }

  #grow(): void {
    const [keys, heads] = [this.#keys, this.#heads]
    this.#keys = new Float64Array(keys.length * 2)
    this.#heads = new Int32Array(heads.length * 2).fill(FREE)
    for (let from = 0; from < keys.length; from++) {
      const head = heads[from] as number
      if (head === FREE) continue
      const slot = this.#slotOf(keys[from] as number)
      this.#keys[slot] = keys[from] as number
      this.#heads[slot] = head
    }
  }

  /** Takes the dropped backends out of every chunk and gives their numbers back. */
  #sweep(): void {
    for (let slot = 0; slot < this.#heads.length; ) {
      const head = this.#heads[slot] as number
      if (head >= 0 && this.#names[head] === undefined) {
        this.#free(slot) // what moved up is looked at next
        continue
      }
      if (head <= ROW && this.#sweepRow(slot, ROW - head)) continue
      slot++
    }
    for (const number of this.#dead) this.#freeNumbers.push(number)
    this.#dead = []
    this.#deadChunks = 0
    this.#deadMask.fill(0)
  }

  /** @returns whether the slot has something else now. */
  #sweepRow(slot: number, row: number): boolean {
    const from = row * this.#words
    for (let word = 0; word < this.#words; word++) {
      const dead = (this.#rows[from + word] as number) & (this.#deadMask[word] as number)
      for (let bits = dead; bits !== 0; bits &= bits - 1) {
        const head = this.#heads[slot] as number
        const number = word * 32 + lowestBit(bits)
        if (head > ROW) {
          // The last one of the row is dead too.
          this.#free(slot)
          return true
        }
        this.#clear(slot, number)
      }
    }
    const head = this.#heads[slot] as number
    return head >= 0 && this.#names[head] === undefined
  }

  // Numbers and rows.

  #newNumber(backendId: string): number {
    const number = this.#freeNumbers.pop() ?? this.#names.length
    this.#names[number] = backendId
    if (number >= this.#words * 32) this.#widen()
    return number
  }

  /** Rows for half as many backends again. Where they outgrow their bound, the chunks of some are forgotten. */
  #widen(): void {
    const [words, rows] = [this.#words, this.#rows]
    this.#words = Math.ceil(words * 1.5)
    const mask = new Uint32Array(this.#words)
    mask.set(this.#deadMask)
    this.#deadMask = mask
    const fit = this.#rowsMax()
    const room = Math.min(fit, this.#rowsMade)
    this.#rows = new Uint32Array(room * this.#words)
    this.#freeRows = []
    this.#rowsMade = 0
    for (let slot = 0; slot < this.#heads.length; ) {
      const head = this.#heads[slot] as number
      if (head > ROW) {
        slot++
        continue
      }
      const old = rows.subarray((ROW - head) * words, (ROW - head + 1) * words)
      if (this.#rowsMade < fit) {
        this.#rows.set(old, this.#rowsMade * this.#words)
        this.#heads[slot] = ROW - this.#rowsMade++
        slot++
        continue
      }
      this.#forget(old)
      this.#free(slot)
    }
  }

  #forget(row: Uint32Array): void {
    for (let number = 0; number < row.length * 32; number++) {
      const name = bitOf(row, 0, number) ? this.#names[number] : undefined
      const holder = name === undefined ? undefined : this.#holders.get(name)
      if (holder === undefined) continue
      holder.chunks--
      holder.leftOut++
    }
  }

  #rowsMax(): number {
    return Math.floor(this.#bounds.rowBytesMax / (4 * this.#words))
  }

  /** An empty row, or NO_ROW. */
  #newRow(): number {
    const free = this.#freeRows.pop()
    if (free !== undefined) return free
    const max = this.#rowsMax()
    if (this.#rowsMade >= max) return NO_ROW
    const length = this.#rowsMade * this.#words
    if (length + this.#words > this.#rows.length) {
      const grown = new Uint32Array(Math.min(max, Math.max(64, this.#rowsMade * 2)) * this.#words)
      grown.set(this.#rows)
      this.#rows = grown
    }
    return this.#rowsMade++
  }

  #freeRow(row: number): void {
    this.#rows.fill(0, row * this.#words, (row + 1) * this.#words)
    this.#freeRows.push(row)
  }

  #hasBit(row: number, number: number): boolean {
    return bitOf(this.#rows, row * this.#words, number)
  }

  #holdersAt(slot: number, into: Uint32Array): void {
    const head = this.#heads[slot] as number
    if (head <= ROW) {
      const from = (ROW - head) * this.#words
      for (let word = 0; word < into.length; word++) into[word] = this.#rows[from + word] as number
      return
    }
    into.fill(0)
    setBit(into, 0, head)
  }
}

const lowestBit = (bits: number): number => 31 - Math.clz32(bits & -bits)
const bitOf = (bits: Uint32Array, from: number, number: number): boolean =>
  ((bits[from + (number >>> 5)] as number) & (1 << (number & 31))) !== 0

function setBit(bits: Uint32Array, from: number, number: number): void {
  const word = from + (number >>> 5)
  bits[word] = (bits[word] as number) | (1 << (number & 31))
}

function clearBit(bits: Uint32Array, from: number, number: number): void {
  const word = from + (number >>> 5)
  bits[word] = (bits[word] as number) & ~(1 << (number & 31))
}
