// What a request is predicted to take, in milliseconds, and what that counts for where one of several is chosen ○. Owns the arithmetic
// that gateways choose a backend by (gateway/routing) and agents one of their engines (backends/engine-choice.ts): so both mean the
// same by a queue, by room, by a prefix and by a tie.
import type { StepModel } from './capacity.ts'

/** An answer of ordinary length: how long a sequence stays. */
export const USUAL_OUTPUT_TOKENS = 256
/** Of a shorter prompt moving K and V between hosts costs more than it spares, whatever the queues are. */
export const REMOTE_TOKENS_MIN = 512
/**
 * Where nothing was measured anywhere: a small model on an old GPU. Only their order of size matters, since they are the same
 * for everyone then; with measured peers an unmeasured engine is taken for an ordinary one of them, and so gets traffic.
 */
export const UNMEASURED_STEP: StepModel = {
  baseMs: 20,
  prefillTokenMs: 0.5,
  decodeSequenceMs: 0.25,
  kvTokenMs: 0.0002,
}

/** Of the work on its uncached prompt, what a request is charged beyond waiting for it itself. */
const WORK_SHARE = 3
/** At most: what a prefix may count for beyond the time that it saves. */
const AFFINITY_MS_MAX = 20_000
/** Scores this close are equal: the figures are up to a second old, and ties are spread at random. */
const TIE_MS = 5
const TIE_SHARE = 0.02
/** So many of the candidates hold a beginning: then it is taken to be everywhere. */
export const NEARLY_ALL = 0.75
/** A match below both is not worth a detour: most often it is what every request begins with. */
const SMALL_MATCH_TOKENS = 1024
const SMALL_MATCH_SHARE = 0.1

/**
 * Of all there is, the share that has to become free first. Of a request that is larger than all there is the rest waits for itself,
 * behind its own first token: that is no queue.
 */
export const lackingShare = (used: number, wanted: number, total: number): number =>
  total > 0 ? Math.max(0, used + Math.min(wanted, total) - total) / total : 0

/** Until sequences or K and V become free: each sequence stays for a usual answer. */
export const roomMs = (itlMs: number, share: number): number => USUAL_OUTPUT_TOKENS * itlMs * share

/** How many tokens the request is predicted at: a usual answer's, or fewer where it may have no more. */
export const outputTokensOf = (outputTokensMax = USUAL_OUTPUT_TOKENS): number =>
  Math.min(outputTokensMax, USUAL_OUTPUT_TOKENS)

/**
 * Lower wins. What a prefix spares counts as the work that it spares and as nothing else, so it never outweighs more load than it saves
 * time, and AFFINITY_MS_MAX.
 * @param ms until the end of the answer.
 * @param workMs of it, computing the uncached prompt: whoever comes behind waits for it too.
 */
export const scoreOf = (ms: number, workMs: number): number => ms + Math.min(AFFINITY_MS_MAX, WORK_SHARE * workMs)

/** Scores up to this one are as good as the best. @param ms of the best. */
export const tieBound = (score: number, ms: number): number => score + TIE_MS + TIE_SHARE * ms

/** What counts of a beginning that is held. */
export const worthwhile = (held: number, promptTokens: number): number =>
  held < SMALL_MATCH_TOKENS && held < SMALL_MATCH_SHARE * promptTokens ? 0 : held

/** One of those within the bound, each as likely as the others; NaN is none. @param random In [0, 1). */
export function amongBest(scores: Float64Array, bound: number, random: number): number | undefined {
  let ties = 0
  for (const score of scores) if (score <= bound) ties++
  if (ties === 0) return undefined
  let left = Math.min(ties - 1, Math.floor(random * ties))
  for (let row = 0; row < scores.length; row++) {
    if ((scores[row] ?? Number.NaN) <= bound && left-- === 0) return row
  }
  return undefined
}
