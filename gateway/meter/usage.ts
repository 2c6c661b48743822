// Usage in disjoint parts. Owns the parts, their bounds and their sums; prices are price.ts, the OpenAI format is
// normalise.ts, other provider formats providers/<vendor>.ts.

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
 * Largest count of one part that is believed. A thousand times the longest context on the market; above it a count is
 * a broken upstream, and with `PRICE_MAX` the cost of an attempt still fits a 64-bit integer.
 */
export const USAGE_PART_MAX = 1_000_000_000

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

/** Part by part. The result may hold negative parts: it is a correction then, not a usage. */
export function subtractUsage(u: Usage, less: Usage): Usage {
  return mapParts((part) => u[part] - less[part])
}

export function addUsage(u: Usage, more: Usage): Usage {
  return mapParts((part) => u[part] + more[part])
}

export const isNoUsage = (u: Usage): boolean => USAGE_PARTS.every((part) => u[part] === 0)

/** Whether every part is a count that may be charged. */
export const isUsage = (u: Usage): boolean =>
  USAGE_PARTS.every((part) => Number.isSafeInteger(u[part]) && u[part] >= 0 && u[part] <= USAGE_PART_MAX)

function mapParts(value: (part: UsagePart) => number): Usage {
  return {
    inputUncached: value('inputUncached'),
    inputCacheRead: value('inputCacheRead'),
    inputCacheWrite5m: value('inputCacheWrite5m'),
    inputCacheWrite1h: value('inputCacheWrite1h'),
    outputText: value('outputText'),
    outputReasoning: value('outputReasoning'),
  }
}
