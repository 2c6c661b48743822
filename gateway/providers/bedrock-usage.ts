// Usage as Bedrock's Converse interface reports it: cache reads and writes beside `inputTokens`, thinking inside
// `outputTokens` and not told apart. Owns that reading. Pure.
import { CountReader, isJson, type Normalised } from '../meter/normalise.ts'
import { NO_USAGE } from '../meter/usage.ts'
import type { CacheTtl } from './anthropic-usage.ts'

/** One for each of the times that a cache keeps. */
const CACHE_DETAILS_MAX = 16
const COUNTS = ['inputTokens', 'outputTokens', 'cacheReadInputTokens', 'cacheWriteInputTokens']

/**
 * The parts of a `usage` object; `undefined` where it holds no count at all. Writes that the details leave out take the
 * time that the request asked for, else the dearer; without any details there is one time, the shorter.
 * @param ttl What the request's cache marks asked for; absent: unknown.
 */
export function normaliseBedrock(raw: unknown, ttl?: CacheTtl): Normalised | undefined {
  if (!isJson(raw)) return undefined
  const reader = new CountReader()
  const hasCount = COUNTS.some((name) => reader.count(raw[name]) !== undefined)
  if (!hasCount) return undefined
  const details = Array.isArray(raw.cacheDetails) ? raw.cacheDetails.slice(0, CACHE_DETAILS_MAX).filter(isJson) : []
  const known = { '5m': 0, '1h': 0 }
  for (const { ttl: kept, inputTokens } of details) {
    if (kept === '5m' || kept === '1h') known[kept] += reader.countOrZero(inputTokens)
    else reader.inconsistent = true
  }
  const sum = known['5m'] + known['1h']
  const writes = reader.count(raw.cacheWriteInputTokens) ?? sum
  if (sum > writes) reader.inconsistent = true
  const left = Math.max(0, writes - sum)
  const isShort = ttl === undefined ? details.length === 0 : ttl === '5m'
  const usage = reader.usage({
    ...NO_USAGE,
    inputUncached: reader.countOrZero(raw.inputTokens),
    inputCacheRead: reader.countOrZero(raw.cacheReadInputTokens),
    inputCacheWrite5m: known['5m'] + (isShort ? left : 0),
    inputCacheWrite1h: known['1h'] + (isShort ? 0 : left),
    outputText: reader.countOrZero(raw.outputTokens),
  })
  return { usage, inconsistent: reader.inconsistent }
}
