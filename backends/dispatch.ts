// A dispatch request → what the engine is asked to do. Owns bounds, token counts, seeds and the engine's parameters;
// running it is session.ts. Refuses what cannot be served before anything is queued.
import type { DispatchRequest } from '../protocol/dispatch.ts'
import type { Failure } from '../protocol/errors.ts'
import type { Prompt } from '../protocol/request.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { ChatRenderer } from './chat.ts'
import { Detokenizer } from './detokenizer.ts'
import type { SequenceParameters } from './engine/client.ts'
import type { EncodeLimits, Encoding, Tokenizer } from './tokens.ts'
import type { Vocabulary } from './vocabulary.ts'

/** Text handling of the loaded model. */
export type TextModel = {
  tokenizer: Tokenizer
  render: ChatRenderer
  /** Lengths besides the full one that its embeddings may be cut to; absent: none. */
  embeddingSizes?: 'any' | readonly number[]
}

/** What the running engine allows. */
export type EngineLimits = {
  contextTokens: number
  vocabularyTokens: number
  sequencesMax: number
  /** Whether it can hold its output to a grammar. Default: no. */
  grammars?: boolean
}

export type Prepared = {
  vocabulary: Vocabulary
  prompts: { ids: number[]; maxNewTokens: number }[]
  /** index = prompt × n + i. */
  choices: { index: number; prompt: number; seed: bigint }[]
  parameters: Omit<SequenceParameters, 'prompt' | 'maxNewTokens' | 'creditTokens' | 'seed' | 'deadlineMs'>
  stop: string[]
  withLogprobs: boolean
  /** The caller's field that the grammar came in. */
  grammarParam?: string
  /** Per prompt, the text that goes out first. */
  echo?: string[]
}

/** A prompt this many times the window is counted no further: it is refused anyway. */
const COUNTED_WINDOWS = 4

/** Anything smaller means the likeliest token alone too, and would be 0 as the 32-bit float of the engine's wire. */
const TOP_P_MIN = 1e-6

/**
 * Renders, tokenises and checks a request.
 * @param randomSeed a 64-bit seed, for requests without one.
 * @param tenant opaque number for the engine's fairness.
 */
export async function prepareDispatch(
  request: DispatchRequest,
  model: TextModel,
  limits: EngineLimits,
  given: { randomSeed: () => bigint; tenant: bigint },
): Promise<Result<Prepared, Failure>> {
  const vocabulary = model.tokenizer.vocabulary
  const vocabularyTokens = Math.min(limits.vocabularyTokens, vocabulary.size)
  const badBias = request.sampling.logitBias.find((entry) => entry.tokenId >= vocabularyTokens)
  if (badBias !== undefined)
    return err(invalid(`token ${badBias.tokenId} is outside the vocabulary of ${vocabularyTokens}`, 'logit_bias'))
  const { grammar } = request
  if (grammar !== undefined && limits.grammars !== true)
    return err(invalid('this backend cannot hold an answer to a format', grammar.param))
  const promptCount = request.input.kind === 'chat' ? 1 : request.input.prompts.length
  const sequences = promptCount * request.n
  if (sequences > limits.sequencesMax)
    return err(
      invalid(`${sequences} choices at once were asked for; this backend computes at most ${limits.sequencesMax}`, 'n'),
    )

  const encoded = await encodePrompts(request, model, limits)
  if (!encoded.ok) return encoded
  const prompts: Prepared['prompts'] = []
  for (const [index, { ids, complete }] of encoded.value.entries()) {
    const param = request.input.kind === 'chat' ? 'messages' : 'prompt'
    if (ids.length === 0) return err(invalid(`prompt ${index} has no tokens`, param))
    if (ids.length >= limits.contextTokens)
      return err(tooLong(complete ? `${ids.length}` : `more than ${ids.length - 1}`, limits, param))
    const window = limits.contextTokens - ids.length
    prompts.push({ ids, maxNewTokens: Math.min(request.maxOutputTokens ?? window, window) })
  }

  const { sampling } = request
  const choices = Array.from({ length: sequences }, (_, index) => ({
    index,
    prompt: Math.floor(index / request.n),
    // Distinct choices, the same on every run of the same request.
    seed: sampling.seed === undefined ? given.randomSeed() : BigInt.asUintN(64, BigInt(sampling.seed) + BigInt(index)),
  }))
  const parameters: Prepared['parameters'] = {
    temperature: sampling.temperature,
    topP: Math.max(sampling.topP, TOP_P_MIN),
    topK: sampling.topK,
    minP: sampling.minP,
    repetitionPenalty: sampling.repetitionPenalty,
    presencePenalty: sampling.presencePenalty,
    frequencyPenalty: sampling.frequencyPenalty,
    stopIds: [...vocabulary.endIds],
    bias: sampling.logitBias.map((entry) => ({ id: entry.tokenId, bias: entry.bias })),
    priority: request.priority,
    tenant: given.tenant,
    // No tenant can learn from timing what another one has asked.
    salt: given.tenant,
  }
  if (request.logprobs !== undefined) parameters.logprobsTop = request.logprobs.top
  if (grammar !== undefined) parameters.grammar = { kind: grammar.kind, text: grammar.text }
  const prepared: Prepared = {
    vocabulary,
    prompts,
    choices,
    parameters,
    stop: request.stop,
    withLogprobs: request.logprobs !== undefined,
  }
  if (grammar !== undefined) prepared.grammarParam = grammar.param
  if (request.input.kind === 'completion' && request.input.echo)
    prepared.echo = request.input.prompts.map((prompt) =>
      'text' in prompt ? prompt.text.toWellFormed() : decodeIds(prompt.tokenIds, vocabulary),
    )
  return ok(prepared)
}

const invalid = (message: string, param: string): Failure => ({ code: 'invalid_request', message, param })

const tooLong = (count: string, limits: EngineLimits, param: string): Failure => ({
  code: 'context_length_exceeded',
  message: `the prompt has ${count} tokens; the context window holds ${limits.contextTokens}, one of them for the answer`,
  param,
})

async function encodePrompts(
  request: DispatchRequest,
  model: TextModel,
  limits: EngineLimits,
): Promise<Result<Encoding[], Failure>> {
  const { input } = request
  const bound: EncodeLimits = { tokensMax: limits.contextTokens * COUNTED_WINDOWS }
  // Refused by length alone: rendering and encoding megabytes would cost everyone else time.
  const charsMax = bound.tokensMax * model.tokenizer.vocabulary.tokenBytesMax
  if (input.kind === 'chat') {
    const chars = input.messages.reduce((sum, message) => sum + message.content.length, 0)
    if (chars > charsMax) return err(tooLong(`more than ${bound.tokensMax}`, limits, 'messages'))
    const rendered = model.render(input.messages)
    if (!rendered.ok) return err(invalid(rendered.error.message, rendered.error.param))
    return ok([await model.tokenizer.encodeRendered(rendered.value.text, rendered.value.mark, bound)])
  }
  const encodings: Encoding[] = []
  for (const prompt of input.prompts) {
    const encoded = await encodePrompt(prompt, model, limits, 'prompt')
    if (!encoded.ok) return encoded
    encodings.push(encoded.value)
  }
  return ok(encodings)
}

/** A caller's own text or token ids. @param param the field it came in, for the failure. */
export async function encodePrompt(
  prompt: Prompt,
  model: TextModel,
  limits: EngineLimits,
  param: string,
): Promise<Result<Encoding, Failure>> {
  if ('text' in prompt) {
    const bound: EncodeLimits = { tokensMax: limits.contextTokens * COUNTED_WINDOWS }
    if (prompt.text.length > bound.tokensMax * model.tokenizer.vocabulary.tokenBytesMax)
      return err(tooLong(`more than ${bound.tokensMax}`, limits, param))
    return ok(await model.tokenizer.encodeText(prompt.text, bound))
  }
  const vocabularyTokens = Math.min(limits.vocabularyTokens, model.tokenizer.vocabulary.size)
  const bad = prompt.tokenIds.find((id) => id >= vocabularyTokens)
  if (bad !== undefined) return err(invalid(`token ${bad} is outside the vocabulary of ${vocabularyTokens}`, param))
  return ok({ ids: prompt.tokenIds, complete: true })
}

function decodeIds(ids: readonly number[], vocabulary: Vocabulary): string {
  const detokenizer = new Detokenizer()
  return ids.map((id) => detokenizer.push(vocabulary.nameBytes(id))).join('') + detokenizer.flush()
}
