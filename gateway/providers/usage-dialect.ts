// The dialects in which upstreams tell their usage. Owns their names and how the usage objects of one answer become one:
// each dialect is a file of its own. Pure.
import { isJson, type Json, type Normalised } from '../meter/normalise.ts'
import { type CacheTtl, mergeAnthropicUsage, normaliseAnthropic } from './anthropic-usage.ts'
import { normaliseBedrock } from './bedrock-usage.ts'
import { normaliseDeepSeek } from './deepseek-usage.ts'
import { mergeGeminiUsage, normaliseGemini } from './gemini-usage.ts'
import { normaliseOpenAi } from './openai-usage.ts'
import { normaliseXai } from './xai-usage.ts'

export const USAGE_DIALECTS = ['openai', 'anthropic', 'gemini', 'xai', 'deepseek', 'bedrock'] as const
export type UsageDialect = (typeof USAGE_DIALECTS)[number]

type Rules = {
  /** What stands after another usage object of the same answer. */
  merge: (before: Json, next: Json) => Json
  /** The parts; `undefined` where the object holds no count at all, which is not the same as counts of zero. */
  normalise: (raw: unknown, cacheTtl: CacheTtl | undefined) => Normalised | undefined
}

/** The last object says everything. */
const replace: Rules['merge'] = (_, next) => next

const RULES: Record<UsageDialect, Rules> = {
  openai: { merge: replace, normalise: (raw) => normaliseOpenAi(raw) },
  anthropic: { merge: mergeAnthropicUsage, normalise: normaliseAnthropic },
  gemini: { merge: mergeGeminiUsage, normalise: normaliseGemini },
  xai: { merge: replace, normalise: normaliseXai },
  deepseek: { merge: replace, normalise: normaliseDeepSeek },
  bedrock: { merge: replace, normalise: normaliseBedrock },
}

export type SeenUsage = Normalised & { raw: Json }

/** Follows the usage objects of one answer. */
export class UsageReader {
  readonly #rules: Rules
  readonly #cacheTtl: CacheTtl | undefined
  #raw: Json | undefined

  /** @param cacheTtl How long the request's cache hints asked its prompt to be kept; absent: unknown. */
  constructor(dialect: UsageDialect, cacheTtl?: CacheTtl) {
    this.#rules = RULES[dialect]
    this.#cacheTtl = cacheTtl
  }

  /** What the answer has used by its objects so far; `undefined` where this one is none or holds no count. */
  see(raw: unknown): SeenUsage | undefined {
    if (!isJson(raw)) return undefined
    const merged = this.#raw === undefined ? raw : this.#rules.merge(this.#raw, raw)
    const normalised = this.#rules.normalise(merged, this.#cacheTtl)
    if (normalised === undefined) return undefined
    this.#raw = merged
    return { ...normalised, raw: merged }
  }
}
