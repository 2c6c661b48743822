// The one internal form of a request that computes. Owns the shape every dialect is parsed into and every provider encodes from.
// Dialect-only matters (stream flags, field names) stay in gateway/routes.
import type { OutputFormat } from './output-format.ts'

export type ChatRole = 'system' | 'developer' | 'user' | 'assistant' | 'tool'

export type ChatMessage = {
  role: ChatRole
  /**
   * In the caller's order. Assistants: text, refusals, thoughts and tool calls; users: text and images; tools: text and
   * images; the others: text. Empty only where an assistant said nothing.
   */
  content: ContentPart[]
  name?: string
  /** On tool messages: id of the call that this answers. */
  toolCallId?: string
  /** On tool messages: the tool failed. */
  isError?: boolean
}

export type ContentPart = (
  | { type: 'text'; text: string }
  | { type: 'image'; source: ImageSource; detail?: ImageDetail }
  | { type: 'refusal'; text: string }
  /** `arguments` is JSON text as the model wrote it, which may not parse. */
  | { type: 'tool_call'; id: string; name: string; arguments: string; seal?: Seal }
  /** What a model thought aloud. Without its seal only the text is of use, and only where a target asks for it. */
  | { type: 'thought'; text: string; seal?: Seal }
) & { cache?: CacheHint }

export const IMAGE_DETAILS = ['auto', 'low', 'high', 'original'] as const
export type ImageDetail = (typeof IMAGE_DETAILS)[number]

export type ImageSource =
  /** `data` is base64; `mediaType` one of IMAGE_MEDIA_TYPES. */
  | { kind: 'data'; mediaType: string; data: string }
  /** Never fetched by the gateway: targets that cannot fetch it themselves refuse it. */
  | { kind: 'url'; url: string }

export const IMAGE_MEDIA_TYPES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'] as const

/**
 * A provider's proof of a thought or a call, to be given back word for word. `by` is the kind of provider that made it:
 * to another kind it means nothing, and it is left out there.
 */
export type Seal = {
  by: string
  value: string /** The thought itself is encrypted in `value`. */
  isRedacted?: boolean
}

/** The prompt up to and with this part may be kept by the provider. Default five minutes. */
export type CacheHint = { ttl: '5m' | '1h' }

export type Tool = {
  /** 1 to 128 of letters, digits, `_`, `-` and `.`. */
  name: string
  description?: string
  /** JSON schema of an object; absent: no parameters. */
  parameters?: Record<string, unknown>
  /** The arguments must match the schema exactly, where a target can promise it. */
  strict?: boolean
  /** The arguments may come before they are known to be valid JSON, where a target can be told. */
  eagerInput?: boolean
  /** Arguments that match the schema, to learn from; left out where a target has no place for them. */
  inputExamples?: Record<string, unknown>[]
  cache?: CacheHint
}

export type ToolChoice = { mode: 'auto' | 'none' | 'required' } | { mode: 'tool'; name: string }

export const REASONING_EFFORTS = ['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max'] as const
export type ReasoningEffort = (typeof REASONING_EFFORTS)[number]

/** How much a model may think. An effort or a budget, as the caller's dialect has it; targets translate. */
export type Reasoning = {
  effort?: ReasoningEffort
  /** Most tokens of thought; counts within `maxOutputTokens`. */
  budgetTokens?: number
  /** The caller wants to see the thoughts, or a summary. Default: what the target shows by itself. */
  show?: boolean
  /** Thinking itself was asked for, and not only an effort: a target that cannot do it now refuses. Default: it answers without. */
  isRequired?: boolean
}

/** A completion prompt is text or the caller's own token ids. */
export type Prompt = { text: string } | { tokenIds: number[] }

export type GenerationInput =
  | { kind: 'chat'; messages: ChatMessage[] }
  /** Choices are numbered prompt by prompt: index = promptIndex * n + i. */
  | { kind: 'completion'; prompts: Prompt[]; echo: boolean }

/** One vector per prompt, in their order; nothing is generated. */
export type EmbeddingInput = {
  kind: 'embedding'
  prompts: Prompt[]
  /** Length of the vectors; absent: the model's own. */
  dimensions?: number
}

/** Absent: the caller said nothing, and the target's own default applies, which is not the same everywhere. */
export type Sampling = {
  /** 0 means greedy. */
  temperature?: number
  /** (0, 1], 1 = off. */
  topP?: number
  /** 0 = off. */
  topK?: number
  /** [0, 1], 0 = off. */
  minP?: number
  /** [-2, 2], 0 = off. */
  presencePenalty?: number
  /** [-2, 2], 0 = off. */
  frequencyPenalty?: number
  /** >= MIN_REPETITION_PENALTY, 1 = off. */
  repetitionPenalty?: number
  /** Without one the backend draws one per choice. */
  seed?: number
  /** Token id → bias in [-100, 100]. */
  logitBias: { tokenId: number; bias: number }[]
}

export type InferenceRequest = {
  /** The name the caller used; routing turns it into targets. */
  model: string
  input: GenerationInput | EmbeddingInput
  /** Without meaning for an embedding, which carries `NEUTRAL_SAMPLING`. */
  sampling: Sampling
  /** Choices per prompt, >= 1. */
  n: number
  /** Absent: up to the end of the context window. */
  maxOutputTokens?: number
  /** At most MAX_STOP_STRINGS, none empty. */
  stop: string[]
  /** Absent: off. `top` alternatives beside the chosen token, 0..20. */
  logprobs?: { top: number }
  /** Absent: any text. */
  outputFormat?: OutputFormat
  /** Chat only. At most MAX_TOOLS, names unique. Absent: none. */
  tools?: Tool[]
  /** Absent: `auto`. Never without `tools`. */
  toolChoice?: ToolChoice
  /** Whether one answer may call several tools. Absent: the target's default, which is yes. */
  parallelToolCalls?: boolean
  /** Chat only: the last message is an assistant's, and the answer goes on from its last word. Absent: it is a turn of its own. */
  continuesAnswer?: boolean
  /** Absent: the target's default. */
  reasoning?: Reasoning
  /** How long the answer should be; absent: the target's default. */
  verbosity?: 'low' | 'medium' | 'high'
  /** Requests with one key have a long prefix in common: for providers that route by it. At most MAX_CACHE_KEY_CHARS. */
  promptCacheKey?: string
  /**
   * Nothing of the prompt is to be kept but what is marked: for providers that keep it of their own accord and charge for that. Absent:
   * the provider's habit.
   */
  promptCacheMode?: 'explicit'
  /** The caller's own word for its customer, 1..MAX_END_USER_CHARS characters; for limits and reports. */
  endUser?: string
}

/** Nothing said. */
export const NEUTRAL_SAMPLING: Sampling = { logitBias: [] }

/** Of any dialect; bounds the scanner for stop strings. */
export const MAX_STOP_STRINGS = 16
export const MAX_STOP_BYTES = 1024
/** Bounds the fan-out of one call: prompts x n sequences. */
export const MAX_CHOICES = 16
export const MAX_LOGPROBS_TOP = 20
/** Logits are divided by the penalty: a smaller one leaves no finite 32-bit float. */
export const MIN_REPETITION_PENALTY = 0.01
export const MAX_END_USER_CHARS = 256
export const MAX_CACHE_KEY_CHARS = 256
export const MAX_LOGIT_BIAS = 1024
export const MAX_MESSAGES = 4096
/** The largest of the vendors' own limits on tools. */
export const MAX_TOOLS = 128
/** The dialect's own limit on the texts of one embedding request. */
export const MAX_EMBEDDING_INPUTS = 2048
/** Of all inputs together, also the dialect's: bounds the work that one request may queue at a backend. */
export const MAX_EMBEDDING_TOKENS = 300_000
/** Inputs times dimensions. As decimal numbers they take some twenty bytes each, and an answer is made in one piece. */
export const MAX_EMBEDDING_VALUES = 1024 * 1024
/** Larger bodies are refused before they are parsed. */
export const MAX_BODY_BYTES = 8 * 1024 * 1024

/** Number of sequences the request makes an engine run. */
export function choiceCount(request: InferenceRequest): number {
  return request.n * (request.input.kind === 'chat' ? 1 : request.input.prompts.length)
}

/** All text of a message that a model reads as text: thoughts and calls left out. */
export function messageText(message: ChatMessage): string {
  let text = ''
  for (const part of message.content) if (part.type === 'text' || part.type === 'refusal') text += part.text
  return text
}
