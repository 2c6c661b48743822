// The one internal form of a request that computes. Owns the shape every dialect is parsed into and every provider encodes from.
// Dialect-only matters (stream flags, field names) stay in gateway/routes.
import type { OutputFormat } from './output-format.ts'

export type ChatRole = 'system' | 'developer' | 'user' | 'assistant' | 'tool'

export type ChatMessage = {
  role: ChatRole
  /** Text only: other parts are refused at the edge until a target can take them. */
  content: string
  name?: string
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

export type Sampling = {
  /** 0 means greedy. Default 1. */
  temperature: number
  /** (0, 1], 1 = off. */
  topP: number
  /** 0 = off. */
  topK: number
  /** [0, 1], 0 = off. */
  minP: number
  /** [-2, 2], 0 = off. */
  presencePenalty: number
  /** [-2, 2], 0 = off. */
  frequencyPenalty: number
  /** >= MIN_REPETITION_PENALTY, 1 = off. */
  repetitionPenalty: number
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
  /** The caller's own word for its customer, 1..MAX_END_USER_CHARS characters; for limits and reports. */
  endUser?: string
}

export const NEUTRAL_SAMPLING: Sampling = {
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
  logitBias: [],
}

/** The dialect's own limit; also bounds the scanner for stop strings. */
export const MAX_STOP_STRINGS = 4
export const MAX_STOP_BYTES = 1024
/** Bounds the fan-out of one call: prompts x n sequences. */
export const MAX_CHOICES = 16
export const MAX_LOGPROBS_TOP = 20
/** Logits are divided by the penalty: a smaller one leaves no finite 32-bit float. */
export const MIN_REPETITION_PENALTY = 0.01
export const MAX_END_USER_CHARS = 256
export const MAX_LOGIT_BIAS = 1024
export const MAX_MESSAGES = 4096
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
