// What the engine's prefix cache holds, as its block events tell ○. Owns following them in order and their bound: the
// cache has no more blocks than the engine has memory for.
import { type EngineFrame, FrameError } from '../../protocol/engine-frames.ts'

type Blocks = Extract<EngineFrame, { type: 'blocks' }>

export class PrefixBlocks {
  readonly #blocksMax: number
  readonly #hashes = new Set<bigint>()
  #sequence = 0n

  /** @param blocksMax all blocks of the engine. */
  constructor(blocksMax: number) {
    this.#blocksMax = blocksMax
  }

  get count(): number {
    return this.#hashes.size
  }

  has(hash: bigint): boolean {
    return this.#hashes.has(hash)
  }

  /**
   * @throws FrameError where a frame is missing or the events cannot be true: what is known here would be wrong from
   *   then on, and a connection made anew begins with all there is.
   */
  apply(frame: Blocks): void {
    if (frame.sequence !== this.#sequence + 1n)
      throw new FrameError(`block events number ${frame.sequence} came after number ${this.#sequence}`)
    this.#sequence = frame.sequence
    for (const { kind, hash } of frame.events) {
      if (kind === 'stored') this.#hashes.add(hash)
      else if (kind === 'removed') this.#hashes.delete(hash)
      else this.#hashes.clear()
    }
    if (this.#hashes.size > this.#blocksMax)
      throw new FrameError(`block events name ${this.#hashes.size} blocks of ${this.#blocksMax}`)
  }
}
