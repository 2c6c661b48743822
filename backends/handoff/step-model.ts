// What a step of an engine takes, fitted from its own steps ○. Owns the least squares; the samples are the engine's STATS,
// what is decided by the model is decision.ts and the gateway's router.
//
// Weighted by 1/time², so that errors count in percent: a step of a second says no more than one of a millisecond. Steps with
// and without prompt tokens forget apart, each by its own newer ones: an hour of decoding must not forget what a prompt takes.
import type { StepModel } from '../../protocol/capacity.ts'

export type StepSample = {
  tookMs: number
  prefillTokens: number
  decodeSequences: number
  /** That the decoding sequences have. */
  kvTokens: number
}

/** The engine's own meter, which sees every step; STATS tell of one in many. 0: not measured. */
type Rate = { prefillTokensPerSecond?: number }

/** Weight that a sample loses with each newer one of its kind: the last 200 or so count. */
const KEPT = 0.995
/** Before that, one odd step is the model. */
const SAMPLES_MIN = 16
/** Of steps with prompt tokens: with fewer, their cost is what the engine's meter says. */
const PREFILL_SAMPLES_MIN = 4
/** A step that took this many times what the model says counts as this many times: a process that was stopped is no cost. */
const OUTLIER_FACTOR = 4
/** Below this the clock's own noise is measured. */
const STEP_MS_MIN = 0.01
/** No token takes a minute; what comes out larger is a fault of the samples. */
const COST_MS_MAX = 60_000
/**
 * What costs that only ever rise together are told apart by; relative to the squares, in the order of the terms. An engine that
 * only computes full steps of prompts pays for tokens, one that only decodes one sequence for reading its weights.
 */
const RIDGE: Row = [1e-4, 1e-5, 1e-3, 1e-4]
/** Less than this is rounding. */
const PIVOT_MIN = 1e-7

const TERMS = 4
type Row = readonly [number, number, number, number]

/** Sums of squares that forget. */
class Sums {
  readonly squares: Float64Array = new Float64Array(TERMS * TERMS)
  readonly products: Float64Array = new Float64Array(TERMS)
  samples = 0

  add(row: Row, tookMs: number): void {
    const weight = 1 / tookMs ** 2
    for (let i = 0; i < TERMS; i++) {
      for (let j = 0; j < TERMS; j++) {
        const at = i * TERMS + j
        this.squares[at] = (this.squares[at] ?? 0) * KEPT + weight * (row[i] ?? 0) * (row[j] ?? 0)
      }
      this.products[i] = (this.products[i] ?? 0) * KEPT + weight * (row[i] ?? 0) * tookMs
    }
    this.samples++
  }
}

export class StepFit {
  readonly #withPrompt = new Sums()
  readonly #without = new Sums()
  #model: StepModel | undefined

  add(sample: StepSample & Rate): void {
    const { prefillTokens, decodeSequences, kvTokens } = sample
    if (!(sample.tookMs > 0) || prefillTokens + decodeSequences <= 0) return
    const known = this.#model
    const most = known === undefined ? Number.POSITIVE_INFINITY : OUTLIER_FACTOR * stepMs(known, sample)
    const tookMs = Math.max(STEP_MS_MIN, most > 0 ? Math.min(sample.tookMs, most) : sample.tookMs)
    const sums = prefillTokens > 0 ? this.#withPrompt : this.#without
    sums.add([1, prefillTokens, decodeSequences, kvTokens], tookMs)
    if (this.#withPrompt.samples + this.#without.samples < SAMPLES_MIN) return
    const rate = sample.prefillTokensPerSecond ?? 0
    const hasPrompts = this.#withPrompt.samples >= PREFILL_SAMPLES_MIN
    if (!hasPrompts && !(rate > 0)) return
    const squares = this.#withPrompt.squares.map((value, at) => value + (this.#without.squares[at] ?? 0))
    const products = this.#withPrompt.products.map((value, at) => value + (this.#without.products[at] ?? 0))
    const costs = leastSquares(squares, products).map((cost) => Math.min(COST_MS_MAX, cost))
    const [baseMs = 0, fittedMs = 0, decodeSequenceMs = 0, kvTokenMs = 0] = costs
    const prefillTokenMs = hasPrompts ? fittedMs : Math.min(COST_MS_MAX, 1000 / rate)
    this.#model = { baseMs, prefillTokenMs, decodeSequenceMs, kvTokenMs }
  }

  /** Absent until enough steps were seen. */
  get model(): StepModel | undefined {
    return this.#model
  }
}

export const stepMs = (model: StepModel, step: Omit<StepSample, 'tookMs'>): number =>
  model.baseMs +
  model.prefillTokenMs * step.prefillTokens +
  model.decodeSequenceMs * step.decodeSequences +
  model.kvTokenMs * step.kvTokens

/**
 * The non-negative costs that explain the samples best. With four of them all 15 choices of those that are not zero are
 * tried: the best one whose solution has no negative cost is the constrained optimum.
 */
function leastSquares(squares: Float64Array, products: Float64Array): number[] {
  let best: number[] = Array.from({ length: TERMS }, () => 0)
  let bestError = 0
  for (let choice = 1; choice < 1 << TERMS; choice++) {
    const terms = [0, 1, 2, 3].filter((term) => (choice >> term) & 1 && (squares[term * TERMS + term] ?? 0) > 0)
    const found = solve(terms, squares, products)
    if (found === undefined || found.some((cost) => cost < 0)) continue
    let error = 0
    for (const [a, i] of terms.entries()) {
      error -= 2 * (found[a] ?? 0) * (products[i] ?? 0)
      for (const [b, j] of terms.entries()) error += (found[a] ?? 0) * (found[b] ?? 0) * (squares[i * TERMS + j] ?? 0)
    }
    for (const [a, i] of terms.entries())
      error += (RIDGE[i] ?? 0) * (squares[i * TERMS + i] ?? 0) * (found[a] ?? 0) ** 2
    if (error >= bestError) continue
    bestError = error
    best = best.map((_, term) => (terms.includes(term) ? (found[terms.indexOf(term)] ?? 0) : 0))
  }
  return best
}

/** Gauss elimination over the chosen terms, scaled so that the ridge means the same for each. */
function solve(terms: readonly number[], squares: Float64Array, products: Float64Array): number[] | undefined {
  const scale = terms.map((term) => Math.sqrt(squares[term * TERMS + term] ?? 0))
  const rows = terms.map((i, a) => [
    ...terms.map((j, b) => {
      const value = (squares[i * TERMS + j] ?? 0) / ((scale[a] ?? 1) * (scale[b] ?? 1))
      return a === b ? value + (RIDGE[i] ?? 0) : value
    }),
    (products[i] ?? 0) / (scale[a] ?? 1),
  ])
  const size = terms.length
  for (let column = 0; column < size; column++) {
    const pivot = rows[column]
    const head = pivot?.[column] ?? 0
    // Positive definite by the ridge.
    if (pivot === undefined || !(head > PIVOT_MIN)) return undefined
    for (let below = column + 1; below < size; below++) {
      const row = rows[below]
      const factor = (row?.[column] ?? 0) / head
      for (let at = column; at <= size; at++)
        if (row !== undefined) row[at] = (row[at] ?? 0) - factor * (pivot[at] ?? 0)
    }
  }
  const found: number[] = Array.from({ length: size }, () => 0)
  for (let at = size - 1; at >= 0; at--) {
    let value = rows[at]?.[size] ?? 0
    for (let right = at + 1; right < size; right++) value -= (rows[at]?.[right] ?? 0) * (found[right] ?? 0)
    found[at] = value / (rows[at]?.[at] ?? 1)
  }
  return found.map((value, at) => value / (scale[at] ?? 1))
}
