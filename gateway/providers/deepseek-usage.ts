// Usage as DeepSeek reports it: OpenAI's sums, with the prompt split into `prompt_cache_hit_tokens` and
// `prompt_cache_miss_tokens` beside them. Owns that split. Pure.
import { CountReader, isJson, type Normalised } from '../meter/normalise.ts'
import { normaliseOpenAi } from './openai-usage.ts'

/** The parts of a `usage` object; `undefined` where it holds no count at all. */
export function normaliseDeepSeek(raw: unknown): Normalised | undefined {
  if (!isJson(raw)) return undefined
  const reader = new CountReader()
  const hit = reader.count(raw.prompt_cache_hit_tokens)
  const miss = reader.count(raw.prompt_cache_miss_tokens)
  if (hit === undefined && miss === undefined) return normaliseOpenAi(raw)
  const prompt = reader.count(raw.prompt_tokens) ?? (hit ?? 0) + (miss ?? 0)
  if (hit !== undefined && miss !== undefined && hit + miss !== prompt) reader.inconsistent = true
  const cached = hit ?? Math.max(0, prompt - (miss ?? 0))
  const normalised = normaliseOpenAi({
    ...raw,
    prompt_tokens: prompt,
    prompt_tokens_details: { cached_tokens: cached },
  })
  if (normalised === undefined) return undefined
  return { ...normalised, inconsistent: normalised.inconsistent || reader.inconsistent }
}
