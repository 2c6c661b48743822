// Usage as xAI reports it: OpenAI's fields, but chat completions count reasoning beside the completion while responses
// count it inside, cached tokens sometimes stand beside the prompt, and the price comes along in ticks. Owns these
// differences. Pure.
import { CountReader, isJson, type Normalised, withTicks } from '../meter/normalise.ts'
import { normaliseOpenAi } from './openai-usage.ts'

/** The parts of a `usage` object; `undefined` where it holds no count at all. */
export function normaliseXai(raw: unknown): Normalised | undefined {
  if (!isJson(raw)) return undefined
  const isChat = raw.input_tokens === undefined
  const normalised = normaliseOpenAi(raw, { isReasoningBeside: isChat })
  if (normalised === undefined) return undefined
  const reader = new CountReader()
  const toolCalls = reader.countOrZero(raw.num_server_side_tools_used)
  const searches = reader.countOrZero(raw.num_sources_used)
  const usage = { ...normalised.usage, toolCalls, webSearchCalls: searches }
  return withTicks(
    { ...normalised, usage, inconsistent: normalised.inconsistent || reader.inconsistent },
    raw.cost_in_usd_ticks,
  )
}
