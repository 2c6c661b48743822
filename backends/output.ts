// One choice's sampled tokens → text and logprobs ready to send ○. Owns the order detokenise → stop strings → logprobs
// and keeps entries aligned with the text: an entry leaves with the text of its token, or not at all.
import type { LogprobEntry } from '../protocol/dispatch.ts'
import type { SampledToken } from '../protocol/engine-frames.ts'
import { Detokenizer } from './detokenizer.ts'
import { StopScanner } from './stop-strings.ts'
import type { Vocabulary } from './vocabulary.ts'

export type OutputPart = { text: string; logprobs: LogprobEntry[] }

const NO_MARKERS: ReadonlySet<number> = new Set()

type Pending = { entry: LogprobEntry; startChar: number; endChar: number }

export class ChoiceOutput {
  readonly #vocabulary: Vocabulary
  readonly #detokenizer = new Detokenizer()
  readonly #stops: StopScanner
  readonly #withLogprobs: boolean
  readonly #markerIds: ReadonlySet<number>
  #decodedChars = 0
  #emittedChars = 0
  #pending: Pending[] = []

  /** @param markerIds Control tokens that are part of the answer's form, and have text here. */
  constructor(
    vocabulary: Vocabulary,
    stops: readonly string[],
    withLogprobs: boolean,
    markerIds: ReadonlySet<number> = NO_MARKERS,
  ) {
    this.#markerIds = markerIds
    this.#vocabulary = vocabulary
    this.#stops = new StopScanner(stops)
    this.#withLogprobs = withLogprobs
  }

  /** A stop string was found: later tokens add nothing. */
  get stopped(): boolean {
    return this.#stops.stopped
  }

  push(sampled: SampledToken): OutputPart {
    return this.#push(sampled.token, this.#withLogprobs ? sampled : undefined)
  }

  /** A token that another backend has told with its probabilities. */
  replay(token: number): OutputPart {
    return this.#push(token, undefined)
  }

  #push(token: number, told: SampledToken | undefined): OutputPart {
    if (this.stopped) return { text: '', logprobs: [] }
    const isMarker = this.#markerIds.has(token)
    const bytes = isMarker ? this.#vocabulary.nameBytes(token) : this.#vocabulary.outputBytes(token)
    const decoded = this.#detokenizer.push(bytes)
    const startChar = this.#decodedChars
    this.#decodedChars += decoded.length
    if (told !== undefined) this.#pending.push({ entry: this.#entry(told), startChar, endChar: this.#decodedChars })
    return this.#release(this.#stops.push(decoded))
  }

  /** The end of the sequence: what was held back, an unfinished character as U+FFFD. */
  flush(): OutputPart {
    if (this.stopped) return { text: '', logprobs: [] }
    const decoded = this.#detokenizer.flush()
    this.#decodedChars += decoded.length
    const found = this.#stops.push(decoded)
    const rest = this.#stops.flush()
    const part = this.#release(found + rest)
    if (this.stopped) return part
    const last = this.#pending.map((pending) => pending.entry)
    this.#pending = []
    return { text: part.text, logprobs: [...part.logprobs, ...last] }
  }

  #release(text: string): OutputPart {
    this.#emittedChars += text.length
    const logprobs: LogprobEntry[] = []
    while (this.#pending[0] !== undefined) {
      const { entry, startChar, endChar } = this.#pending[0]
      // At a stop the token that holds the last kept character goes out too, though its text is cut.
      const kept = this.stopped ? startChar < this.#emittedChars : endChar <= this.#emittedChars
      if (!kept) break
      logprobs.push(entry)
      this.#pending.shift()
    }
    if (this.stopped) this.#pending = []
    return { text, logprobs }
  }

  #entry(sampled: SampledToken): LogprobEntry {
    const named = (token: number, logprob: number) => {
      const bytes = this.#vocabulary.nameBytes(token)
      return { text: new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes), bytes: [...bytes], logprob }
    }
    return {
      ...named(sampled.token, sampled.logprob),
      top: sampled.top.map((alternative) => named(alternative.token, alternative.logprob)),
    }
  }
}
