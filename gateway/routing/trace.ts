// How a request came to its answer, in words: the attempts as a response header, in logs, and as JSON beside each usage row.
// Owns both forms and their bounds. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { ProviderKey, Target } from '../policy/plan.ts'
import type { RouteFacts } from './decision.ts'
import type { EscalationRule } from './escalation.ts'
import { targetName } from './hints.ts'
import type { Place } from './order.ts'

/**
 * `primary`: the first choice; `fallback`: another target after a failure; `retry`: the same target again, at another machine,
 * with another key, or after a wait; `hedge`: beside one that was silent; `cascade`: after an answer that was not good
 * enough; `shadow`: on trial, its answer thrown away; `cache`: a stored answer.
 */
export type Role = 'primary' | 'fallback' | 'retry' | 'hedge' | 'cascade' | 'shadow' | 'cache'

/** One attempt, from the decision to its end. */
export type Step = {
  target: Target
  role: Role
  place?: Place
  /** Of the order the decision made, from 1. */
  turn?: number
  key?: ProviderKey
  waitedMs: number
  /** Own fleet: by what its backend was chosen; of the last one. */
  fleet?: RouteFacts
  /** Own backends that it left in mid-answer, for the next one. */
  moves?: readonly { from: string; reason: string }[]
  /** How it failed; absent while it runs and where it did not. */
  failure?: Failure
  /** Its answer was complete and not good enough. */
  escalated?: EscalationRule | undefined
  isAnswered?: boolean
}

/** Some proxies refuse a response whose headers are larger than a few kilobytes. */
const HEADER_CHARS_MAX = 512
/** Of a key; with all else the JSON beside a usage row stays within what the account takes (ROUTE_CHARS_MAX). */
const NAME_CHARS_MAX = 200

function outcomeOf({ failure, escalated, isAnswered }: Step): string {
  if (failure !== undefined) return failure.kind ?? failure.code
  if (escalated !== undefined) return `escalated_${escalated}`
  return isAnswered === true ? 'ok' : 'running'
}

/** `(120ms;75%)`: the first token as predicted, and how much of the prompt was expected to be there already. */
function predictionText({ fleet }: Step): string {
  if (fleet === undefined) return ''
  const { ttft_ms: ttftMs, matched_tokens: matched, prompt_tokens: prompt } = fleet
  return `(${ttftMs}ms;${Math.round((100 * matched) / Math.max(1, prompt))}%)`
}

/**
 * `first/small:rate_limited>second/large:ok`; an own backend that an answer left in its middle is a word of its own, `moved`. What
 * does not fit is left out at the front: the end says more.
 */
export function routeText(steps: readonly Step[]): string {
  const words = steps.flatMap((step) => {
    const name = targetName(step.target)
    return [...(step.moves ?? []).map(() => `${name}:moved`), `${name}:${outcomeOf(step)}${predictionText(step)}`]
  })
  while (words.length > 1 && words.join('>').length > HEADER_CHARS_MAX)
    words.splice(0, words[0] === '...' ? 2 : 1, '...')
  return words.join('>').slice(-HEADER_CHARS_MAX)
}

/** What stands beside the attempt's usage row. */
export function routeJson(step: Step): string {
  const { role, place, turn, key, waitedMs, failure, escalated, fleet, moves } = step
  const facts = {
    role,
    ...(place === undefined ? {} : { reason: place.reason, turn, standing: place.standing }),
    ...(place?.figure === undefined ? {} : { figure: place.figure }),
    ...(key === undefined ? {} : { key: key.name.slice(0, NAME_CHARS_MAX) }),
    ...(waitedMs > 0 ? { waited_ms: Math.round(waitedMs) } : {}),
    ...(failure?.kind === undefined ? {} : { kind: failure.kind }),
    ...(failure?.retryAfterMs === undefined ? {} : { retry_after_ms: Math.round(failure.retryAfterMs) }),
    ...(escalated === undefined ? {} : { escalated }),
    ...(fleet === undefined ? {} : { fleet }),
    ...(moves === undefined ? {} : { moves }),
  }
  return JSON.stringify(facts)
}
