// Usage as Anthropic's Messages API reports it: cache reads and writes beside `input_tokens`, thinking inside
// `output_tokens`, and what compaction, advisors and fallback models used in `iterations`. Owns that reading and how the
// objects of one stream join. Pure.
import { CountReader, isJson, type Json, jsonOrEmpty, type Normalised, type OtherModel } from '../meter/normalise.ts'
import { addUsage, NO_USAGE, type Usage } from '../meter/usage.ts'

/** Sub-inferences of one answer; a few each for tools, advice and compaction. */
const ITERATIONS_MAX = 1_000

/** What the request asked for, where cache writes do not say which they are. */
export type CacheTtl = '5m' | '1h'

/**
 * The opening event says what is known by then, and each later one replaces it field by field: a field that is absent or
 * null in a later event keeps its value.
 */
export function mergeAnthropicUsage(before: Json, next: Json): Json {
  const merged: Json = { ...before }
  for (const [name, value] of Object.entries(next)) {
    if (value !== undefined && value !== null) merged[name] = value
  }
  return merged
}

/**
 * The parts of a `usage` object; `undefined` where it holds no count at all.
 * @param ttl What the request's cache marks asked for; absent: unknown.
 */
export function normaliseAnthropic(raw: unknown, ttl?: CacheTtl): Normalised | undefined {
  if (!isJson(raw)) return undefined
  const reader = new CountReader()
  const hasCount = COUNTS.some((name) => reader.count(raw[name]) !== undefined)
  if (!hasCount) return undefined
  const iterations = Array.isArray(raw.iterations) ? raw.iterations.slice(0, ITERATIONS_MAX).filter(isJson) : []
  const kinds = (kind: string) => iterations.filter((iteration) => iteration.type === kind)

  // The top level counts the messages and leaves compaction out.
  let usage = tokensOf(reader, raw, ttl)
  for (const compaction of kinds('compaction')) usage = addUsage(usage, tokensOf(reader, compaction, ttl))
  const tools = jsonOrEmpty(raw.server_tool_use)
  const webSearchCalls = reader.countOrZero(tools.web_search_requests)
  const toolCalls = reader.countOrZero(tools.code_execution_requests)
  usage = { ...usage, webSearchCalls, toolCalls }

  const others: OtherModel[] = kinds('advisor_message').map((advice) => ({
    model: modelOf(advice),
    usage: reader.usage(tokensOf(reader, advice, ttl)),
  }))
  const [fallback] = kinds('fallback_message')
  const counted = reader.usage(usage)
  return {
    usage: counted,
    inconsistent: reader.inconsistent,
    ...(others.length === 0 ? {} : { otherModels: others }),
    ...(fallback === undefined ? {} : { servedModel: modelOf(fallback) }),
  }
}

const COUNTS = ['input_tokens', 'output_tokens', 'cache_read_input_tokens', 'cache_creation_input_tokens']

const modelOf = (iteration: Json): string =>
  typeof iteration.model === 'string' && iteration.model !== '' ? iteration.model.slice(0, 128) : 'unknown'

function tokensOf(reader: CountReader, raw: Json, ttl: CacheTtl | undefined): Usage {
  const output = reader.countOrZero(raw.output_tokens)
  const thinking = reader.countOrZero(jsonOrEmpty(raw.output_tokens_details).thinking_tokens)
  const { taken, rest } = reader.take(output, [thinking])
  return {
    ...NO_USAGE,
    inputUncached: reader.countOrZero(raw.input_tokens),
    inputCacheRead: reader.countOrZero(raw.cache_read_input_tokens),
    ...writesOf(reader, raw, ttl),
    outputText: rest,
    outputReasoning: taken[0] ?? 0,
  }
}

/**
 * Cache writes by how long they are kept. Where there is no split at all there is one tier, the shorter; writes that a
 * split leaves out take what the request asked for, else the dearer, which is the longer.
 */
function writesOf(reader: CountReader, raw: Json, ttl: CacheTtl | undefined) {
  const split = raw.cache_creation
  const short = reader.count(jsonOrEmpty(split).ephemeral_5m_input_tokens)
  const long = reader.count(jsonOrEmpty(split).ephemeral_1h_input_tokens)
  const known = (short ?? 0) + (long ?? 0)
  const sum = reader.count(raw.cache_creation_input_tokens) ?? known
  if (known > sum) reader.inconsistent = true
  const left = Math.max(0, sum - known)
  const isUnsplit = short === undefined && long === undefined
  const isShort = ttl === undefined ? isUnsplit : ttl === '5m'
  return {
    inputCacheWrite5m: (short ?? 0) + (isShort ? left : 0),
    inputCacheWrite1h: (long ?? 0) + (isShort ? 0 : left),
  }
}
