// An embedding request, from its inputs to one vector each. Owns bounds, how many sequences run at once, the length of
// the vectors and their norm; tokens are dispatch.ts, the pooled states are the engine's.
import type { DispatchEvent, DispatchRequest, DispatchUsage } from '../protocol/dispatch.ts'
import type { Pooling } from '../protocol/engine-frames.ts'
import type { Failure } from '../protocol/errors.ts'
import { MAX_EMBEDDING_TOKENS, MAX_EMBEDDING_VALUES } from '../protocol/request.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import { type EngineLimits, encodePrompt, type TextModel } from './dispatch.ts'
import type { Sequence, SequenceEnd, SequenceParameters } from './engine/client.ts'
import { GREEDY } from './engine/greedy.ts'
import { outcomeOf } from './sequence-end.ts'
import { CANCEL_WAIT_MS, capacityEvents, type SessionContext, type SessionResult } from './session.ts'

export type EmbeddingLimits = EngineLimits & {
  /** Width of the engine's vectors; 0: it makes none. */
  embeddingDims: number
  pooling: Pooling
}

export type EmbeddingRequest = DispatchRequest & { input: { kind: 'embedding' } }

export type PreparedEmbedding = {
  prompts: number[][]
  /** Of the vectors that go out. */
  dimensions: number
  /** Sequences at once. */
  slots: number
  parameters: Omit<SequenceParameters, 'prompt' | 'deadlineMs'>
}

/** A request of many inputs leaves this share of the engine's places to others. */
const SLOTS_SHARE = 1 / 2

export const isEmbedding = (request: DispatchRequest): request is EmbeddingRequest => request.input.kind === 'embedding'

/** Tokenises and checks; what cannot be served is refused before anything is queued. */
export async function prepareEmbedding(
  request: EmbeddingRequest,
  model: TextModel,
  limits: EmbeddingLimits,
  tenant: bigint,
): Promise<Result<PreparedEmbedding, Failure>> {
  const { embeddingDims } = limits
  if (embeddingDims === 0) return err(invalid('this model gives no embeddings', 'model'))
  const dimensions = request.input.dimensions ?? embeddingDims
  const refusal = dimensionsFault(dimensions, embeddingDims, model.embeddingSizes)
  if (refusal !== undefined) return err(refusal)
  const inputs = request.input.prompts
  if (inputs.length * embeddingDims > MAX_EMBEDDING_VALUES) {
    const most = Math.floor(MAX_EMBEDDING_VALUES / embeddingDims)
    const message = `${inputs.length} inputs were given; with vectors of ${embeddingDims} values at most ${most} are answered at once`
    return err(invalid(message, 'input'))
  }
  const prompts: number[][] = []
  let tokens = 0
  for (const [index, input] of inputs.entries()) {
    const encoded = await encodePrompt(input, model, limits, 'input')
    if (!encoded.ok) return encoded
    const { endId } = model.tokenizer
    // The caller's own ids are taken as they are.
    const ids = endId === undefined || 'tokenIds' in input ? encoded.value.ids : [...encoded.value.ids, endId]
    if (ids.length === 0) return err(invalid(`input ${index} has no tokens`, 'input'))
    if (ids.length >= limits.contextTokens) {
      const message = `input ${index} has ${encoded.value.complete ? '' : 'more than '}${ids.length} tokens; at most ${limits.contextTokens - 1} fit the context window`
      return err({ code: 'context_length_exceeded', message, param: 'input' })
    }
    prompts.push(ids)
    tokens += ids.length
    if (tokens > MAX_EMBEDDING_TOKENS)
      return err(invalid(`the inputs have more than ${MAX_EMBEDDING_TOKENS} tokens together`, 'input'))
  }
  const slots = Math.max(1, Math.min(prompts.length, Math.floor(limits.sequencesMax * SLOTS_SHARE)))
  return ok({
    prompts,
    dimensions,
    slots,
    parameters: {
      ...UNUSED_SAMPLING,
      priority: request.priority,
      tenant,
      salt: tenant,
      pooling: limits.pooling,
    },
  })
}

/** The wire has these for every sequence. */
const UNUSED_SAMPLING = { ...GREEDY, maxNewTokens: 1, creditTokens: 1 }

const invalid = (message: string, param: string): Failure => ({ code: 'invalid_request', message, param })

/** A vector cut short is only a good one where the model was trained for it, which its folder says. */
function dimensionsFault(
  dimensions: number,
  embeddingDims: number,
  sizes: TextModel['embeddingSizes'],
): Failure | undefined {
  if (dimensions === embeddingDims) return undefined
  if (sizes === undefined)
    return invalid(`this model gives vectors of ${embeddingDims} values and is not made for others`, 'dimensions')
  const isAllowed = sizes === 'any' ? dimensions < embeddingDims : sizes.includes(dimensions)
  if (isAllowed && dimensions <= embeddingDims) return undefined
  const allowed = sizes === 'any' ? `1 to ${embeddingDims}` : [...sizes, embeddingDims].join(', ')
  return invalid(`this model gives vectors of ${allowed} values`, 'dimensions')
}

type Running = { sequence: Sequence; index: number }

/** Runs the inputs, a few at a time. Always writes one closing event, `usage` or `error`, unless the caller is gone. */
export async function runEmbedding(prepared: PreparedEmbedding, context: SessionContext): Promise<SessionResult> {
  const { sink, signal } = context
  const { prompts } = prepared
  const usage: DispatchUsage = { inputTokens: 0, cachedInputTokens: 0, outputTokens: 0 }
  const running = new Set<Running>()
  const failed = Promise.withResolvers<void>()
  let failure: Failure | undefined
  let next = 0
  const fail = (reason: Failure) => {
    if (failure !== undefined) return
    failure = reason
    failed.resolve()
    for (const { sequence } of running) sequence.cancel()
  }
  const aborted = () => fail(signal.reason as Failure)
  if (signal.aborted) aborted()
  else signal.addEventListener('abort', aborted, { once: true })

  /** One input; resolves when its sequence has ended and its event is written. */
  const runOne = async (index: number): Promise<void> => {
    const prompt = prompts[index] ?? []
    let values: number[] | undefined
    const end = await new Promise<SequenceEnd>((resolve) => {
      const deadlineMs = Math.min(0xffff_ffff, Math.max(1, Math.ceil(context.deadlineAtMs - context.nowMs())))
      const entry: Running = {
        index,
        sequence: context.connection.submit(
          { ...prepared.parameters, prompt, deadlineMs },
          {
            token: () => {},
            embedding: (states) => {
              values = states
            },
            end: (ended) => {
              running.delete(entry)
              resolve(ended)
            },
          },
        ),
      }
      running.add(entry)
    })
    count(usage, end, prompt.length)
    const outcome = outcomeOf(end, prompt.length)
    if (outcome.failure !== undefined) return fail(outcome.failure)
    if (values === undefined) return fail({ code: 'internal', message: 'the engine gave no embedding' })
    if (failure !== undefined) return
    const event: DispatchEvent = { type: 'embedding', choice: index, values: unitVector(values, prepared.dimensions) }
    await sink.write([event, ...(index % prepared.slots === 0 ? capacityEvents(context) : [])])
  }
  const work = async () => {
    while (failure === undefined && next < prompts.length) await runOne(next++)
  }

  const whole = prompts.reduce((sum, prompt) => sum + prompt.length, 0)
  await sink.write([
    { type: 'accepted', usage: { ...usage, inputTokens: whole }, queueMs: context.queuedMs },
    ...capacityEvents(context),
  ])
  const all = Promise.all(Array.from({ length: prepared.slots }, work))
  await Promise.race([all, failed.promise])
  // Cancelled sequences end within a step; a missing answer must not hold the request.
  if (failure !== undefined) await Promise.race([all, late()])
  signal.removeEventListener('abort', aborted)
  // Sequences whose end is not known have taken their prompt on all the same.
  for (const { index } of running) usage.inputTokens += prompts[index]?.length ?? 0
  if (failure === undefined) {
    await sink.write([...capacityEvents(context), { type: 'usage', usage }])
    return { usage }
  }
  if (failure.code !== 'cancelled') await sink.write([{ type: 'error', ...failure, usage }])
  return { usage, failure }
}

function count(usage: DispatchUsage, end: SequenceEnd, promptTokens: number): void {
  if (end.kind === 'rejected') return
  const cached = end.kind === 'finished' ? Math.min(promptTokens, end.finished.cachedTokens) : 0
  usage.cachedInputTokens += cached
  usage.inputTokens += promptTokens - cached
}

const late = () =>
  new Promise<void>((resolve) => {
    setTimeout(resolve, CANCEL_WAIT_MS).unref()
  })

/**
 * The first `dimensions` values at length 1, as little-endian 32-bit floats in base64. A vector of zeros has no
 * direction and stays one of zeros.
 */
export function unitVector(values: readonly number[], dimensions: number): string {
  const cut = values.slice(0, dimensions)
  const norm = Math.sqrt(cut.reduce((sum, value) => sum + value * value, 0))
  const bytes = Buffer.alloc(4 * cut.length)
  for (const [index, value] of cut.entries()) bytes.writeFloatLE(norm === 0 ? 0 : value / norm, 4 * index)
  return bytes.toString('base64')
}
