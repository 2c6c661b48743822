// Bounds on what a request can use, before it is sent. Owns the reasoning; money is made of them elsewhere. Pure.
import { type ContentPart, choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import type { Estimate } from '../account/contract.ts'
import type { Target } from '../policy/plan.ts'

/** Role marks and separators that a chat template adds around one message. */
const MESSAGE_TOKENS = 16
/** What a template adds once: begin marks, a default system prompt, the opening of the answer. */
const TEMPLATE_TOKENS = 256
/** The dearest known counting of one image: 2,833 tokens and eight tiles of 5,667 (gpt-4o-mini, high detail). */
const IMAGE_TOKENS_MAX = 48_169
/** A photograph at the size most vendors scale it to. */
const LIKELY_IMAGE_TOKENS = 700
/** What vendors put before a list of tools; the longest published one has 530 tokens. */
const TOOL_PROMPT_TOKENS = 1024
/** Begin and end marks around a completion's prompt. */
const PROMPT_TOKENS = 4
/** Text per token where only a fair guess is wanted; English has about four bytes, other scripts fewer tokens a byte. */
const BYTES_PER_TOKEN = 4

const encoder = new TextEncoder()
const utf8Bytes = (text: string): number => encoder.encode(text).byteLength

type PromptSize = { textBytes: number; tokenIds: number; overheadTokens: number; images: number }

/** Bytes of all text the model may be shown, tokens of all prompts given as ids, and how many images there are. */
function promptSize(request: InferenceRequest): PromptSize {
  const { input } = request
  // Targets that keep answers to a schema may show it to the model.
  let textBytes = request.outputFormat === undefined ? 0 : utf8Bytes(JSON.stringify(request.outputFormat))
  let tokenIds = 0
  if (input.kind === 'chat') {
    let parts = 0
    let images = 0
    for (const message of input.messages) {
      textBytes += utf8Bytes(message.name ?? '') + utf8Bytes(message.toolCallId ?? '')
      parts += message.content.length
      for (const part of message.content) {
        if (part.type === 'image') images++
        else textBytes += partBytes(part)
      }
    }
    const tools = request.tools ?? []
    // As JSON, the longest of the forms in which models are shown what they may call.
    if (tools.length > 0) textBytes += utf8Bytes(JSON.stringify(tools))
    const overheadTokens =
      TEMPLATE_TOKENS +
      MESSAGE_TOKENS * (input.messages.length + parts + tools.length) +
      (tools.length > 0 ? TOOL_PROMPT_TOKENS : 0)
    return { textBytes, tokenIds, overheadTokens, images }
  }
  for (const prompt of input.prompts) {
    if ('text' in prompt) textBytes += utf8Bytes(prompt.text)
    else tokenIds += prompt.tokenIds.length
  }
  return { textBytes, tokenIds, overheadTokens: PROMPT_TOKENS * input.prompts.length, images: 0 }
}

/** A seal is sent back too, and what is in it may be counted as the thought that it is. */
function partBytes(part: Exclude<ContentPart, { type: 'image' }>): number {
  switch (part.type) {
    case 'text':
    case 'refusal':
      return utf8Bytes(part.text)
    case 'thought':
      return utf8Bytes(part.text) + utf8Bytes(part.seal?.value ?? '')
    case 'tool_call':
      return utf8Bytes(part.id) + utf8Bytes(part.name) + utf8Bytes(part.arguments) + utf8Bytes(part.seal?.value ?? '')
    default:
      return part satisfies never
  }
}

/** Longest prompt given as token ids; 0 where none is. It is exact, so a window too small for it is known at once. */
export function longestTokenPrompt(request: InferenceRequest): number {
  if (request.input.kind === 'chat') return 0
  return request.input.prompts.reduce(
    (most, prompt) => ('tokenIds' in prompt ? Math.max(most, prompt.tokenIds.length) : most),
    0,
  )
}

/** Output bound for one choice at a target; absent where neither caller nor target names one below the window. */
export function maxOutputTokens(request: InferenceRequest, target: Target): number | undefined {
  // Nothing is generated, and no bound is sent.
  if (request.input.kind === 'embedding') return undefined
  const bounds = [request.maxOutputTokens, target.outputTokensMax].filter((bound) => bound !== undefined)
  return bounds.length === 0 ? undefined : Math.min(target.contextTokens, ...bounds)
}

/**
 * The most the request can use at a target. A byte-level tokenizer never makes more tokens than there are bytes, and
 * no prompt longer than the window is computed; each choice can fill what its bound or the window allows. No request
 * that can be expressed today makes a target do anything it bills by the call.
 */
export function worstCase(request: InferenceRequest, target: Target): Estimate {
  const { textBytes, tokenIds, overheadTokens, images } = promptSize(request)
  const imageTokens = images * (target.imageTokensMax ?? IMAGE_TOKENS_MAX)
  const prompts = request.input.kind === 'chat' ? 1 : request.input.prompts.length
  const inputTokens = Math.min(textBytes + tokenIds + imageTokens + overheadTokens, target.contextTokens * prompts)
  if (request.input.kind === 'embedding') return { inputTokens, outputTokens: 0, calls: 0 }
  return {
    inputTokens,
    outputTokens: (maxOutputTokens(request, target) ?? target.contextTokens) * choiceCount(request),
    calls: 0,
  }
}

/** A low guess of the prompt's tokens, for an upstream that took the prompt and never said how long it was. */
export function likelyInputTokens(request: InferenceRequest): number {
  const { textBytes, tokenIds, images } = promptSize(request)
  return Math.ceil(textBytes / BYTES_PER_TOKEN) + tokenIds + images * LIKELY_IMAGE_TOKENS
}
