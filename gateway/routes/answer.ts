// What the lifecycle needs of a dialect to answer in it. Owns the interface and what the OpenAI answers share.
import type { Usage as WireUsage } from '../../protocol/dialects/openai.ts'
import { inputTokens, outputTokens, type Usage } from '../meter/usage.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { CollectedChoice } from '../stream/collect.ts'

export type VectorFormat = 'float' | 'base64'

export interface AnswerEncoder {
  /** Text of the event stream for a batch; empty where nothing of it is for the client. */
  events(batch: ProviderEvent[]): string
  /** What closes a complete stream: the usage chunk where it was asked for, and the end mark. */
  end(usage: Usage): string
  /** The body of an answer that is not streamed. */
  whole(choices: CollectedChoice[], usage: Usage): unknown
}

export type AnswerMeta = {
  requestId: string
  /** The name the caller used: aliases stay what the caller knows. */
  model: string
  createdAtMs: number
  includeUsage: boolean
  /** Of the vectors in an embedding's answer; absent: numbers. */
  vectorFormat?: VectorFormat
}

export const createdSeconds = (meta: AnswerMeta): number => Math.floor(meta.createdAtMs / 1000)
export const answerId = (kind: string, meta: AnswerMeta): string => `${kind}-${meta.requestId.replaceAll('-', '')}`

export function wireUsage(usage: Usage): WireUsage {
  const prompt = inputTokens(usage)
  const completion = outputTokens(usage)
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: usage.inputCacheRead },
    completion_tokens_details: { reasoning_tokens: usage.outputReasoning },
  }
}
