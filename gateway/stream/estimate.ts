// Bounds on what a request can use, before it is sent. Owns the reasoning; money is made of them elsewhere. Pure.
import { choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import type { Estimate } from '../account/contract.ts'
import type { Target } from '../policy/plan.ts'

/** Role marks and separators that a chat template adds around one message. */
const MESSAGE_TOKENS = 16
/** What a template adds once: begin marks, a default system prompt, the opening of the answer. */
const TEMPLATE_TOKENS = 256
/** Begin and end marks around a completion's prompt. */
const PROMPT_TOKENS = 4
/** Text per token where only a fair guess is wanted; English has about four bytes, other scripts fewer tokens a byte. */
const BYTES_PER_TOKEN = 4

const encoder = new TextEncoder()
const utf8Bytes = (text: string): number => encoder.encode(text).byteLength

/** Bytes of all text the model may be shown, and tokens of all prompts given as ids. */
function promptSize(request: InferenceRequest): { textBytes: number; tokenIds: number; overheadTokens: number } {
  const { input } = request
  // Targets that keep answers to a schema may show it to the model.
  let textBytes = request.outputFormat === undefined ? 0 : utf8Bytes(JSON.stringify(request.outputFormat))
  let tokenIds = 0
  if (input.kind === 'chat') {
    for (const message of input.messages) textBytes += utf8Bytes(message.content) + utf8Bytes(message.name ?? '')
    return { textBytes, tokenIds, overheadTokens: TEMPLATE_TOKENS + MESSAGE_TOKENS * input.messages.length }
  }
  for (const prompt of input.prompts) {
    if ('text' in prompt) textBytes += utf8Bytes(prompt.text)
    else tokenIds += prompt.tokenIds.length
  }
  return { textBytes, tokenIds, overheadTokens: PROMPT_TOKENS * input.prompts.length }
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
  const { textBytes, tokenIds, overheadTokens } = promptSize(request)
  const prompts = request.input.kind === 'chat' ? 1 : request.input.prompts.length
  const inputTokens = Math.min(textBytes + tokenIds + overheadTokens, target.contextTokens * prompts)
  if (request.input.kind === 'embedding') return { inputTokens, outputTokens: 0, calls: 0 }
  return {
    inputTokens,
    outputTokens: (maxOutputTokens(request, target) ?? target.contextTokens) * choiceCount(request),
    calls: 0,
  }
}

/** A low guess of the prompt's tokens, for an upstream that took the prompt and never said how long it was. */
export function likelyInputTokens(request: InferenceRequest): number {
  const { textBytes, tokenIds } = promptSize(request)
  return Math.ceil(textBytes / BYTES_PER_TOKEN) + tokenIds
}
