// What a limit is. Owns the rule, the rules of an organisation as one versioned book, and the name of what a rule counts.
// Pure. Windows are windows.ts, the decision admission.ts, the stored form rule-book.ts.
import type { NanoUsd } from '../../protocol/units.ts'

export const LIMIT_SCOPES = ['org', 'project', 'team', 'user', 'key', 'end_user'] as const
export type LimitScope = (typeof LIMIT_SCOPES)[number]

export const LIMIT_WINDOWS = ['minute', 'hour', 'day', 'month', 'lifetime'] as const
export type LimitWindow = (typeof LIMIT_WINDOWS)[number]

/** What is counted over a window. Tokens and money are those the customer pays, by the start of the attempt. */
export const COUNTED_METERS = ['requests', 'input_tokens', 'output_tokens', 'money'] as const
export type CountedMeter = (typeof COUNTED_METERS)[number]

/** As a scope id: each project, team, user, key or end user has one of its own. */
export const EACH = '*'

type Where = {
  /** uuid. */
  limitId: string
  scope: LimitScope
  /** An id of that scope, or EACH. */
  scopeId: string
  /** Only what asks for this model name; absent: everything. */
  model?: string | undefined
  /** A soft limit refuses nothing: it is noted when it is passed. */
  hard: boolean
}

/** A calendar window in a named zone (IANA, e.g. `Europe/Berlin`); it is part of the counter's key, so a reset is a new counter. */
type Span = { window: LimitWindow; timeZone: string }

export type CountLimit = Where & Span & { meter: 'requests' | 'input_tokens' | 'output_tokens'; max: number }
export type MoneyLimit = Where & Span & { meter: 'money'; maxNanoUsd: NanoUsd }
/** Requests that run at the same time. */
export type ConcurrencyLimit = Where & { meter: 'concurrency'; max: number }
export type LimitRule = CountLimit | MoneyLimit | ConcurrencyLimit

/** Prepaid: what was granted, and how far below zero the account may go, bound everything that is ever charged. */
export type CreditTerms = { grantedNanoUsd: NanoUsd; overdraftNanoUsd: NanoUsd }

/** All rules of an organisation. Versions rise with every change, so that news which overtake each other do no harm. */
export type RuleBook = {
  version: number
  limits: LimitRule[]
  /** Absent: post-paid. */
  credit?: CreditTerms | undefined
}

export type CountedLimit = CountLimit | MoneyLimit

/**
 * The name of what a rule counts. Rules that differ in their maximum alone (or are soft and hard) share one counter, and
 * a maximum that changes keeps it.
 */
export const seriesOf = (rule: Omit<CountedLimit, 'limitId' | 'hard' | 'max' | 'maxNanoUsd'>): string =>
  [rule.scope, rule.scopeId, rule.meter, rule.window, rule.timeZone, rule.model ?? ''].join('|')

/** What all of an organisation's charges sum up to: what prepaid credit is held against. */
export const creditSeries = (orgId: string): CountedSeries => ({
  scope: 'org',
  scopeId: orgId,
  meter: 'money',
  window: 'lifetime',
  timeZone: 'UTC',
})
export type CountedSeries = Omit<MoneyLimit, 'limitId' | 'hard' | 'maxNanoUsd'>
