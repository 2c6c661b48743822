// What routing decided and why ○. Owns the decision's shape, its explanation per backend, and the few of its numbers that stand
// beside a usage row. Making it is pick.ts.
import type { Figures, Standing } from './figures.ts'
import { STANDINGS } from './figures.ts'
import type { Offer, Prediction } from './predict.ts'

export type Verdict = Standing | 'inhibited' | 'tried' | 'too_long'

/** As numbers; the standings' come first, in their order. */
const VERDICTS: readonly Verdict[] = [...STANDINGS, 'inhibited', 'tried', 'too_long']
export const INHIBITED = VERDICTS.indexOf('inhibited')
export const TRIED = VERDICTS.indexOf('tried')
export const TOO_LONG = VERDICTS.indexOf('too_long')

/** Why each backend was or was not taken, with its numbers where it could have been. */
export type Considered = {
  backendId: string
  verdict: Verdict
  /** Sequences and requests there, per slot. */
  load?: number
  ttftMs?: number
  itlMs?: number
  uncachedTokens?: number
  matchedTokens?: number
  score?: number
}

/** One number per backend of the snapshot. */
export type Columns = {
  verdict: Uint8Array
  /** NaN: not to be taken. */
  score: Float64Array
  load: Float32Array
  ttftMs: Float32Array
  itlMs: Float32Array
  /** Tokens of the prompt that the score counts as to be computed. */
  uncached: Float32Array
  /** Tokens of the prompt that it holds. */
  matched: Float32Array
}

/** All in one piece of memory: seven of them would take longer to get than a small fleet to decide on. */
export function newColumns(size: number): Columns {
  const memory = new ArrayBuffer(size * (8 + 5 * 4 + 1))
  const floats = (at: number) => new Float32Array(memory, size * (8 + 4 * at), size)
  return {
    score: new Float64Array(memory, 0, size).fill(Number.NaN),
    load: floats(0),
    ttftMs: floats(1),
    itlMs: floats(2),
    uncached: floats(3),
    matched: floats(4),
    verdict: new Uint8Array(memory, size * 28, size),
  }
}

export type Chosen = { backendId: string; url: string }

/** What the chosen backend is expected to do with the request. */
export type Expected = {
  row: number
  prediction: Prediction
  uncachedTokens: number
  matchedTokens: number
  load: number
  /** Somebody has measured how fast it is, and its frames are fresh: only then is the prediction one. */
  isMeasured: boolean
  /** Its largest window. */
  contextTokensMax: number
}

export class Decision {
  readonly chosen: Chosen | undefined
  /** Of the chosen backend's key: what grants for it are bound to. */
  readonly keyThumbprint: string | undefined
  readonly expected: Expected | undefined
  /** The prompt's tokens, as far as they are known. */
  readonly promptTokens: number
  readonly tokensPerChunk: number
  /** Prefill backends, in no order. */
  readonly offers: readonly Offer[]
  readonly #figures: Figures
  readonly #columns: Columns

  constructor(
    figures: Figures,
    columns: Columns,
    made: { expected: Expected | undefined; promptTokens: number; tokensPerChunk: number; offers: readonly Offer[] },
  ) {
    const backend = made.expected === undefined ? undefined : figures.backends[made.expected.row]
    this.chosen = backend && { backendId: backend.backendId, url: backend.url }
    this.keyThumbprint = backend?.keyThumbprint
    this.expected = made.expected
    this.promptTokens = made.promptTokens
    this.tokensPerChunk = made.tokensPerChunk
    this.offers = made.offers
    this.#figures = figures
    this.#columns = columns
  }

  /** The widest window of all that serve the model. */
  get contextTokensMax(): number {
    return this.#figures.contextTokensMax.reduce((most, tokens) => Math.max(most, tokens), 0)
  }

  /** Made when somebody looks: a fleet of thousands is decided on always and explained seldom. */
  get considered(): Considered[] {
    const { verdict, score, load, ttftMs, itlMs, uncached, matched } = this.#columns
    return this.#figures.backends.map(({ backendId }, row) => {
      const said: Considered = { backendId, verdict: VERDICTS[verdict[row] ?? 0] ?? 'other_model' }
      const scored = score[row] ?? Number.NaN
      if (Number.isNaN(scored)) return said
      return {
        ...said,
        load: load[row] ?? 0,
        ttftMs: ttftMs[row] ?? 0,
        itlMs: itlMs[row] ?? 0,
        uncachedTokens: uncached[row] ?? 0,
        matchedTokens: matched[row] ?? 0,
        score: scored,
      }
    })
  }
}

/** Beside a usage row and in logs: what the choice was made by. */
export type RouteFacts = {
  ttft_ms: number
  itl_ms: number
  prompt_tokens: number
  matched_tokens: number
  load: number
  /** Absent: where it is decoded. */
  prefill?: 'beside' | 'away'
}

export function factsOf({ expected, promptTokens }: Decision): RouteFacts | undefined {
  if (expected === undefined) return undefined
  const { prediction, matchedTokens, load } = expected
  const { ttftMs, itlMs, place } = prediction
  return {
    ttft_ms: Math.round(ttftMs),
    itl_ms: Math.round(itlMs * 10) / 10,
    prompt_tokens: Math.round(promptTokens),
    matched_tokens: Math.round(matchedTokens),
    load: Math.round(load * 100) / 100,
    ...(place === 'here' ? {} : { prefill: place }),
  }
}
