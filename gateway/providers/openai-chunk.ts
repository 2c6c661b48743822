// One chunk or whole body of an OpenAI-compatible server. Owns the tolerant schema, and where in it text, thoughts,
// refusals, calls and probabilities stand; what follows from them is openai-decoder.ts. Pure.
import * as z from 'zod'
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import { late } from '../../protocol/late.ts'
import { isJson, type Json } from '../meter/normalise.ts'
import { encodeVector } from '../stream/vector.ts'

const TokenLogprob = late(() =>
  z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.number()).nullish() }),
)

/** Some servers write what they have not as `false`, an empty text or an empty object. */
const isNothing = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  value === false ||
  value === '' ||
  (isJson(value) && Object.keys(value).length === 0)

/** Whether a field for an error holds one. */
export const isFault = (value: unknown): boolean => !isNothing(value)

const orNothing = <T extends z.ZodType>(type: T) =>
  z.preprocess((value) => (isNothing(value) ? undefined : value), type.nullish())

/** A number, which some servers write as text. */
const Index = late(() =>
  z.union([
    z.number().int().nonnegative(),
    z
      .string()
      .regex(/^\d{1,4}$/)
      .transform(Number),
  ]),
)

/** Text, or parts of it: Mistral sends parts as soon as there are thoughts among them. */
const Content = late(() => z.union([z.string(), z.array(z.unknown())]))

const FunctionCall = late(() => z.object({ name: orNothing(z.string()), arguments: z.unknown() }).partial())

const ToolCall = late(() =>
  z.object({
    // Without an index the id tells, or the order.
    index: Index.nullish().catch(undefined),
    id: z
      .union([z.string(), z.number().transform(String)])
      .nullish()
      .catch(undefined),
    function: orNothing(FunctionCall),
  }),
)
export type ToolCallPiece = z.infer<typeof ToolCall>

/** A piece of a message, or a whole one: the fields are the same. */
const Message = late(() =>
  z
    .object({
      content: orNothing(Content),
      refusal: z.string().nullish().catch(undefined),
      /** What a model thinks aloud has three names. */
      reasoning_content: z.unknown(),
      reasoning: z.unknown(),
      reasoning_details: z.unknown(),
      tool_calls: orNothing(z.array(ToolCall)),
      function_call: orNothing(FunctionCall),
    })
    .partial(),
)

const Choice = late(() =>
  z.object({
    index: orNothing(Index),
    delta: Message.nullish(),
    message: Message.nullish(),
    text: orNothing(z.string()),
    finish_reason: orNothing(z.string()),
    /** The stop string that ended it, where a server tells; a token's id, where that was it. */
    stop_reason: z.unknown().optional(),
    error: z.unknown().optional(),
    logprobs: z
      .object({
        content: z.array(TokenLogprob.extend({ top_logprobs: z.array(TokenLogprob).nullish() })).nullish(),
        tokens: z.array(z.string()).nullish(),
        token_logprobs: z.array(z.number().nullable()).nullish(),
        top_logprobs: z.array(z.record(z.string(), z.number()).nullable()).nullish(),
      })
      .nullish()
      // Probabilities are an extra: those of an unknown shape are none.
      .catch(undefined),
  }),
)
export type Choice = z.infer<typeof Choice>

/** By hand below: a validator that visits each of a million numbers takes seconds. */
const Vector = late(() => z.object({ index: z.number().int().nonnegative(), embedding: z.unknown() }))

/** Unknown fields pass, and of known ones only what is read has to be right. */
const Chunk = late(() =>
  z.object({
    id: z.string().nullish().catch(undefined),
    data: z.array(Vector).nullish(),
    choices: z.array(Choice).nullish(),
    usage: z.unknown().optional(),
    /** Its name in one dialect. */
    usageMetadata: z.unknown().optional(),
    /** Where Groq puts it in streams. */
    x_groq: z.object({ usage: z.unknown() }).partial().nullish().catch(undefined),
    service_tier: z.string().nullish().catch(undefined),
    error: z.unknown().optional(),
  }),
)

type Chunk = z.infer<typeof Chunk>

/** What each field of a plain piece may be. Absent and null are nothing everywhere. */
const isPlainText = (value: unknown): boolean => typeof value === 'string' || value === undefined || value === null
const isNone = (value: unknown): boolean => value === undefined || value === null

function isPlainChoice(choice: unknown): boolean {
  if (!isJson(choice) || !isJson(choice.delta)) return false
  const { index, message, text, finish_reason: reason, logprobs, delta } = choice
  return (
    (index === undefined || (Number.isInteger(index) && Number(index) >= 0)) &&
    isNone(message) &&
    isNone(text) &&
    isNone(logprobs) &&
    isPlainText(reason) &&
    isPlainText(delta.content) &&
    isPlainText(delta.refusal) &&
    isNone(delta.tool_calls) &&
    isNone(delta.function_call)
  )
}

/**
 * A chunk as the schema would give it. Nearly all are a piece of text or a count, for which looking at the fields one by one
 * says the same in a tenth of the time; the schema decides about everything else. Undefined: of an unknown shape.
 */
export function readChunk(json: unknown): Chunk | undefined {
  if (isPlainChunk(json)) return json
  const parsed = Chunk.safeParse(json)
  return parsed.success ? parsed.data : undefined
}

const isPlainChunk = (json: unknown): json is Chunk =>
  isJson(json) &&
  isPlainText(json.id) &&
  isPlainText(json.service_tier) &&
  isNone(json.data) &&
  isNone(json.x_groq) &&
  Array.isArray(json.choices) &&
  json.choices.every(isPlainChoice)

/** What one choice of a chunk says. */
export type Said = {
  thought: string
  /** Objects to be given back unchanged with the thought. */
  details: Json[]
  text: string
  refusal: string
  calls: ToolCallPiece[]
}

/**
 * Some servers send a whole message beside an empty piece.
 * @param hasStreamed The choice said something before, which a whole message behind it would only repeat.
 */
export function saidOf({ delta, message, text }: Choice, hasStreamed: boolean): Said {
  const said = saidIn(delta ?? message, text)
  const isInMessage = delta !== undefined && delta !== null && !hasStreamed && !isAnything(said)
  return isInMessage ? saidIn(message, text) : said
}

export const isAnything = ({ thought, text, refusal, calls, details }: Said): boolean =>
  thought !== '' || text !== '' || refusal !== '' || calls.length > 0 || details.length > 0

function saidIn(message: Choice['message'], choiceText: Choice['text']): Said {
  const parts = partsOf(message?.content)
  const details = Array.isArray(message?.reasoning_details) ? message.reasoning_details.filter(isJson) : []
  const named = textOr(message?.reasoning_content) ?? textOr(message?.reasoning)
  const legacy = message?.function_call
  return {
    thought: named ?? (parts.thought || details.map(detailText).join('')),
    details,
    text: parts.text || (choiceText ?? ''),
    refusal: message?.refusal ?? '',
    calls: message?.tool_calls ?? (legacy === undefined || legacy === null ? [] : [{ index: 0, function: legacy }]),
  }
}

const textOr = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined)

function partsOf(content: string | unknown[] | null | undefined): { text: string; thought: string } {
  if (typeof content === 'string') return { text: content, thought: '' }
  let text = ''
  let thought = ''
  for (const part of content ?? []) {
    if (!isJson(part)) continue
    if (part.type === 'thinking') thought += thinkingText(part.thinking)
    else if (typeof part.text === 'string') text += part.text
  }
  return { text, thought }
}

const thinkingText = (thinking: unknown): string => {
  if (typeof thinking === 'string') return thinking
  return Array.isArray(thinking) ? thinking.map((part) => (isJson(part) ? (textOr(part.text) ?? '') : '')).join('') : ''
}

/** Of a detail, what a person may read; encrypted ones have nothing. */
const detailText = (detail: Json): string => textOr(detail.text) ?? textOr(detail.summary) ?? ''

const encoder = new TextEncoder()

const tokenOf = (text: string, logprob: number, bytes?: number[] | null) => ({
  text,
  bytes: bytes ?? [...encoder.encode(text)],
  logprob,
})

export function logprobsOf(choice: Choice): LogprobEntry[] | undefined {
  const from = choice.logprobs
  if (from === undefined || from === null) return undefined
  if (from.content !== undefined && from.content !== null) {
    return from.content.map((one) => ({
      ...tokenOf(one.token, one.logprob, one.bytes),
      top: (one.top_logprobs ?? []).map((top) => tokenOf(top.token, top.logprob, top.bytes)),
    }))
  }
  return (from.tokens ?? []).map((token, i) => ({
    ...tokenOf(token, from.token_logprobs?.[i] ?? 0),
    top: Object.entries(from.top_logprobs?.[i] ?? {}).map(([text, logprob]) => tokenOf(text, logprob)),
  }))
}

const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/

/** A vector in either of its two forms as base64; undefined where it is neither. */
export function vectorText(embedding: unknown): string | undefined {
  if (typeof embedding === 'string') return BASE64.test(embedding) ? embedding : undefined
  if (!Array.isArray(embedding) || embedding.length === 0) return undefined
  return embedding.every((value) => Number.isFinite(value)) ? encodeVector(embedding) : undefined
}
