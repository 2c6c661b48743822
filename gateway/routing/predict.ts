// What a request can expect of a backend ○: milliseconds to its first token, and between two tokens. Owns the arithmetic; the
// figures it is made of are figures.ts and this isolate's ledger, what follows from it pick.ts and door.ts.
//
//   first token = way there and back + wait + the prompt's uncached tokens at the measured rate [+ handing their K and V over]
//   wait        = the longest of: prompt tokens ahead, a sequence to become free, K and V to become free
//   next token  = the step model with one sequence and its K and V more
//
// A prompt goes to a prefill engine where all lose less time by it, as the agent decides (backends/handoff/decision.ts).
import { lackingShare, REMOTE_TOKENS_MIN, roomMs as roomMsOf } from '../../protocol/prediction.ts'
import { type Figures, HOT, type PrefillRow } from './figures.ts'

/** The request, in what it takes. */
export type Size = {
  promptTokens: number
  sequences: number
  /** Prompt and output. */
  kvTokens: number
}

/** Where the prompt is computed: by the engine that decodes, by another of the same agent, or on another host. */
export type Place = 'here' | 'beside' | 'away'

export type Prediction = {
  ttftMs: number
  waitMs: number
  /** Computing the uncached prompt, and handing it over. */
  workMs: number
  itlMs: number
  /** With nobody else there. */
  itlAloneMs: number
  place: Place
}

/** What a prefill backend of another host would take for this prompt. */
export type Offer = {
  prefill: PrefillRow
  uncachedTokens: number
  /** Prompt tokens ahead, over all its engines. */
  queuedTokens: number
  waitMs: number
  workMs: number
}

/** What a prediction is for, beside the backend. */
export type Given = {
  size: Size
  uncachedTokens: number
  /** Of a request that is queued somewhere and not tokenised yet. */
  usualTokens: number
  /** The best prefill backend whose K and V this one can take. */
  offer: Offer | undefined
}

/** Of one backend, written into `into`, since thousands of them are asked per decision. */
export function predict(
  into: Prediction,
  figures: Figures,
  row: number,
  { size, uncachedTokens, usualTokens, offer }: Given,
): Prediction {
  // Where frames are too old to say anything of load, the ledger alone does.
  const { isBlind } = figures
  const aheadPromptTokens = figures.aheadPromptTokens[row] ?? 0
  const aheadKvTokens = figures.aheadKvTokens[row] ?? 0
  const engines = figures.engines[row] ?? 1
  const slots = Math.max(1, figures.slots[row] ?? 1)
  const busy = (isBlind ? 0 : (figures.busy[row] ?? 0)) + (figures.aheadSequences[row] ?? 0)
  const baseMs = figures.stepBaseMs[row] ?? 0
  const sequenceMs = figures.stepSequenceMs[row] ?? 0
  const kvTokenMs = figures.stepKvTokenMs[row] ?? 0
  const kvTokens = (isBlind ? 0 : (figures.decodeKvTokens[row] ?? 0)) + aheadKvTokens
  const ownMs = sequenceMs * size.sequences + kvTokenMs * size.kvTokens
  const itlMs = baseMs + (sequenceMs * Math.min(busy, slots) + kvTokenMs * kvTokens) / engines + ownMs

  const kvUsed = (isBlind ? 0 : (figures.kvUsedTokens[row] ?? 0)) + aheadKvTokens
  const slotsShare = lackingShare(busy, size.sequences, slots)
  const kvShare = lackingShare(kvUsed, size.kvTokens, figures.kvTotalTokens[row] ?? 0)
  const roomMs = roomMsOf(itlMs, Math.max(slotsShare, kvShare))

  const queued = isBlind ? 0 : (figures.queuedTokens[row] ?? 0) + usualTokens * (figures.requestsQueued[row] ?? 0)
  let waitMs = Math.max(roomMs, (queued + aheadPromptTokens) * (figures.waitMsPerToken[row] ?? 0))
  let workMs = uncachedTokens * (figures.prefillMsPerToken[row] ?? 0)
  let place: Place = 'here'
  // As the agent counts: a prompt in their engine delays those that decode there, and one whose role it is to decode is kept free.
  const isDecodeOnly = figures.isDecodeOnly[row] === 1
  const keptWaiting = Math.min(busy, slots) / engines + (isDecodeOnly ? 1 : 0)
  let lossMs = waitMs + workMs * (1 + keptWaiting)

  const beside = figures.own[row]
  if (beside !== undefined && uncachedTokens >= REMOTE_TOKENS_MIN) {
    const queuedBeside = isBlind ? 0 : beside.queuedTokens + usualTokens * beside.requestsQueued
    const besideWaitMs = Math.max(roomMs, (queuedBeside + aheadPromptTokens) * beside.waitMsPerToken)
    const besideWorkMs = uncachedTokens * (beside.msPerToken + (figures.ownTransferMsPerToken[row] ?? 0))
    if (besideWaitMs + besideWorkMs < lossMs) {
      lossMs = besideWaitMs + besideWorkMs
      waitMs = besideWaitMs
      workMs = besideWorkMs
      place = 'beside'
    }
  }
  // A backend with prefill engines is not thought better of for what others might do for it when it is overloaded.
  const isLent = offer !== undefined && beside === undefined && isDecodeOnly
  if (isLent && uncachedTokens >= REMOTE_TOKENS_MIN) {
    const awayWaitMs = Math.max(roomMs, offer.waitMs)
    const awayWorkMs = offer.workMs + uncachedTokens * (figures.transferMsPerToken[row] ?? 0)
    if (awayWaitMs + awayWorkMs < lossMs) {
      waitMs = awayWaitMs
      workMs = awayWorkMs
      place = 'away'
    }
  }
  into.ttftMs = (figures.wayMs[row] ?? 0) + waitMs + workMs
  into.waitMs = waitMs
  into.workMs = workMs
  into.itlMs = itlMs
  into.itlAloneMs = baseMs + ownMs
  into.place = place
  return into
}

/**
 * The same as `predict`, for a backend that this isolate has sent nothing and that computes the prompt itself: all but a few of
 * thousands. It reads one row instead of some twenty columns, and is held against `predict` by a property.
 */
export function predictAlone(into: Prediction, hot: Float64Array, row: number, given: Given): void {
  const { sequences, kvTokens } = given.size
  const at = row * HOT.size
  const slots = hot[at + HOT.slots] as number
  const kvTotal = hot[at + HOT.kvTotalTokens] as number
  const ownMs =
    (hot[at + HOT.stepSequenceMs] as number) * sequences + (hot[at + HOT.stepKvTokenMs] as number) * kvTokens
  const itlMs = (hot[at + HOT.itlMs] as number) + ownMs
  const slotsMissing = (hot[at + HOT.busy] as number) + Math.min(sequences, slots) - slots
  const kvMissing = (hot[at + HOT.kvUsedTokens] as number) + Math.min(kvTokens, kvTotal) - kvTotal
  let roomMs = 0
  if (slotsMissing > 0 || (kvMissing > 0 && kvTotal > 0)) {
    const share = Math.max(slotsMissing / slots, kvTotal > 0 ? kvMissing / kvTotal : 0)
    roomMs = roomMsOf(itlMs, share)
  }
  const queued = (hot[at + HOT.queuedTokens] as number) + given.usualTokens * (hot[at + HOT.requestsQueued] as number)
  into.waitMs = Math.max(roomMs, queued * (hot[at + HOT.waitMsPerToken] as number))
  into.workMs = given.uncachedTokens * (hot[at + HOT.prefillMsPerToken] as number)
  into.ttftMs = (hot[at + HOT.wayMs] as number) + into.waitMs + into.workMs
  into.itlMs = itlMs
}

/** What a prefill backend takes for a prompt. Its own prefix cache counts: the decode engine's is of no use to it. */
export function offerOf(figures: Figures, prefill: PrefillRow, uncachedTokens: number, usualTokens: number): Offer {
  const { row, queuedTokens, requestsQueued, msPerToken, waitMsPerToken } = prefill
  const tokens = queuedTokens + usualTokens * requestsQueued + (figures.aheadPromptTokens[row] ?? 0)
  const wayMs = figures.wayMs[row] ?? 0
  const waitMs = wayMs + tokens * waitMsPerToken
  return { prefill, uncachedTokens, queuedTokens: tokens, waitMs, workMs: uncachedTokens * msPerToken }
}
