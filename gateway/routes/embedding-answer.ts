// The answer of /v1/embeddings. Owns its shape and the two forms of its vectors; the vectors come from any provider. Pure.

import type { EmbeddingList } from '../../protocol/dialects/openai.ts'
import type { Failure } from '../../protocol/errors.ts'
import { inputTokens, type Usage } from '../meter/usage.ts'
import type { CollectedChoice } from '../stream/collect.ts'
import { decodeVector } from '../stream/vector.ts'
import { type AnswerEncoder, type AnswerMeta, chunkFailure } from './answer.ts'
import { EMBEDDING_NAMES } from './field-names.ts'

export class EmbeddingAnswer implements AnswerEncoder {
  readonly errorDialect = 'openai'
  readonly fieldNames = EMBEDDING_NAMES
  readonly #meta: AnswerMeta

  constructor(meta: AnswerMeta) {
    this.#meta = meta
  }

  /** The dialect has no stream of vectors, so no request asks for one. */
  events(): string {
    return ''
  }

  end(): string {
    return ''
  }

  failure(failure: Failure): string {
    return chunkFailure(failure, this.fieldNames)
  }

  whole(choices: CollectedChoice[], usage: Usage): EmbeddingList {
    const isText = this.#meta.vectorFormat === 'base64'
    const prompt = inputTokens(usage)
    return {
      object: 'list',
      data: choices.map(({ index, values = '' }) => ({
        object: 'embedding',
        index,
        embedding: isText ? values : decodeVector(values),
      })),
      model: this.#meta.model,
      usage: {
        prompt_tokens: prompt,
        total_tokens: prompt,
        prompt_tokens_details: { cached_tokens: usage.inputCacheRead },
      },
    }
  }
}
