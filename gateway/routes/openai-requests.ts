// OpenAI bodies into the internal form. Owns the mapping and the path of a wrong field. Pure: bytes and limits are body.ts.
import type { z } from 'zod'
import { ChatCompletionRequest, CompletionRequest, EmbeddingRequest } from '../../protocol/dialects/openai.ts'
import type { Failure } from '../../protocol/errors.ts'
import {
  type ChatMessage,
  choiceCount,
  type InferenceRequest,
  MAX_CHOICES,
  MAX_EMBEDDING_TOKENS,
  MAX_END_USER_CHARS,
  NEUTRAL_SAMPLING,
  type Prompt,
  type Sampling,
} from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { VectorFormat } from './answer.ts'
import { outputFormatOf } from './output-format.ts'
import { refuseUnsupported } from './parameters.ts'

/** What the caller wants of the wire, apart from what is generated. */
export type Delivery = { stream: boolean; includeUsage: boolean; vectorFormat?: VectorFormat }

export type ParsedRequest = { request: InferenceRequest; delivery: Delivery }

/** `top_p` 0 keeps only the likeliest token; the internal form excludes 0, and this keeps one token just the same. */
const TOP_P_MIN = 1e-6

const CHAT_FIELDS: ReadonlySet<string> = new Set(Object.keys(ChatCompletionRequest.shape))
const COMPLETION_FIELDS: ReadonlySet<string> = new Set(Object.keys(CompletionRequest.shape))

const EMBEDDING_FIELDS: ReadonlySet<string> = new Set(Object.keys(EmbeddingRequest.shape))

const invalid = (message: string, param?: string): Failure => ({
  code: 'invalid_request',
  message,
  ...(param === undefined ? {} : { param }),
})

/** `['messages', 0, 'content']` as `messages[0].content`. */
export function fieldPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`
    return text === '' ? String(part) : `${text}.${String(part)}`
  }, '')
}

type Issue = z.core.$ZodIssue

/**
 * The issue to report. Inside a union each arm fails in its own way: the arm that got below the top was the one meant,
 * and where none did the union's own message says all that is allowed.
 */
function deepest(issue: Issue, prefix: readonly PropertyKey[] = []): { path: PropertyKey[]; message: string } {
  const path = [...prefix, ...issue.path]
  if (issue.code !== 'invalid_union') return { path, message: issue.message }
  for (const arm of issue.errors) {
    const first = arm[0]
    if (first !== undefined && first.path.length > 0) return deepest(first, path)
  }
  return { path, message: issue.message }
}

function schemaFailure(error: z.ZodError): Failure {
  const first = error.issues[0]
  if (first === undefined) return invalid('The request body is not valid.')
  const { path, message } = deepest(first)
  const param = fieldPath(path)
  return param === '' ? invalid(message) : invalid(`Invalid value for '${param}': ${message}`, param)
}

function asObject(body: unknown): Result<Record<string, unknown>, Failure> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    return err(invalid('The request body must be a JSON object.'))
  }
  return ok(body as Record<string, unknown>)
}

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

function samplingOf(body: Shared): Sampling {
  const bias = Object.entries(body.logit_bias ?? {})
  return {
    temperature: body.temperature ?? 1,
    topP: Math.max(body.top_p ?? 1, TOP_P_MIN),
    topK: Math.max(body.top_k ?? 0, 0),
    minP: body.min_p ?? 0,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    repetitionPenalty: body.repetition_penalty ?? 1,
    ...(typeof body.seed === 'number' ? { seed: body.seed } : {}),
    logitBias: bias.map(([tokenId, value]) => ({ tokenId: Number(tokenId), bias: value })),
  }
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

/**
 * Whom the request is for; limits and reports know a customer by this word, so it is never cut: two could become one.
 * What no database column can hold is refused here, before anything is spent on it.
 */
function endUserOf(body: Record<string, unknown>): Result<{ endUser?: string }, Failure> {
  for (const field of END_USER_FIELDS) {
    const value = body[field]
    if (value === undefined || value === null || value === '') continue
    if (typeof value !== 'string') return err(invalid(`Invalid value for '${field}': must be a string`, field))
    if (value.length > MAX_END_USER_CHARS || /\p{Cc}/u.test(value) || !value.isWellFormed()) {
      const message = `must have at most ${MAX_END_USER_CHARS} characters, none of them a control character`
      return err(invalid(`Invalid value for '${field}': ${message}`, field))
    }
    return ok({ endUser: value })
  }
  return ok({})
}

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
  const unsupported = refuseUnsupported('chat', object.value, CHAT_FIELDS)
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
  const endUser = endUserOf(object.value)
  if (!endUser.ok) return endUser
  const maxOutputTokens = chat.max_completion_tokens ?? chat.max_tokens ?? undefined
  const request: InferenceRequest = {
    model: chat.model,
    input: { kind: 'chat', messages: chat.messages.map(messageOf) },
    sampling: samplingOf(chat),
    n: chat.n ?? 1,
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    stop: stopOf(chat.stop),
    ...(chat.logprobs === true ? { logprobs: { top: chat.top_logprobs ?? 0 } } : {}),
    ...(format.value === undefined ? {} : { outputFormat: format.value }),
    ...endUser.value,
  }
  return ok({ request, delivery: delivery.value })
}

function messageOf(message: ChatCompletionRequest['messages'][number]): ChatMessage {
  const content =
    typeof message.content === 'string' ? message.content : message.content.map((part) => part.text).join('')
  return { role: message.role, content, ...(typeof message.name === 'string' ? { name: message.name } : {}) }
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
  const unsupported = refuseUnsupported('completion', object.value, COMPLETION_FIELDS)
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
  const endUser = endUserOf(object.value)
  if (!endUser.ok) return endUser
  const request: InferenceRequest = {
    model: completion.model,
    input: { kind: 'completion', prompts: promptsOf(completion.prompt), echo: completion.echo === true },
    sampling: samplingOf(completion),
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
  const unsupported = refuseUnsupported('embedding', object.value, EMBEDDING_FIELDS)
  if (unsupported !== undefined) return err(unsupported)
  const parsed = EmbeddingRequest.safeParse(object.value)
  if (!parsed.success) return err(schemaFailure(parsed.error))
  const { model, input, dimensions, encoding_format: vectorFormat } = parsed.data
  const prompts = promptsOf(input)
  const idCount = prompts.reduce((sum, prompt) => sum + ('tokenIds' in prompt ? prompt.tokenIds.length : 0), 0)
  if (idCount > MAX_EMBEDDING_TOKENS) {
    return err(invalid(`The inputs have ${idCount} tokens; at most ${MAX_EMBEDDING_TOKENS} are allowed.`, 'input'))
  }
  const endUser = endUserOf(object.value)
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
