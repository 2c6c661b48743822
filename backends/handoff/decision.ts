// Whether a prompt is worth handing over ○. Owns the estimates and the comparison; the numbers come from the engines'
// own statistics, what is done about the answer is handover.ts.
//
// Compared is the time that everybody loses, in milliseconds: the request's own way to its last prompt token, and the delay
// of each sequence that decodes on the engine that computes the prompt. A decode engine counts one more than it has: its
// role says that it is kept free for those that come.
import type { EngineRole, StepModel } from '../../protocol/capacity.ts'
import { REMOTE_TOKENS_MIN } from '../../protocol/prediction.ts'

/** An engine as the one that would compute the prompt. */
export type Computer = {
  role: EngineRole
  /** Absent until measured. */
  model?: StepModel
  /** By the engine's own meter; absent until measured. */
  prefillTokensPerSecond?: number
  /** That are computed before this prompt. */
  prefillTokensQueued: number
  decodingSequences: number
  decodeKvTokens: number
  /** Prompt tokens of a step that also decodes, and of one that does not. */
  stepTokens: { mixed: number; alone: number }
}

/** What the gateway says of a backend of another host; as which engine it computes is not known here. */
export type FarLoad = Pick<Computer, 'prefillTokensQueued' | 'model' | 'prefillTokensPerSecond'>

/** Somebody that may be asked: an engine of this agent, or a backend of another host, which says itself when it is too busy. */
export type Helper = {
  bytesPerSecond?: number
  overheadMs: number
  /** Of the prompt, from its beginning: what its cache is known to have. */
  heldTokens: number
} & ({ way: 'near'; load: Computer } | { way: 'far'; load?: FarLoad })

export type Facts = {
  /** Whole blocks of the prompt, in tokens: whoever computes the end needs the beginning. */
  wholeTokens: number
  /** Whole blocks of the prompt that the decode engine lacks, in tokens. */
  missingTokens: number
  missingBytes: number
  blockTokens: number
  /** Until the request's deadline. */
  leftMs: number
  own: Computer
  helpers: readonly Helper[]
  /** Where there is nobody to ask: who is missing, an engine of this agent (the default) or backends of other hosts alone. */
  missed?: Helper['way']
}

export type Decision =
  /** Helpers that pay, the best first; the milliseconds are of that one: all, and of them before the prompt's turn comes. */
  | { place: 'remote'; helpers: number[]; expectedMs: number; queueMs: number; localMs: number }
  /**
   * `short`: too little is missing. `cheaper`: computing it here costs less. `no_time`: a hand-over that fails would leave no
   * time for computing. `nobody`: it would have paid, and there is no helper.
   */
  | { place: 'local'; reason: 'short' | 'cheaper' | 'no_time' | 'nobody' }

/** Below this a hand-over is all overhead, whatever the estimates say. */
const MISSING_BLOCKS_MIN = 4
/** Until the first prompt is measured: a small model on a few cores. Only the ratio to the overhead matters. */
const TOKEN_MS_UNKNOWN = 1
/** Until measured: memory of one host, and a network of 1 Gbit/s. */
const LOCAL_BYTES_PER_SECOND = 1e9
const REMOTE_BYTES_PER_SECOND = 1e8
/** RESERVE, PUSH and TRANSFERRED: each waits for the end of a step. */
export const LOCAL_OVERHEAD_MS = 4
/** As above, and an HTTP request with two signatures to check. */
export const REMOTE_OVERHEAD_MS = 25

export function decide(facts: Facts): Decision {
  const { own, helpers, missingTokens } = facts
  if (missingTokens < MISSING_BLOCKS_MIN * facts.blockTokens) return { place: 'local', reason: 'short' }
  const ownMs = promptMs(own, missingTokens)
  const localCost = ownMs + keptWaiting(own) * disturbanceMs(own, missingTokens)
  const costs = helpers
    .map((helper, index) => ({ index, ...remoteCost(helper, facts) }))
    .filter(({ cost }) => cost < localCost)
    .sort((a, b) => a.cost - b.cost || a.index - b.index)
  const best = costs[0]
  if (best === undefined) {
    if (helpers.length > 0 || own.role !== 'decode') return { place: 'local', reason: 'cheaper' }
    // Nobody to ask: would an idle engine like this one have paid? Of other hosts the gateway names none for a short prompt.
    if (facts.missed === 'far' && missingTokens < REMOTE_TOKENS_MIN) return { place: 'local', reason: 'cheaper' }
    const idle: Helper =
      facts.missed === 'far'
        ? { way: 'far', heldTokens: 0, overheadMs: REMOTE_OVERHEAD_MS }
        : {
            way: 'near',
            heldTokens: 0,
            load: { ...own, role: 'prefill', prefillTokensQueued: 0, decodingSequences: 0, decodeKvTokens: 0 },
            overheadMs: LOCAL_OVERHEAD_MS,
          }
    return { place: 'local', reason: remoteCost(idle, facts).cost < localCost ? 'nobody' : 'cheaper' }
  }
  if (best.tookMs + ownMs > facts.leftMs) return { place: 'local', reason: 'no_time' }
  return {
    place: 'remote',
    helpers: costs.map(({ index }) => index),
    expectedMs: best.tookMs,
    queueMs: best.queueMs,
    localMs: ownMs,
  }
}

const keptWaiting = (own: Computer) => own.decodingSequences + (own.role === 'decode' ? 1 : 0)

/** Of one prompt token, whatever else the engine does. */
export function tokenMs(engine: Pick<Computer, 'model' | 'prefillTokensPerSecond'>): number {
  if (engine.model !== undefined && engine.model.prefillTokenMs > 0) return engine.model.prefillTokenMs
  const rate = engine.prefillTokensPerSecond
  return rate !== undefined && rate > 0 ? 1000 / rate : TOKEN_MS_UNKNOWN
}

/** From now to the last token of the prompt, after those that wait already; of no tokens, until its turn comes. */
export function promptMs(engine: Computer, tokens: number): number {
  const all = engine.prefillTokensQueued + tokens
  const decodes = engine.decodingSequences > 0
  const steps = Math.ceil(all / Math.max(1, decodes ? engine.stepTokens.mixed : engine.stepTokens.alone))
  const { baseMs = 0, decodeSequenceMs = 0, kvTokenMs = 0 } = engine.model ?? {}
  const stepMs = baseMs + decodeSequenceMs * engine.decodingSequences + kvTokenMs * engine.decodeKvTokens
  return all * tokenMs(engine) + steps * stepMs
}

/** What each decoding sequence loses: its steps last longer by the prompt tokens in them. */
const disturbanceMs = (engine: Computer, tokens: number) => tokens * tokenMs(engine)

function remoteCost(helper: Helper, facts: Facts): { cost: number; tookMs: number; queueMs: number } {
  const { own } = facts
  const rate = helper.bytesPerSecond ?? (helper.way === 'far' ? REMOTE_BYTES_PER_SECOND : LOCAL_BYTES_PER_SECOND)
  const load = computerOf(helper, own)
  // What the decode engine has does not help another one: that computes from where its own cache ends.
  const tokens = Math.max(0, facts.wholeTokens - helper.heldTokens)
  const tookMs = promptMs(load, tokens) + (facts.missingBytes / Math.max(1, rate)) * 1000 + helper.overheadMs
  const cost = tookMs + load.decodingSequences * disturbanceMs(load, tokens)
  return { cost, tookMs, queueMs: promptMs(load, 0) }
}

type Speed = Pick<Computer, 'model' | 'prefillTokensPerSecond'>

/** How fast the other one is. Where nobody has measured it: as this engine, or nobody would ever ask it and find out. */
export function speedOf(other: Speed | undefined, own: Speed): Speed {
  const isMeasured = other?.model !== undefined || other?.prefillTokensPerSecond !== undefined
  const { model, prefillTokensPerSecond } = isMeasured ? other : own
  return {
    ...(model === undefined ? {} : { model }),
    ...(prefillTokensPerSecond === undefined ? {} : { prefillTokensPerSecond }),
  }
}

/** A backend of another host of which nothing is known is taken to be idle, and to compute in steps as this engine's. */
function computerOf(helper: Helper, own: Computer): Computer {
  const { prefillTokensQueued = 0, decodingSequences = 0, decodeKvTokens = 0 }: Partial<Computer> = helper.load ?? {}
  const { role, stepTokens } =
    helper.way === 'near' ? helper.load : { role: 'prefill' as const, stepTokens: own.stepTokens }
  return { role, stepTokens, prefillTokensQueued, decodingSequences, decodeKvTokens, ...speedOf(helper.load, own) }
}
