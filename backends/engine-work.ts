// What this agent has given one engine ○. Owns which prompt tokens are still to be computed there, as far as the engine's statistics
// do not show them, and which beginnings of prompts are on their way into its cache. Which engine gets what is engine-choice.ts.
import { type Entry, LoadSums } from '../protocol/load.ts'
import type { ChunkEnd } from './prompt-chunks.ts'

/** A prompt with its sequences; what ends, ends once, in any order. */
export type Given = {
  /** Of the prompt, still to be computed by this engine. */
  readonly promptTokens: () => number
  /** It turned out otherwise: the engine has to compute so many. */
  compute: (promptTokens: number) => void
  /** The prompt is computed: its cache says what it holds. */
  firstToken: () => void
  end: () => void
}

/** What the engine's last statistics said, and when. */
export type Shown = { prefillTokensQueued: number; atMs: number }

export class EngineWork extends LoadSums {
  /** By chunk, prompts being computed that begin with it. */
  readonly #coming = new Map<number, number>()

  /**
   * @param promptTokens to be computed by this engine; 0: by another one.
   * @param chunks of the prompt.
   */
  begin(
    { promptTokens, kvTokens }: { promptTokens: number; kvTokens: number },
    chunks: readonly ChunkEnd[],
    nowMs: () => number,
  ): Given {
    const entryOf = (tokens: number): Entry =>
      this.take({
        promptTokens: tokens,
        sequences: 1,
        kvTokens,
        beganAtMs: nowMs(),
        isFramed: false,
        isOver: false,
      })
    let entry = entryOf(promptTokens)
    for (const { chunk } of chunks) this.#coming.set(chunk, (this.#coming.get(chunk) ?? 0) + 1)
    let isComputed = false
    const firstToken = () => {
      if (isComputed) return
      isComputed = true
      this.release(entry, { promptTokens: entry.promptTokens, sequences: 0, kvTokens: 0 })
      for (const { chunk } of chunks) {
        const left = (this.#coming.get(chunk) ?? 0) - 1
        if (left > 0) this.#coming.set(chunk, left)
        else this.#coming.delete(chunk)
      }
    }
    return {
      promptTokens: () => entry.promptTokens,
      compute: (tokens) => {
        if (isComputed || entry.promptTokens === tokens) return
        this.release(entry, { ...entry })
        entry = entryOf(tokens)
      },
      firstToken,
      end: () => {
        firstToken()
        if (!entry.isOver) this.release(entry, { ...entry })
      },
    }
  }

  /** A prompt that begins with it is being computed for this engine: whoever comes behind finds it there. */
  awaits(chunk: number): boolean {
    return this.#coming.has(chunk)
  }

  /**
   * Prompt tokens ahead. The statistics know how far prompts have come, and nothing of what was given since.
   * @param exceptTokens of a prompt that was given a moment ago: what is ahead of itself.
   */
  queuedTokens(shown: Shown | undefined, exceptTokens = 0): number {
    const open = this.open.promptTokens - exceptTokens
    if (shown === undefined) return open
    this.framed(shown.atMs)
    return Math.min(open, shown.prefillTokensQueued + Math.max(0, this.pending.promptTokens - exceptTokens))
  }
}
