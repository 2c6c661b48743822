// Which of the agent's engines finishes a request ○. Owns the comparison: what each is predicted to take, in milliseconds, by the
// arithmetic that the gateway chooses this backend by (protocol/prediction.ts). Where the prompt would be computed for each of them is
// handoff/decision.ts; what an engine is given already, engine-work.ts.
//
//   first token = wait (prompts ahead, or room for a sequence and its K and V) + the prompt's missing tokens, here or handed over
//   score       = first token + a usual answer at the predicted pace + some of the work that the prompt costs, bounded
//   filter      = room for its sequences, where any engine has it
//   pick        = at random among the best and what is as good within a tolerance
import type { StepModel } from '../protocol/capacity.ts'
import {
  amongBest,
  lackingShare,
  NEARLY_ALL,
  outputTokensOf,
  roomMs,
  scoreOf,
  tieBound,
  UNMEASURED_STEP,
  worthwhile,
} from '../protocol/prediction.ts'
import { type Computer, decide, type Helper, promptMs } from './handoff/decision.ts'

export type Prompt = {
  tokens: number
  /** Choices that begin with it, at this engine. */
  sequences: number
  /** Of each. 0: nothing is generated. */
  outputTokensMax: number
  /** Until the request's deadline. */
  leftMs: number
}

export type Candidate = {
  own: Computer
  /** Who may compute the prompt for it. */
  helpers: readonly Helper[]
  /** Of the prompt, from its beginning: what its cache has or is about to have. */
  heldTokens: number
  blockTokens: number
  bytesPerToken: number
  /** Sequences of any state, and how many run at once. */
  busy: number
  slots: number
  kvUsedTokens: number
  kvTotalTokens: number
}

export type Choice = {
  /** Of the candidates. */
  index: number
  /** To be computed by the engine itself; 0: another one computes the prompt. */
  promptTokens: number
}

/** @param random In [0, 1). Undefined: there are no candidates. */
export function chooseEngine(prompt: Prompt, candidates: readonly Candidate[], random: number): Choice | undefined {
  const everywhere = heldByMost(candidates)
  const scores = new Float64Array(candidates.length)
  const isFull = candidates.map(({ busy, slots }) => busy + Math.min(prompt.sequences, slots) > slots)
  const hasRoom = isFull.includes(false)
  const usual = usualStep(candidates)
  let best = Number.POSITIVE_INFINITY
  let bestMs = 0
  const choices = candidates.map((candidate, index): Choice => {
    const held = Math.max(worthwhile(candidate.heldTokens, prompt.tokens), everywhere)
    const predicted = predict(prompt, candidate, held, usual)
    const ms = predicted.ttftMs + outputTokensOf(prompt.outputTokensMax) * predicted.itlMs
    // Who has no room is asked where nobody has: an engine may refuse what it cannot run at once.
    const score = hasRoom && isFull[index] === true ? Number.NaN : scoreOf(ms, predicted.workMs)
    scores[index] = score
    if (score < best) {
      best = score
      bestMs = ms
    }
    return { index, promptTokens: predicted.isElsewhere ? 0 : Math.max(1, prompt.tokens - candidate.heldTokens) }
  })
  const index = amongBest(scores, tieBound(best, bestMs), random)
  return index === undefined ? undefined : choices[index]
}

function predict(prompt: Prompt, candidate: Candidate, heldTokens: number, usual: StepModel) {
  const { helpers, blockTokens, bytesPerToken, busy, slots, kvUsedTokens, kvTotalTokens } = candidate
  const model = candidate.own.model ?? modelOf(candidate.own, usual)
  const own = { ...candidate.own, model }
  const { baseMs, decodeSequenceMs, kvTokenMs } = model
  const sequences = Math.min(busy, slots) + prompt.sequences
  const kvTokens = prompt.tokens + prompt.sequences * outputTokensOf(prompt.outputTokensMax)
  const itlMs = baseMs + decodeSequenceMs * sequences + kvTokenMs * (own.decodeKvTokens + kvTokens)
  const share = Math.max(
    lackingShare(busy, prompt.sequences, slots),
    lackingShare(kvUsedTokens, kvTokens, kvTotalTokens),
  )
  // The last token is always computed by the engine that draws the next, with the rest of its block.
  const wholeTokens = Math.floor((prompt.tokens - 1) / blockTokens) * blockTokens
  const missingTokens = Math.max(0, wholeTokens - Math.floor(heldTokens / blockTokens) * blockTokens)
  const decision = decide({
    wholeTokens,
    missingTokens,
    missingBytes: missingTokens * bytesPerToken,
    blockTokens,
    leftMs: prompt.leftMs,
    own,
    helpers,
  })
  const isElsewhere = decision.place === 'remote'
  const queueMs = isElsewhere ? decision.queueMs : promptMs(own, 0)
  const allMs = isElsewhere ? decision.expectedMs : promptMs(own, Math.max(1, prompt.tokens - heldTokens))
  const workMs = allMs - queueMs
  return { ttftMs: Math.max(roomMs(itlMs, share), queueMs) + workMs, workMs, itlMs, isElsewhere }
}

/** Tokens of the beginning that nearly all of them hold: the few that do not are not held back for it, and soon do too. */
function heldByMost(candidates: readonly Candidate[]): number {
  const held = candidates.map(({ heldTokens }) => heldTokens).toSorted((one, other) => other - one)
  return held.length < 2 ? 0 : (held[Math.ceil(NEARLY_ALL * held.length) - 1] ?? 0)
}

/** Its meter sees prompts before its steps are a model. */
const modelOf = ({ prefillTokensPerSecond: rate = 0 }: Computer, usual: StepModel): StepModel =>
  rate > 0 ? { ...usual, prefillTokenMs: 1000 / rate } : usual

/** What an engine is taken for that has not measured yet: another one of the same model. */
const usualStep = (candidates: readonly Candidate[]): StepModel =>
  candidates.find(({ own }) => own.model !== undefined)?.own.model ?? UNMEASURED_STEP
