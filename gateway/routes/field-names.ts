// The internal form's fields under the names they have in each dialect: a target that cannot honour one says which in our words,
// a caller is told in its own. Owns the names. Pure.
import type { Failure } from '../../protocol/errors.ts'

/** Fields that have the same name on both sides are left out. */
export type FieldNames = Readonly<Record<string, string>>

const SAMPLING: FieldNames = {
  topP: 'top_p',
  topK: 'top_k',
  minP: 'min_p',
  presencePenalty: 'presence_penalty',
  frequencyPenalty: 'frequency_penalty',
  repetitionPenalty: 'repetition_penalty',
  logitBias: 'logit_bias',
  prompts: 'prompt',
}

export const CHAT_NAMES: FieldNames = {
  ...SAMPLING,
  maxOutputTokens: 'max_completion_tokens',
  outputFormat: 'response_format',
  toolChoice: 'tool_choice',
  parallelToolCalls: 'parallel_tool_calls',
  reasoning: 'reasoning_effort',
  promptCacheKey: 'prompt_cache_key',
}

export const COMPLETION_NAMES: FieldNames = {
  ...SAMPLING,
  maxOutputTokens: 'max_tokens',
  outputFormat: 'structured_outputs',
}

export const RESPONSE_NAMES: FieldNames = {
  topP: 'top_p',
  messages: 'input',
  maxOutputTokens: 'max_output_tokens',
  outputFormat: 'text.format',
  /** What some targets already call it by the name it has in the chat dialect. */
  response_format: 'text.format',
  verbosity: 'text.verbosity',
  logprobs: 'top_logprobs',
  toolChoice: 'tool_choice',
  parallelToolCalls: 'parallel_tool_calls',
  promptCacheKey: 'prompt_cache_key',
}

export const EMBEDDING_NAMES: FieldNames = { prompts: 'input' }

export const MESSAGES_NAMES: FieldNames = {
  topP: 'top_p',
  topK: 'top_k',
  maxOutputTokens: 'max_tokens',
  stop: 'stop_sequences',
  outputFormat: 'output_config.format',
  /** What some targets already call it by the name it has in the chat dialect. */
  response_format: 'output_config.format',
  toolChoice: 'tool_choice',
  parallelToolCalls: 'tool_choice.disable_parallel_tool_use',
  reasoning: 'thinking',
}

/** @param names Absent: the caller's words are the internal form's. */
export function inCallersWords(failure: Failure, names: FieldNames | undefined): Failure {
  const { param } = failure
  if (param === undefined || names === undefined || !Object.hasOwn(names, param)) return failure
  const name = names[param]
  return name === undefined ? failure : { ...failure, param: name }
}
