// What is kept of an own backend's answer while it comes, so that a request whose process died goes on with it in the next one.
// Owns the entries and what they say by themselves; who keeps them is runs/, who goes on from them backend-resume.ts. Pure.
//
//   began ─▶ leg ─▶ told* ──another backend goes on──▶ leg ─▶ told* …      began: another attempt, what was kept of the last one goes
import type { DispatchEvent } from '../../protocol/dispatch.ts'
import { choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import type { Usage } from '../meter/usage.ts'
import type { Target } from '../policy/plan.ts'
import { Continuation } from './continuation.ts'
import type { ProviderEvent } from './event.ts'
import { providerEvents } from './fleet-events.ts'

/** In the order in which the gateway heard it. A further leg tells the answer again from its first character. */
export type JournalEntry = { leg: string; seed: number } | { told: DispatchEvent[] }

/** What an earlier life of a request has left behind. */
export type KeptAnswer = {
  /** Of the hold. */
  attempt: number
  /** Highest number that any hold was given, trials included. */
  numbered: number
  target: Target
  entries: readonly JournalEntry[]
  /** Everything that the backend will say is there: nothing is to be sent. */
  isWhole: boolean
  /** The caller has had some of it. */
  wasShown: boolean
  firstTokenAtMs?: number
}

/** What comes of another attempt than the one that began last is left out. */
export interface AnswerJournal {
  /** A hold is about to be asked for. @param target Absent: for a trial, whose answer nobody gets. */
  began(attempt: number, target: Target | undefined): void
  /** A backend has taken it on. @param isFirst From the beginning: what others have told of it is of no use any more. */
  leg(attempt: number, by: { leg: string; seed: number }, isFirst: boolean): void
  told(attempt: number, events: readonly DispatchEvent[]): void
  /** What is proven to be used so far, after the first content. @param isFree Its target bills nothing for an answer that is cut off. */
  counted(attempt: number, usage: Usage, isFree: boolean): void
}

const isNews = ({ type }: DispatchEvent): boolean => type !== 'capacity'
/** The last word of an answer: what follows is money, and must find it kept. */
const isLast = ({ type }: DispatchEvent): boolean => type === 'usage' || type === 'error'
const isSpoken = ({ type }: DispatchEvent): boolean => type === 'delta' || type === 'thought' || type === 'tool_call'

/** What of a batch is kept. */
export const newsOf = (events: readonly DispatchEvent[]): DispatchEvent[] => events.filter(isNews)
export const hasLast = (events: readonly DispatchEvent[]): boolean => events.some(isLast)
export const hasSpoken = (events: readonly DispatchEvent[]): boolean => events.some(isSpoken)

const continuationOf = (request: InferenceRequest): Continuation =>
  new Continuation({ choices: choiceCount(request), withLogprobs: request.logprobs !== undefined })

/** How far the entries lead: what a backend would have to go on from, and whether it has to. */
export function measured(
  entries: readonly JournalEntry[],
  request: InferenceRequest,
): { tokens: number; hasBegun: boolean; isWhole: boolean } {
  const continuation = continuationOf(request)
  let isWhole = false
  for (const [at, entry] of entries.entries()) {
    if ('leg' in entry) {
      if (at > 0) continuation.resume()
    } else isWhole = continuation.take(entry.told).isOver
  }
  const { tokensSampled: tokens, hasBegun } = continuation
  return { tokens, hasBegun, isWhole: isWhole || continuation.lost().isOver }
}

/** What of the answer has gone on, each part once. */
export function toldEvents(entries: readonly JournalEntry[], request: InferenceRequest): ProviderEvent[] {
  const continuation = continuationOf(request)
  return entries.flatMap((entry, at) => {
    if ('told' in entry) return providerEvents(continuation.take(entry.told).events)
    if (at > 0) continuation.resume()
    return []
  })
}
