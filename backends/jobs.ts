// What a dispatch asks of the engines, ready to run. Owns telling generations from embeddings; preparing them is dispatch.ts and
// embedding.ts, running them session.ts and embedding.ts.
import { createHash, randomBytes } from 'node:crypto'
import type { DispatchRequest } from '../protocol/dispatch.ts'
import type { Failure } from '../protocol/errors.ts'
import { ok, type Result } from '../protocol/result.ts'
import { prepareDispatch, type TextModel } from './dispatch.ts'
import { type EmbeddingLimits, isEmbedding, prepareEmbedding, runEmbedding } from './embedding.ts'
import { runSession, type SessionContext, type SessionResult } from './session.ts'

/** `slots` are sequences at once. */
export type EngineJob = { slots: number; run: (context: SessionContext) => Promise<SessionResult> }

export type JobOptions = {
  model: TextModel
  limits: Omit<EmbeddingLimits, 'pooling'>
  pooling: EmbeddingLimits['pooling']
}

const randomSeed = (): bigint => randomBytes(8).readBigUInt64LE()

/** What cannot be served is refused before anything is queued. */
export async function prepareJob(
  request: DispatchRequest,
  { model, limits, pooling }: JobOptions,
): Promise<Result<EngineJob, Failure>> {
  const tenant = createHash('sha256').update(request.tenant).digest().readBigUInt64LE()
  if (isEmbedding(request)) {
    const embedding = await prepareEmbedding(request, model, { ...limits, pooling }, tenant)
    if (!embedding.ok) return embedding
    return ok({ slots: embedding.value.slots, run: (context) => runEmbedding(embedding.value, context) })
  }
  const prepared = await prepareDispatch(request, model, limits, { randomSeed, tenant })
  if (!prepared.ok) return prepared
  return ok({ slots: prepared.value.choices.length, run: (context) => runSession(prepared.value, context) })
}
