// The OpenAI dialect on wire 1: what clients send and what they get back. Owns the zod schemas of the request bodies
// and the types of the answers; a chat's messages and tools are openai-chat.ts. Turning them into the internal form is
// gateway/routes; errors are gateway/errors.ts.
import * as z from 'zod'
import { late } from '../late.ts'
import { MAX_FORMAT_CHOICES } from '../output-format.ts'
import {
  MAX_CACHE_KEY_CHARS,
  MAX_CHOICES,
  MAX_EMBEDDING_INPUTS,
  MAX_LOGIT_BIAS,
  MAX_LOGPROBS_TOP,
  MAX_MESSAGES,
  MAX_STOP_BYTES,
  MIN_REPETITION_PENALTY,
  REASONING_EFFORTS,
} from '../request.ts'
import {
  type AssistantMessage,
  Message,
  type MessageDelta,
  PromptCacheOptions,
  ToolChoice,
  Tools,
} from './openai-chat.ts'
import { boundedArray, isObject, jsonSchema, utf8Bytes } from './schema.ts'

/** The older completions route has its own, smaller limit. */
const MAX_COMPLETION_LOGPROBS = 5
/** Far above any model's; beyond it a number is a mistake. */
const MAX_DIMENSIONS = 65_536

const stopString = late(() =>
  z
    .string()
    .min(1, 'A stop string must not be empty.')
    .refine((text) => utf8Bytes(text) <= MAX_STOP_BYTES, `A stop string may have at most ${MAX_STOP_BYTES} bytes.`),
)

/** The dialect's own limit. */
const MAX_STOPS = 4
const stop = late(() =>
  z.union([stopString, boundedArray(stopString, 0, MAX_STOPS)], {
    error: `Expected a string, or up to ${MAX_STOPS} strings, none empty or over ${MAX_STOP_BYTES} bytes.`,
  }),
)

const TOKEN_ID = /^(0|[1-9]\d{0,9})$/

const logitBias = late(() =>
  z
    .custom<Record<string, unknown>>(
      (value) =>
        typeof value === 'object' &&
        value !== null &&
        !Array.isArray(value) &&
        Object.keys(value).length <= MAX_LOGIT_BIAS,
      `Expected an object from token id to bias with at most ${MAX_LOGIT_BIAS} entries.`,
    )
    .pipe(z.record(z.string().regex(TOKEN_ID, 'Keys of logit_bias are token ids.'), z.number().min(-100).max(100))),
)

/** The schema's own rules are its compiler's to check; the fields are those that official clients send. */
const responseFormat = late(() =>
  z.discriminatedUnion(
    'type',
    [
      z.object({ type: z.literal('text') }),
      z.object({ type: z.literal('json_object') }),
      z.object({
        type: z.literal('json_schema'),
        json_schema: z.object({
          name: z.string().regex(/^[\w-]{1,64}$/, 'A name has 1 to 64 letters, digits, dashes and underscores.'),
          description: z.string().nullish(),
          schema: jsonSchema.nullish(),
          strict: z.boolean().nullish(),
        }),
      }),
    ],
    { error: "Expected an object with a type of 'text', 'json_object' or 'json_schema'." },
  ),
)

/** The extension of self-hosted servers for everything that has no place in response_format. Exactly one of its fields. */
const structuredOutputs = late(() =>
  z
    .object({
      json: z
        .custom<unknown>((value) => isObject(value) || typeof value === 'boolean', 'Expected a JSON schema.')
        .nullish(),
      regex: z.string().min(1).nullish(),
      choice: boundedArray(z.string().min(1), 1, MAX_FORMAT_CHOICES).nullish(),
      grammar: z.string().min(1).nullish(),
    })
    .strict()
    .refine(
      (asked) => Object.values(asked).filter((value) => value !== null && value !== undefined).length === 1,
      "Expected exactly one of 'json', 'regex', 'choice' and 'grammar'.",
    ),
)

/** Fields that both routes share. `null` means unset everywhere, as official clients send it. */
const modelName = late(() => z.string().min(1).max(200))
const endUser = late(() => z.string().max(1000).nullish())

const generation = () => ({
  model: modelName,
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  n: z.int().min(1).max(MAX_CHOICES).nullish(),
  max_tokens: z.int().min(1).nullish(),
  stop: stop.nullish(),
  seed: z.int().nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  logit_bias: logitBias.nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .object({ include_usage: z.boolean().nullish(), include_obfuscation: z.boolean().nullish() })
    .nullish(),
  user: endUser,
  // Extensions that self-hosted servers have in common; -1 is their other word for "off".
  top_k: z.int().min(-1).max(1_000_000).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().min(MIN_REPETITION_PENALTY).max(10).nullish(),
  structured_outputs: structuredOutputs.nullish(),
})

export const ChatCompletionRequest = late(() =>
  z.object({
    ...generation(),
    messages: boundedArray(Message, 1, MAX_MESSAGES),
    max_completion_tokens: z.int().min(1).nullish(),
    response_format: responseFormat.nullish(),
    logprobs: z.boolean().nullish(),
    top_logprobs: z.int().min(0).max(MAX_LOGPROBS_TOP).nullish(),
    tools: Tools.nullish(),
    tool_choice: ToolChoice.nullish(),
    parallel_tool_calls: z.boolean().nullish(),
    reasoning_effort: z.enum(REASONING_EFFORTS).nullish(),
    verbosity: z.enum(['low', 'medium', 'high']).nullish(),
    prompt_cache_key: z.string().max(MAX_CACHE_KEY_CHARS).nullish(),
    prompt_cache_options: PromptCacheOptions.nullish(),
  }),
)
export type ChatCompletionRequest = z.infer<typeof ChatCompletionRequest>

type CompletionPrompt = string | string[] | number[] | number[][]

const TOKEN_ID_MAX = 0xffff_ffff

const isTokenId = (value: unknown): boolean =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= TOKEN_ID_MAX

/**
 * The first thing wrong with a prompt field, and where. By hand, because a prompt may have a million token ids, and
 * because the kind of its first element says which of the four forms was meant.
 */
function promptFault(value: unknown, promptsMax: number): { path: number[]; message: string } | undefined {
  if (typeof value === 'string') return undefined
  const forms = `Expected a string, an array of token ids, or up to ${promptsMax} of either.`
  if (!Array.isArray(value) || value.length === 0) return { path: [], message: forms }
  const first: unknown = value[0]
  const wrongId = 'Expected a token id.'
  if (typeof first === 'number') {
    const at = value.findIndex((one) => !isTokenId(one))
    return at < 0 ? undefined : { path: [at], message: wrongId }
  }
  if (value.length > promptsMax) return { path: [], message: forms }
  for (const [at, one] of value.entries()) {
    if (typeof first === 'string' && typeof one !== 'string') return { path: [at], message: 'Expected a string.' }
    if (typeof first === 'string') continue
    if (!Array.isArray(one) || one.length === 0) return { path: [at], message: 'Expected an array of token ids.' }
    const wrong = one.findIndex((id) => !isTokenId(id))
    if (wrong >= 0) return { path: [at, wrong], message: wrongId }
  }
  return undefined
}

const prompt = late(() =>
  z.custom<CompletionPrompt>().superRefine((value, context) => {
    const fault = promptFault(value, MAX_CHOICES)
    if (fault !== undefined) context.addIssue({ code: 'custom', ...fault })
  }),
)

export const CompletionRequest = late(() =>
  z.object({
    ...generation(),
    prompt,
    echo: z.boolean().nullish(),
    best_of: z.int().min(1).nullish(),
    logprobs: z.int().min(0).max(MAX_COMPLETION_LOGPROBS).nullish(),
  }),
)
export type CompletionRequest = z.infer<typeof CompletionRequest>

/** An empty text has no meaning to embed, and the dialect refuses it. */
function inputFault(value: unknown): { path: number[]; message: string } | undefined {
  const fault = promptFault(value, MAX_EMBEDDING_INPUTS)
  if (fault !== undefined) return fault
  const message = 'An input must not be empty.'
  if (value === '') return { path: [], message }
  const at = Array.isArray(value) ? value.indexOf('') : -1
  return at < 0 ? undefined : { path: [at], message }
}

const input = late(() =>
  z.custom<CompletionPrompt>().superRefine((value, context) => {
    const fault = inputFault(value)
    if (fault !== undefined) context.addIssue({ code: 'custom', ...fault })
  }),
)

export const EmbeddingRequest = late(() =>
  z.object({
    model: modelName,
    input,
    encoding_format: z.enum(['float', 'base64']).nullish(),
    dimensions: z.int().min(1).max(MAX_DIMENSIONS).nullish(),
    user: endUser,
  }),
)
export type EmbeddingRequest = z.infer<typeof EmbeddingRequest>

export type FinishReason = 'stop' | 'length' | 'content_filter' | 'tool_calls'

export type Usage = {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  prompt_tokens_details: { cached_tokens: number; cache_write_tokens?: number }
  completion_tokens_details: { reasoning_tokens: number }
}

type ChatTokenLogprob = { token: string; logprob: number; bytes: number[] }
export type ChatLogprobs = { content: (ChatTokenLogprob & { top_logprobs: ChatTokenLogprob[] })[]; refusal: null }

export type ChatCompletion = {
  id: string
  object: 'chat.completion'
  created: number
  model: string
  choices: {
    index: number
    message: AssistantMessage
    logprobs: ChatLogprobs | null
    finish_reason: FinishReason
  }[]
  usage: Usage
}

export type ChatCompletionChunk = {
  id: string
  object: 'chat.completion.chunk'
  created: number
  model: string
  choices: {
    index: number
    delta: MessageDelta
    logprobs: ChatLogprobs | null
    finish_reason: FinishReason | null
  }[]
  /** Present only where the client asked: null on every chunk but the last. */
  usage?: Usage | null
}

export type CompletionLogprobs = {
  tokens: string[]
  token_logprobs: number[]
  top_logprobs: Record<string, number>[] | null
  /** Offset of each token from the start of the choice's text, in characters. */
  text_offset: number[]
}

/** Whole answers and chunks of a stream have one shape; only in chunks is `finish_reason` null. */
export type TextCompletion = {
  id: string
  object: 'text_completion'
  created: number
  model: string
  choices: {
    index: number
    text: string
    logprobs: CompletionLogprobs | null
    finish_reason: FinishReason | null
  }[]
  usage?: Usage | null
}

export type EmbeddingList = {
  object: 'list'
  /** `embedding` is little-endian 32-bit floats in base64 where `encoding_format` asked for it. */
  data: { object: 'embedding'; index: number; embedding: number[] | string }[]
  model: string
  usage: { prompt_tokens: number; total_tokens: number; prompt_tokens_details: { cached_tokens: number } }
}

export type ModelObject = { id: string; object: 'model'; created: number; owned_by: string }
