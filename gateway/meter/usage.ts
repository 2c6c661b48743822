// Usage in disjoint parts. Owns the parts and their sums; prices are price.ts, provider formats providers/<vendor>.ts.

/** Every unit is in exactly one part; totals are derived and never priced. All are counts >= 0. */
export type Usage = {
  inputUncached: number
  inputCacheRead: number
  /** Cache writes kept 5 minutes, and 1 hour, where a provider bills them. */
  inputCacheWrite5m: number
  inputCacheWrite1h: number
  outputText: number
  outputReasoning: number
}

export const USAGE_PARTS = [
  'inputUncached',
  'inputCacheRead',
  'inputCacheWrite5m',
  'inputCacheWrite1h',
  'outputText',
  'outputReasoning',
] as const satisfies readonly (keyof Usage)[]
export type UsagePart = (typeof USAGE_PARTS)[number]

/**
 * Where the counts come from: `provider` = the target's own final count; `stream_partial` = counted from the stream
 * before it broke; `estimated` = a hold expired and this is the last checkpoint.
 */
export type UsageSource = 'provider' | 'stream_partial' | 'estimated'

export const NO_USAGE: Usage = {
  inputUncached: 0,
  inputCacheRead: 0,
  inputCacheWrite5m: 0,
  inputCacheWrite1h: 0,
  outputText: 0,
  outputReasoning: 0,
}

export const inputTokens = (u: Usage): number =>
  u.inputUncached + u.inputCacheRead + u.inputCacheWrite5m + u.inputCacheWrite1h
export const outputTokens = (u: Usage): number => u.outputText + u.outputReasoning
