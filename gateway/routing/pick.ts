// Which backend serves a request ○. Owns filter → score → pick: figures and what this isolate knows in, a decision out. The
// state of an isolate is router.ts, the arithmetic of time predict.ts, the explanation decision.ts.
//
//   filter   other model, stale, no grammars, draining, tried, too long a prompt       out, and the decision says why
//   score    predicted first token + a usual answer's tokens at the predicted pace     milliseconds, lower wins
//            + some of the work that the prompt costs, bounded                         whoever comes behind waits for it too
//            + penalties in steps: late, perhaps too long, full, just failed           last resorts, in that order
//   pick     at random among the best and what is as good within a tolerance
//
// What a score is made of is protocol/prediction.ts. What (nearly) all candidates hold decides nothing, and neither does a beginning
// that is a small part.
import {
  amongBest,
  NEARLY_ALL,
  outputTokensOf,
  REMOTE_TOKENS_MIN,
  scoreOf,
  tieBound,
  worthwhile,
} from '../../protocol/prediction.ts'
import { CHUNK_CHARS, CHUNKS_MAX } from '../../protocol/prefix.ts'
import { type Columns, Decision, type Expected, INHIBITED, newColumns, TOO_LONG, TRIED } from './decision.ts'
import { CANDIDATE, type Figures, FULL, HOT, STALE } from './figures.ts'
import type { Load } from './ledger.ts'
import { type Given, type Offer, offerOf, type Prediction, predict, predictAlone } from './predict.ts'

import { MATCHES_MAX } from './snapshot.ts'

/** A request, as far as routing needs to know it. */
export type Ask = {
  model: string
  /** Of its prompt's beginning; see protocol/prefix.ts. Empty where nothing can be shared. */
  chunks: readonly number[]
  promptChars: number
  /** Known where prompts come as token ids. */
  promptTokens?: number
  /** Of several prompts in one request: each needs a window by itself. Default: it is one prompt. */
  longest?: { chars: number; tokens: number }
  /** A backend has counted, and its window of so many tokens was too small. */
  windowRefused?: number
  sequences: number
  outputTokensMax?: number
  /** Nothing is generated. */
  isEmbedding?: boolean
  wantsGrammar: boolean
  /** What the operator has promised: backends that would miss it come after those that would not. */
  targets?: { firstTokenMs?: number; interTokenMs?: number }
}

/** What this isolate knows beside the snapshot. */
export type LocalKnowledge = {
  loads: Iterable<Load>
  /** Backends that failed within the last seconds: asked last, yet asked, since most failures are short. */
  inhibited: ReadonlySet<string>
  /** Backends this request has used already. */
  tried: ReadonlySet<string>
  tokensPerChar: number
  /** Of a request that waits somewhere and of which nothing else is known. */
  usualUncachedTokens: number
  /** Leading chunks by backend: what they say they hold, and what they were sent a moment ago. The larger one counts. */
  matches: ReadonlyMap<string, number>
  sent: ReadonlyMap<string, number>
}

/** Steps that no number of milliseconds reaches: a day and more. */
const LATE_PENALTY = 1e8
/** An estimate of the prompt that is over the window may be wrong: asked after those that have room. */
const LONG_PENALTY = 1e9
/** Puts a full backend behind every other one, and still before none: its own refusal carries the honest Retry-After. */
const FULL_PENALTY = 1e10
/** A backend that just failed comes after full ones: those at least are known to answer. */
const INHIBITED_PENALTY = 1e11
/**
 * The real prompt may be so many times smaller than the estimate, and have so few tokens per character: only beyond both it is
 * surely too long. What was learnt may be of another script, or of prompts with images.
 */
const ESTIMATE_ERROR = 4
const TOKENS_PER_CHAR_LEAST = 1 / 16

/**
 * Picks the backend that is predicted to serve the request best.
 * @param rows Of the snapshot's backends, by id.
 * @param random In [0, 1); breaks ties, so that many isolates with one snapshot do not all pick the same backend.
 */
export function pick(
  ask: Ask,
  figures: Figures,
  rows: ReadonlyMap<string, number>,
  local: LocalKnowledge,
  random: number,
): Decision {
  const columns = newColumns(figures.size)
  const given = givenBy(ask, local)
  const { promptTokens } = given.size
  const longestTokens = ask.longest === undefined ? promptTokens : longestOf(ask.longest, local.tokensPerChar)
  const leastTokens = leastOf(ask, local.tokensPerChar)
  figures.takeLedger(local.loads, rows)
  const candidates = filter(leastTokens, figures, rows, local, columns.verdict)
  const tokensPerChunk = (promptTokens * CHUNK_CHARS) / Math.max(CHUNK_CHARS, ask.promptChars)
  takeMatches(columns.matched, rows, local, tokensPerChunk, promptTokens)
  const everywhere = Math.max(
    heldEverywhere(columns, candidates, local.matches.size + local.sent.size, tokensPerChunk),
    heldUntold(local.matches) * tokensPerChunk,
  )
  const offers = offersTo(figures, columns.matched, given, local.inhibited)
  const bestOffers = bestByLayout(offers)
  const usualOutput = ask.isEmbedding === true ? 0 : outputTokensOf(ask.outputTokensMax)

  const now: Prediction = { ttftMs: 0, waitMs: 0, workMs: 0, itlMs: 0, itlAloneMs: 0, place: 'here' }
  let best = Number.POSITIVE_INFINITY
  let bestMs = 0
  const { hot, hasAhead, isBlind, size } = figures
  const { verdict: verdicts, matched, score: scores, ttftMs, itlMs, uncached, load } = columns
  for (let row = 0; row < size; row++) {
    const verdict = verdicts[row] ?? 0
    if (!isOpen(verdict) && !(verdict === STALE && isLastResort(figures, row, local.inhibited))) continue
    const held = matched[row] ?? 0
    const uncachedTokens = Math.max(1, promptTokens - Math.max(worthwhile(held, promptTokens), everywhere))
    given.uncachedTokens = uncachedTokens
    const at = row * HOT.size
    const isHelped = uncachedTokens >= REMOTE_TOKENS_MIN && hot[at + HOT.isHelped] === 1
    if (isBlind || isHelped || hasAhead[row] === 1) {
      given.offer = bestOffers[figures.layout[row] ?? 0]
      predict(now, figures, row, given)
      load[row] = loadOf(figures, row)
    } else {
      predictAlone(now, hot, row, given)
      load[row] = (hot[at + HOT.busy] ?? 0) / (hot[at + HOT.slots] ?? 1)
    }
    const ms = now.ttftMs + usualOutput * now.itlMs
    let score = scoreOf(ms, now.workMs)
    if (ask.targets !== undefined && isLate(ask, now)) score += LATE_PENALTY
    if (longestTokens >= (hot[at + HOT.contextTokensMax] ?? 0)) score += LONG_PENALTY
    if (verdict === FULL) score += FULL_PENALTY
    if (verdict === INHIBITED) score += INHIBITED_PENALTY
    scores[row] = score
    ttftMs[row] = now.ttftMs
    itlMs[row] = now.itlMs
    uncached[row] = uncachedTokens
    if (score >= best) continue
    best = score
    bestMs = ms
  }
  const row = amongBest(columns.score, tieBound(best, bestMs), random)
  const expected = row === undefined ? undefined : expectedAt(row, figures, columns, given, bestOffers)
  return new Decision(figures, columns, { expected, promptTokens, tokensPerChunk, offers })
}

function givenBy(ask: Ask, local: LocalKnowledge): Given {
  const promptTokens = Math.max(1, Math.round(ask.promptTokens ?? ask.promptChars * local.tokensPerChar))
  const output = ask.isEmbedding === true ? 0 : outputTokensOf(ask.outputTokensMax)
  const size = { promptTokens, sequences: ask.sequences, kvTokens: promptTokens + ask.sequences * output }
  return { size, uncachedTokens: promptTokens, usualTokens: local.usualUncachedTokens, offer: undefined }
}

/** Tokens of the longest of several prompts, as far as they are known. */
const longestOf = ({ chars, tokens }: NonNullable<Ask['longest']>, tokensPerChar: number): number =>
  Math.max(tokens, chars * tokensPerChar)

/** What the longest prompt surely has. */
function leastOf({ promptTokens, promptChars, longest, windowRefused = 0 }: Ask, tokensPerChar: number): number {
  const leastPerChar = Math.min(tokensPerChar / ESTIMATE_ERROR, TOKENS_PER_CHAR_LEAST)
  const least =
    longest === undefined
      ? (promptTokens ?? promptChars * leastPerChar)
      : Math.max(longest.tokens, longest.chars * leastPerChar)
  return Math.max(least, windowRefused)
}

/** Fills in every backend's verdict. @returns how many are candidates. */
function filter(
  leastTokens: number,
  figures: Figures,
  rows: ReadonlyMap<string, number>,
  { tried, inhibited }: LocalKnowledge,
  verdicts: Uint8Array,
): number {
  verdicts.set(figures.standing)
  for (const backendId of inhibited) {
    const row = rows.get(backendId)
    if (row !== undefined && isOpen(verdicts[row])) verdicts[row] = INHIBITED
  }
  for (const backendId of tried) {
    const row = rows.get(backendId)
    if (row === undefined) continue
    if (isOpen(verdicts[row]) || (figures.isBlind && verdicts[row] === STALE)) verdicts[row] = TRIED
  }
  let candidates = 0
  for (let row = 0; row < verdicts.length; row++) {
    if (!isOpen(verdicts[row])) continue
    if (leastTokens >= (figures.contextTokensMax[row] ?? 0)) verdicts[row] = TOO_LONG
    else candidates++
  }
  return candidates
}

const isOpen = (verdict: number | undefined): boolean =>
  verdict === CANDIDATE || verdict === FULL || verdict === INHIBITED

/**
 * Nobody has reported lately, and this one could serve by what it said last. One that has failed just now as well is dead, not
 * unheard.
 */
function isLastResort(figures: Figures, row: number, inhibited: ReadonlySet<string>): boolean {
  if (!figures.isBlind || !isOpen(figures.beneath[row])) return false
  const backend = figures.backends[row]
  return backend !== undefined && !inhibited.has(backend.backendId)
}

/** In tokens. */
function takeMatches(
  matched: Float32Array,
  rows: ReadonlyMap<string, number>,
  { matches, sent }: LocalKnowledge,
  tokensPerChunk: number,
  promptTokens: number,
): void {
  for (const known of [matches, sent]) {
    for (const [backendId, depth] of known) {
      const row = rows.get(backendId)
      if (row === undefined) continue
      // The last token is always computed.
      const tokens = Math.min(promptTokens - 1, depth * tokensPerChunk)
      if (tokens > (matched[row] ?? 0)) matched[row] = tokens
    }
  }
}

/** Tokens of the beginning that nearly all candidates hold: the few that do not are not held back for it, and soon do too. */
function heldEverywhere(
  { matched, verdict }: Columns,
  candidates: number,
  known: number,
  tokensPerChunk: number,
): number {
  const needed = Math.ceil(NEARLY_ALL * candidates)
  if (candidates < 2 || known < needed) return 0
  const byDepth = new Uint32Array(CHUNKS_MAX + 1)
  for (let row = 0; row < matched.length; row++) {
    if (!isOpen(verdict[row])) continue
    const depth = Math.min(CHUNKS_MAX, Math.floor((matched[row] ?? 0) / tokensPerChunk))
    byDepth[depth] = (byDepth[depth] ?? 0) + 1
  }
  let holders = 0
  for (let depth = CHUNKS_MAX; depth > 0; depth--) {
    holders += byDepth[depth] ?? 0
    if (holders >= needed) return depth * tokensPerChunk
  }
  return 0
}

/** Chunks that backends may hold of which nothing was told, since only those with the longest beginnings are told of. */
function heldUntold(matches: ReadonlyMap<string, number>): number {
  if (matches.size < MATCHES_MAX) return 0
  let least = Number.POSITIVE_INFINITY
  for (const depth of matches.values()) least = Math.min(least, depth)
  return least
}

/** What the fleet's prefill engines would take, where the prompt is long enough to be handed over at all. */
function offersTo(
  figures: Figures,
  matched: Float32Array,
  { size, usualTokens }: Given,
  inhibited: ReadonlySet<string>,
): Offer[] {
  if (size.promptTokens < REMOTE_TOKENS_MIN) return []
  const offers: Offer[] = []
  for (const prefill of figures.prefill) {
    const { backendId = '' } = figures.backends[prefill.row] ?? {}
    if (inhibited.has(backendId) || size.promptTokens >= prefill.contextTokensMax) continue
    const uncached = Math.max(1, size.promptTokens - (matched[prefill.row] ?? 0))
    offers.push(offerOf(figures, prefill, uncached, usualTokens))
  }
  return offers
}

function bestByLayout(offers: readonly Offer[]): readonly (Offer | undefined)[] {
  const best: (Offer | undefined)[] = []
  for (const offer of offers) {
    const { layout } = offer.prefill
    const before = best[layout]
    if (before === undefined || offer.waitMs + offer.workMs < before.waitMs + before.workMs) best[layout] = offer
  }
  return best
}

function isLate({ targets }: Ask, { ttftMs, itlMs }: Prediction): boolean {
  if (targets === undefined) return false
  const { firstTokenMs, interTokenMs } = targets
  return (firstTokenMs !== undefined && ttftMs > firstTokenMs) || (interTokenMs !== undefined && itlMs > interTokenMs)
}

const loadOf = (figures: Figures, row: number): number =>
  ((figures.isBlind ? 0 : (figures.busy[row] ?? 0)) + (figures.aheadSequences[row] ?? 0)) /
  Math.max(1, figures.slots[row] ?? 1)

/** The prediction without any favour: what is not held will be computed. */
function expectedAt(
  row: number,
  figures: Figures,
  { matched, load }: Columns,
  given: Given,
  bestOffers: readonly (Offer | undefined)[],
): Expected {
  const matchedTokens = matched[row] ?? 0
  const uncachedTokens = Math.max(1, given.size.promptTokens - matchedTokens)
  const offer = bestOffers[figures.layout[row] ?? 0]
  const prediction: Prediction = { ttftMs: 0, waitMs: 0, workMs: 0, itlMs: 0, itlAloneMs: 0, place: 'here' }
  predict(prediction, figures, row, { ...given, uncachedTokens, offer })
  const isMeasured = figures.isMeasured[row] === 1 && !figures.isBlind
  const contextTokensMax = figures.contextTokensMax[row] ?? 0
  return { row, prediction, uncachedTokens, matchedTokens, load: load[row] ?? 0, isMeasured, contextTokensMax }
}
