// Usage in disjoint parts. Owns the parts, their bounds and their sums; prices are price.ts, what providers send becomes
// parts in providers/<dialect>-usage.ts with the help of normalise.ts. Pure.

/** Tokens are in exactly one part; totals are derived and never priced. Calls are priced beside tokens. All are counts >= 0. */
export type Usage = {
  /** Text that was computed: neither read from nor written to a provider's cache. */
  inputUncached: number
  inputCacheRead: number
  /** Cache writes kept 5 minutes, and 1 hour, where a provider bills them. */
  inputCacheWrite5m: number
  inputCacheWrite1h: number
  inputAudio: number
  inputImage: number
  outputText: number
  outputReasoning: number
  outputAudio: number
  outputImage: number
  /** What a provider bills by the piece. */
  webSearchCalls: number
  imageCalls: number
  toolCalls: number
}

/** Every part under its name in tables, in the price book and in the admin API. The order is that of columns. */
export const PART_NAMES = {
  inputUncached: 'input_uncached',
  inputCacheRead: 'input_cache_read',
  inputCacheWrite5m: 'input_cache_write_5m',
  inputCacheWrite1h: 'input_cache_write_1h',
  inputAudio: 'input_audio',
  inputImage: 'input_image',
  outputText: 'output_text',
  outputReasoning: 'output_reasoning',
  outputAudio: 'output_audio',
  outputImage: 'output_image',
  webSearchCalls: 'web_search_calls',
  imageCalls: 'image_calls',
  toolCalls: 'tool_calls',
} as const satisfies Record<keyof Usage, string>

export type UsagePart = keyof Usage
export type PartName = (typeof PART_NAMES)[UsagePart]

export const USAGE_PARTS = [
  'inputUncached',
  'inputCacheRead',
  'inputCacheWrite5m',
  'inputCacheWrite1h',
  'inputAudio',
  'inputImage',
  'outputText',
  'outputReasoning',
  'outputAudio',
  'outputImage',
  'webSearchCalls',
  'imageCalls',
  'toolCalls',
] as const satisfies readonly UsagePart[]

export type Side = 'input' | 'output' | 'call'

/** Tokens of a prompt, tokens of an answer, or calls. */
export const sideOf = (part: UsagePart): Side =>
  part.startsWith('input') ? 'input' : part.startsWith('output') ? 'output' : 'call'

/**
 * Largest count of one part that is believed. Five hundred times a context of a million tokens; above it a count is a
 * broken upstream. All thirteen parts at `PRICE_MAX` make 6.5e18 nano-USD, which fits a 64-bit integer.
 */
export const USAGE_PART_MAX = 500_000_000

/**
 * Where the counts come from: `provider` = the target's own final count; `stream_partial` = counted from the stream
 * before it broke; `estimated` = a hold expired and this is the last checkpoint.
 */
export type UsageSource = 'provider' | 'stream_partial' | 'estimated'

/** One value for every part. */
export function mapParts<T>(value: (part: UsagePart) => T): Record<UsagePart, T> {
  return {
    inputUncached: value('inputUncached'),
    inputCacheRead: value('inputCacheRead'),
    inputCacheWrite5m: value('inputCacheWrite5m'),
    inputCacheWrite1h: value('inputCacheWrite1h'),
    inputAudio: value('inputAudio'),
    inputImage: value('inputImage'),
    outputText: value('outputText'),
    outputReasoning: value('outputReasoning'),
    outputAudio: value('outputAudio'),
    outputImage: value('outputImage'),
    webSearchCalls: value('webSearchCalls'),
    imageCalls: value('imageCalls'),
    toolCalls: value('toolCalls'),
  }
}

export const NO_USAGE: Usage = mapParts(() => 0)

const sumOf = (u: Usage, side: Side): number =>
  USAGE_PARTS.reduce((sum, part) => (sideOf(part) === side ? sum + u[part] : sum), 0)

export const inputTokens = (u: Usage): number => sumOf(u, 'input')
export const outputTokens = (u: Usage): number => sumOf(u, 'output')

/** Part by part. The result may hold negative parts: it is a correction then, not a usage. */
export const subtractUsage = (u: Usage, less: Usage): Usage => mapParts((part) => u[part] - less[part])

export const addUsage = (u: Usage, more: Usage): Usage => mapParts((part) => u[part] + more[part])

export const isNoUsage = (u: Usage): boolean => USAGE_PARTS.every((part) => u[part] === 0)

/** Whether every part is a count that may be charged. */
export const isUsage = (u: Usage): boolean =>
  USAGE_PARTS.every((part) => Number.isSafeInteger(u[part]) && u[part] >= 0 && u[part] <= USAGE_PART_MAX)
