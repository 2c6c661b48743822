// A dispatch request → what the engine is asked to do. Owns bounds, token counts, seeds and the engine's parameters;
// running it is session.ts. Refuses what cannot be served before anything is queued.
import type { DispatchRequest } from '../protocol/dispatch.ts'
import type { Failure } from '../protocol/errors.ts'
import { MAX_GRAMMAR_BYTES } from '../protocol/output-format.ts'
import type { Prompt } from '../protocol/request.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { AnswerFormat } from './answer-format.ts'
import type { AnswerPlan } from './answer-parts.ts'
import type { ChatRenderer } from './chat.ts'
import { Detokenizer } from './detokenizer.ts'
import type { SequenceParameters } from './engine/client.ts'
import { type ChunkEnd, promptChunks } from './prompt-chunks.ts'
import { choicesToRun, resumedChoices } from './resume.ts'
import type { EncodeLimits, Encoding, Tokenizer } from './tokens.ts'
import { callOpening, callSchema, isInThought } from './tool-grammar.ts'
import type { Vocabulary } from './vocabulary.ts'

/** Text handling of the loaded model. */
export type TextModel = {
  tokenizer: Tokenizer
  render: ChatRenderer
  /** Absent: answers are text. */
  answers?: AnswerFormat
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
  requestId: string
  vocabulary: Vocabulary
  prompts: { ids: number[]; maxNewTokens: number; chunks?: ChunkEnd[] }[]
  /** index = prompt × n + i. `output` is what another backend sampled of it before. */
  choices: { index: number; prompt: number; seed: bigint; output?: number[] }[]
  parameters: Omit<SequenceParameters, 'prompt' | 'maxNewTokens' | 'creditTokens' | 'seed' | 'deadlineMs'>
  stop: string[]
  withLogprobs: boolean
  /** The ids of what is sampled go out too, and another backend may go on with them. */
  tellsTokens: boolean
  /** The caller's field that the grammar came in. */
  grammarParam?: string
  /** Absent: answers are text. */
  answer?: AnswerReading
  /** Per prompt, the text that goes out first. */
  echo?: string[]
}

/** How the answers of a chat are told apart. */
export type AnswerReading = {
  plan: AnswerPlan
  /** Control tokens whose text is part of the answer's form. */
  markerIds: ReadonlySet<number>
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
  const { grammar: format } = request
  if (format !== undefined && limits.grammars !== true)
    return err(invalid('this backend cannot hold an answer to a format', format.param))
  const forced = forcedCall(request, model, limits, format !== undefined)
  if (!forced.ok) return forced
  const grammar = format ?? forced.value
  const promptCount = request.input.kind === 'chat' ? 1 : request.input.prompts.length
  const sequences = promptCount * request.n
  const atOnce = choicesToRun(request, sequences)
  if (atOnce > limits.sequencesMax)
    return err(
      invalid(`${atOnce} choices at once were asked for; this backend computes at most ${limits.sequencesMax}`, 'n'),
    )

  const encoded = await encodePrompts(request, model, limits, forced.value !== undefined)
  if (!encoded.ok) return encoded
  const prompts: Prepared['prompts'] = []
  for (const [index, { ids, complete }] of encoded.value.encodings.entries()) {
    const param = request.input.kind === 'chat' ? 'messages' : 'prompt'
    if (ids.length === 0) return err(invalid(`prompt ${index} has no tokens`, param))
    if (ids.length >= limits.contextTokens)
      return err(tooLong(complete ? `${ids.length}` : `more than ${ids.length - 1}`, limits, param))
    const window = limits.contextTokens - ids.length
    const chunks = promptChunks(request, index, encoded.value.texts[index], ids, vocabulary)
    prompts.push({ ids, maxNewTokens: Math.min(request.maxOutputTokens ?? window, window), chunks })
  }

  const { sampling } = request
  const all: Prepared['choices'] = Array.from({ length: sequences }, (_, index) => ({
    index,
    prompt: Math.floor(index / request.n),
    // Distinct choices, the same on every run of the same request.
    seed: sampling.seed === undefined ? given.randomSeed() : BigInt.asUintN(64, BigInt(sampling.seed) + BigInt(index)),
  }))
  const choices = resumedChoices(request, all, prompts, vocabularyTokens)
  if (!choices.ok) return choices
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
    requestId: request.requestId,
    vocabulary,
    prompts,
    choices: choices.value,
    parameters,
    stop: request.stop,
    withLogprobs: request.logprobs !== undefined,
    tellsTokens: request.tellsTokens === true,
  }
  if (grammar !== undefined) prepared.grammarParam = grammar.param
  if (encoded.value.answer !== undefined) prepared.answer = encoded.value.answer
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

/** The grammar of a call that must be made; undefined where the model may choose. */
function forcedCall(
  request: DispatchRequest,
  model: TextModel,
  limits: EngineLimits,
  hasFormat: boolean,
): Result<DispatchRequest['grammar'], Failure> {
  const { tools, toolChoice } = request
  const format = model.answers?.tools
  // Without a format the renderer refuses the tools.
  if (tools === undefined || toolChoice === undefined || format === undefined) return ok(undefined)
  if (toolChoice.mode === 'auto' || toolChoice.mode === 'none') return ok(undefined)
  if (hasFormat) return err(invalid('an answer cannot be a tool call and have a format at once', 'tool_choice'))
  if (limits.grammars !== true) return err(invalid('this backend cannot be made to call a tool', 'tool_choice'))
  const isNamed = toolChoice.mode === 'tool'
  const chosen = isNamed ? tools.filter(({ name }) => name === toolChoice.name) : tools
  if (chosen.length === 0) return err(invalid('tool_choice names a tool that is not on offer', 'tool_choice'))
  const isOneCall = isNamed || request.parallelToolCalls === false
  let text: string
  try {
    text = callSchema(format, chosen, isOneCall)
  } catch {
    return err(invalid('the tools are nested too deeply', 'tools'))
  }
  if (Buffer.byteLength(text) > MAX_GRAMMAR_BYTES)
    return err(invalid(`tools that must be called may have at most ${MAX_GRAMMAR_BYTES} bytes of schemas`, 'tools'))
  return ok({ kind: 'json_schema', text, param: 'tools' })
}

/** `texts`: what the encodings were made from; undefined where the caller sent token ids. */
type Encoded = { encodings: Encoding[]; texts: (string | undefined)[]; answer?: AnswerReading }

async function encodePrompts(
  request: DispatchRequest,
  model: TextModel,
  limits: EngineLimits,
  isForced: boolean,
): Promise<Result<Encoded, Failure>> {
  const { input } = request
  const bound: EncodeLimits = { tokensMax: limits.contextTokens * COUNTED_WINDOWS }
  // Refused by length alone: rendering and encoding megabytes would cost everyone else time.
  const charsMax = bound.tokensMax * model.tokenizer.vocabulary.tokenBytesMax
  if (input.kind === 'chat') {
    if (chatChars(request, input.messages) > charsMax)
      return err(tooLong(`more than ${bound.tokensMax}`, limits, 'messages'))
    const tools = request.toolChoice?.mode === 'none' ? undefined : request.tools
    // A call that must be made comes at once: a template that can be told so opens no thought before it.
    const thinking = isForced ? false : request.thinking
    const rendered = model.render(input.messages, {
      ...(tools === undefined ? {} : { tools }),
      ...(thinking === undefined ? {} : { thinking }),
    })
    if (!rendered.ok) return err(invalid(rendered.error.message, rendered.error.param))
    const { text, mark } = rendered.value
    const format = model.answers?.tools
    const opening = isForced && format !== undefined ? callOpening(format, text) : ''
    const encoding = await model.tokenizer.encodeRendered(text + opening, mark, bound)
    const answer = answerReading(request, model, text, isForced)
    const texts = [text.replaceAll(mark, '')]
    return ok({ encodings: [encoding], texts, ...(answer === undefined ? {} : { answer }) })
  }
  const encodings: Encoding[] = []
  for (const prompt of input.prompts) {
    const encoded = await encodePrompt(prompt, model, limits, 'prompt')
    if (!encoded.ok) return encoded
    encodings.push(encoded.value)
  }
  return ok({ encodings, texts: input.prompts.map((prompt) => ('text' in prompt ? prompt.text : undefined)) })
}

function chatChars(
  request: DispatchRequest,
  messages: Extract<DispatchRequest['input'], { kind: 'chat' }>['messages'],
): number {
  let chars = 0
  for (const { content, thought, toolCalls } of messages) {
    chars += content.length + (thought?.length ?? 0)
    for (const call of toolCalls ?? []) chars += call.name.length + call.arguments.length
  }
  for (const tool of request.tools ?? []) chars += tool.name.length + (tool.description?.length ?? 0)
  return chars
}

/** An answer that is held to a format is that format from its first token: there is nothing to tell apart. */
function answerReading(
  request: DispatchRequest,
  model: TextModel,
  rendered: string,
  isForced: boolean,
): AnswerReading | undefined {
  const { answers } = model
  if (answers === undefined || request.grammar !== undefined) return undefined
  const tools = request.toolChoice?.mode === 'none' ? undefined : request.tools
  const hasThoughts = answers.hasThoughts && request.tellsThoughts === true && !isForced
  if (tools === undefined && !hasThoughts) return undefined
  const format = tools === undefined ? undefined : answers.tools
  return {
    plan: {
      ...(format === undefined ? {} : { tools: format }),
      toolNames: new Set(tools?.map(({ name }) => name)),
      hasThoughts,
      startsIn: isForced ? 'call' : hasThoughts && isInThought(rendered) ? 'thought' : 'text',
      isOneCall: request.parallelToolCalls === false || request.toolChoice?.mode === 'tool',
    },
    markerIds: new Set([
      ...(format === undefined ? [] : answers.toolMarkerIds),
      ...(hasThoughts ? answers.thoughtMarkerIds : []),
    ]),
  }
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
