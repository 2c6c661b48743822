// What a dialect's parser makes of a body. Owns the types only, so that parsers know nothing of the path behind them.
import type { InferenceRequest } from '../../protocol/request.ts'
import type { VectorFormat } from './answer.ts'

/** What the caller wants of the wire, apart from what is generated. */
export type Delivery = { stream: boolean; includeUsage: boolean; vectorFormat?: VectorFormat }

export type ParsedRequest = { request: InferenceRequest; delivery: Delivery }
