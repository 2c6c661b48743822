// OpenAI bodies into the internal form. Owns the mapping of their fields; a chat's messages and tools are chat-messages.ts,
// the path of a wrong field schema-fault.ts. Pure: bytes and limits are body.ts.
import { ChatCompletionRequest, CompletionRequest, EmbeddingRequest } from '../../protocol/dialects/openai.ts'
import type { Failure } from '../../protocol/errors.ts'
import {
  choiceCount,
  type InferenceRequest,
  MAX_CHOICES,
  MAX_EMBEDDING_TOKENS,
  NEUTRAL_SAMPLING,
  type Prompt,
  type Reasoning,
  type ReasoningEffort,
  type Sampling,
} from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { chatMessages, chatTools } from './chat-messages.ts'
import { endUserOf } from './end-user.ts'
import { outputFormatOf } from './output-format.ts'
import { refuseUnsupported } from './parameters.ts'
import type { Delivery, ParsedRequest } from './parsed-request.ts'
import { samplingOf } from './sampling.ts'
import { asObject, invalid, schemaFailure } from './schema-fault.ts'

type Shared = Pick<
  ChatCompletionRequest,
  | 'temperature'
  | 'top_p'
  | 'top_k'
  | 'min_p'
  | 'presence_penalty'
  | 'frequency_penalty'
  | 'repetition_penalty'
  | 'seed'
  | 'logit_bias'
  | 'stop'
  | 'stream'
  | 'stream_options'
  | 'user'
  | 'structured_outputs'
>

function samplingIn(body: Shared): Sampling {
  const bias = Object.entries(body.logit_bias ?? {})
  const said = {
    temperature: body.temperature,
    topP: body.top_p,
    topK: body.top_k,
    minP: body.min_p,
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
    repetitionPenalty: body.repetition_penalty,
    seed: body.seed,
  }
  return samplingOf(
    said,
    bias.map(([tokenId, value]) => ({ tokenId: Number(tokenId), bias: value })),
  )
}

function deliveryOf(body: Shared): Result<Delivery, Failure> {
  const stream = body.stream === true
  if (!stream && body.stream_options !== undefined && body.stream_options !== null) {
    return err(invalid("'stream_options' is only allowed when 'stream' is true.", 'stream_options'))
  }
  return ok({ stream, includeUsage: body.stream_options?.include_usage === true })
}

/** Fields in which the dialect names the caller's own customer, the one that counts first. */
const END_USER_FIELDS = ['safety_identifier', 'user'] as const

const endUserIn = (body: Record<string, unknown>) => endUserOf(END_USER_FIELDS.map((field) => [field, body[field]]))

/** The dialect has no word for it, and its clients show `reasoning_content` where there is any. */
const reasoningOf = (effort: ReasoningEffort): Reasoning => (effort === 'none' ? { effort } : { effort, show: true })

const stopOf = (stop: Shared['stop']): string[] => (stop === undefined || stop === null ? [] : [stop].flat())

function tooManyChoices(request: InferenceRequest): Failure | undefined {
  const choices = choiceCount(request)
  if (choices <= MAX_CHOICES) return undefined
  return invalid(`${choices} choices (prompts times n) were asked for; at most ${MAX_CHOICES} are allowed.`, 'n')
}

/** Body of POST /v1/chat/completions. */
export function parseChat(body: unknown): Result<ParsedRequest, Failure> {
  const object = asObject(body)
  if (!object.ok) return object
  const unsupported = refuseUnsupported('chat', object.value, ChatCompletionRequest.shape)
  if (unsupported !== undefined) return err(unsupported)
  const parsed = ChatCompletionRequest.safeParse(object.value)
  if (!parsed.success) return err(schemaFailure(parsed.error))
  const chat = parsed.data
  const delivery = deliveryOf(chat)
  if (!delivery.ok) return delivery
  if (
    chat.top_logprobs !== undefined &&
    chat.top_logprobs !== null &&
    chat.top_logprobs > 0 &&
    chat.logprobs !== true
  ) {
    return err(invalid("'top_logprobs' needs 'logprobs' to be true.", 'top_logprobs'))
  }
  const format = outputFormatOf(chat)
  if (!format.ok) return format
  const endUser = endUserIn(object.value)
  if (!endUser.ok) return endUser
  const messages = chatMessages(chat.messages)
  if (!messages.ok) return messages
  const tools = chatTools(chat.tools, chat.tool_choice)
  if (!tools.ok) return tools
  const maxOutputTokens = chat.max_completion_tokens ?? chat.max_tokens ?? undefined
  const hasTools = tools.value.tools !== undefined
  const request: InferenceRequest = {
    model: chat.model,
    input: { kind: 'chat', messages: messages.value },
    sampling: samplingIn(chat),
    n: chat.n ?? 1,
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    stop: stopOf(chat.stop),
    ...(chat.logprobs === true ? { logprobs: { top: chat.top_logprobs ?? 0 } } : {}),
    ...(format.value === undefined ? {} : { outputFormat: format.value }),
    ...tools.value,
    ...(hasTools && typeof chat.parallel_tool_calls === 'boolean'
      ? { parallelToolCalls: chat.parallel_tool_calls }
      : {}),
    ...(typeof chat.reasoning_effort === 'string' ? { reasoning: reasoningOf(chat.reasoning_effort) } : {}),
    ...(typeof chat.verbosity === 'string' ? { verbosity: chat.verbosity } : {}),
    ...(typeof chat.prompt_cache_key === 'string' ? { promptCacheKey: chat.prompt_cache_key } : {}),
    ...(chat.prompt_cache_options?.mode === 'explicit' ? { promptCacheMode: 'explicit' } : {}),
    ...endUser.value,
  }
  return ok({ request, delivery: delivery.value })
}

function promptsOf(prompt: CompletionRequest['prompt']): Prompt[] {
  if (typeof prompt === 'string') return [{ text: prompt }]
  const prompts: Prompt[] = []
  const ids: number[] = []
  for (const one of prompt) {
    if (typeof one === 'number') ids.push(one)
    else prompts.push(typeof one === 'string' ? { text: one } : { tokenIds: one })
  }
  return ids.length > 0 ? [{ tokenIds: ids }] : prompts
}

/** Body of POST /v1/completions. */
export function parseCompletion(body: unknown): Result<ParsedRequest, Failure> {
  const object = asObject(body)
  if (!object.ok) return object
  const unsupported = refuseUnsupported('completion', object.value, CompletionRequest.shape)
  if (unsupported !== undefined) return err(unsupported)
  const parsed = CompletionRequest.safeParse(object.value)
  if (!parsed.success) return err(schemaFailure(parsed.error))
  const completion = parsed.data
  const delivery = deliveryOf(completion)
  if (!delivery.ok) return delivery
  const n = completion.n ?? 1
  if (typeof completion.best_of === 'number' && completion.best_of !== n) {
    return err(invalid("'best_of' other than 'n' is not supported.", 'best_of'))
  }
  if (completion.echo === true && typeof completion.logprobs === 'number') {
    return err(invalid("'echo' together with 'logprobs' is not supported.", 'echo'))
  }
  const format = outputFormatOf(completion)
  if (!format.ok) return format
  const endUser = endUserIn(object.value)
  if (!endUser.ok) return endUser
  const request: InferenceRequest = {
    model: completion.model,
    input: { kind: 'completion', prompts: promptsOf(completion.prompt), echo: completion.echo === true },
    sampling: samplingIn(completion),
    n,
    ...(typeof completion.max_tokens === 'number' ? { maxOutputTokens: completion.max_tokens } : {}),
    stop: stopOf(completion.stop),
    ...(typeof completion.logprobs === 'number' ? { logprobs: { top: completion.logprobs } } : {}),
    ...(format.value === undefined ? {} : { outputFormat: format.value }),
    ...endUser.value,
  }
  const tooMany = tooManyChoices(request)
  return tooMany === undefined ? ok({ request, delivery: delivery.value }) : err(tooMany)
}

/** Body of POST /v1/embeddings. */
export function parseEmbedding(body: unknown): Result<ParsedRequest, Failure> {
  const object = asObject(body)
  if (!object.ok) return object
  const unsupported = refuseUnsupported('embedding', object.value, EmbeddingRequest.shape)
  if (unsupported !== undefined) return err(unsupported)
  const parsed = EmbeddingRequest.safeParse(object.value)
  if (!parsed.success) return err(schemaFailure(parsed.error))
  const { model, input, dimensions, encoding_format: vectorFormat } = parsed.data
  const prompts = promptsOf(input)
  const idCount = prompts.reduce((sum, prompt) => sum + ('tokenIds' in prompt ? prompt.tokenIds.length : 0), 0)
  if (idCount > MAX_EMBEDDING_TOKENS) {
    return err(invalid(`The inputs have ${idCount} tokens; at most ${MAX_EMBEDDING_TOKENS} are allowed.`, 'input'))
  }
  const endUser = endUserIn(object.value)
  if (!endUser.ok) return endUser
  const request: InferenceRequest = {
    model,
    input: { kind: 'embedding', prompts, ...(typeof dimensions === 'number' ? { dimensions } : {}) },
    sampling: NEUTRAL_SAMPLING,
    n: 1,
    stop: [],
    ...endUser.value,
  }
  const delivery: Delivery = { stream: false, includeUsage: false }
  if (typeof vectorFormat === 'string') delivery.vectorFormat = vectorFormat
  return ok({ request, delivery })
}
