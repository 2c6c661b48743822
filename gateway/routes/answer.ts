// What the lifecycle needs of a dialect to answer in it. Owns the interface and what the OpenAI answers share.
import type { Usage as WireUsage } from '../../protocol/dialects/openai.ts'
import type { Failure } from '../../protocol/errors.ts'
import { type ErrorDialect, failureBody } from '../errors.ts'
import { inputTokens, outputTokens, type Usage } from '../meter/usage.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { CollectedChoice } from '../stream/collect.ts'
import { sseData } from '../stream/sse.ts'
import { type FieldNames, inCallersWords } from './field-names.ts'

export type VectorFormat = 'float' | 'base64'

export interface AnswerEncoder {
  /** Whose words its errors are told in. */
  readonly errorDialect: ErrorDialect
  /** What its callers call the fields of the internal form. Absent: as that does. */
  readonly fieldNames?: FieldNames
  /** Text of the event stream for a batch; empty where nothing of it is for the client. */
  events(batch: ProviderEvent[]): string
  /**
   * What closes a complete stream: the usage chunk where it was asked for, and the end mark. A promise where something must
   * be durable before the client knows that it is over; it never rejects.
   */
  end(usage: Usage): string | Promise<string>
  /** What closes a stream that broke off: an error event, and nothing that looks like a complete end. A promise as `end`'s. */
  failure(failure: Failure, usage: Usage): string | Promise<string>
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
  const written = usage.inputCacheWrite5m + usage.inputCacheWrite1h
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: {
      cached_tokens: usage.inputCacheRead,
      ...(written > 0 ? { cache_write_tokens: written } : {}),
    },
    completion_tokens_details: { reasoning_tokens: usage.outputReasoning },
  }
}

/** The error event of OpenAI's streams of chunks. */
export const chunkFailure = (failure: Failure, names: FieldNames): string =>
  sseData(failureBody(inCallersWords(failure, names)))
