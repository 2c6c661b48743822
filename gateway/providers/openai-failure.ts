// What an error of a server of OpenAI's dialect means. Owns the shapes of error bodies, whose fault each is, and how long to
// wait; where errors stand inside answers is openai-decoder.ts. Pure.

import type { Failure } from '../../protocol/errors.ts'
import { isJson, type Json, jsonOrEmpty } from '../meter/normalise.ts'
import { jsonOrUndefined } from './json-text.ts'
import {
  credentialsFault,
  ERROR_TEXT_MAX,
  faultOfStatus,
  isRequestFault,
  limitFault,
  unknownModelFault,
  withWait,
} from './provider-faults.ts'
import { limitReset, retryAfter, waitInWords } from './retry-after.ts'

const PARAM_MAX = 200

/** An error's words, from whichever of the known shapes it has. */
type ErrorBody = { message?: string; code: string; type: string; param?: string; details: Json }

/**
 * Codes and words for a prompt that is too long: OpenAI, Azure and Groq send the code; vLLM, Mistral, Fireworks, Together,
 * xAI, OpenRouter and llama.cpp only words.
 */
const TOO_LONG_CODES = new Set(['context_length_exceeded', 'exceed_context_size_error', 'string_above_max_length'])
const TOO_LONG = new RegExp(
  [
    "(maximum|max|model'?s?) (context|prompt|input|sequence|model) ?(length|window|size)",
    'context (length|window|size)[^.]{0,40}exceed',
    'exceed[^.]{0,60}context (length|window|size|limit)',
    "(prompt|input)( is|'s)? too (long|large)",
    'too many (input |prompt )?tokens',
    'reduce the length of the (messages|prompt|input)',
    'max_new_tokens`? must be <=',
  ].join('|'),
  'i',
)

/**
 * Content rules: OpenAI's and Azure's codes (Azure's in `innererror`), DeepSeek's, xAI's and OpenRouter's words.
 */
const FILTER_CODES = new Set([
  'content_filter',
  'content_policy_violation',
  'responsibleaipolicyviolation',
  'invalid_prompt',
  'data_inspection_failed',
  'moderation_blocked',
  'bio_policy',
  'misalignment_policy_violation',
  'image_content_policy_violation',
])
const FILTERED = new RegExp(
  [
    'content (management|exists|usage) (policy|risk|guidelines)',
    'content[ _](policy|filter)',
    'violates? (our |the )?(usage|content)',
    'requires moderation',
    'flagged (by|for|as)',
  ].join('|'),
  'i',
)

/** The operator's account has no credit left, which no waiting mends: OpenAI's code comes with 429. */
const OUT_OF_CREDIT_CODES = new Set([
  'insufficient_quota',
  'billing_hard_limit_reached',
  'billing_not_active',
  'insufficient_credits',
  'insufficient_balance',
])
const OUT_OF_CREDIT =
  /insufficient[ _](quota|balance|credits?)|exceeded your current quota|out of credits|used all available credits/i

const UNKNOWN_MODEL_CODES = new Set(['model_not_found', 'invalid_model', 'deploymentnotfound', 'model_not_available'])
const UNKNOWN_MODEL = /model (not exist|does not exist|not found)|invalid model|no such model/i

/**
 * OpenAI's newest models take tools together with reasoning on its Responses route alone, others are served on one of the
 * two. Its words name a route that this gateway has too, which says nothing of the one that it called.
 */
const OTHER_ROUTE = /\bv1\/responses\b/i
const TOOLS_WITH_REASONING = /reasoning|\btools?\b/i

/** The responses route reads images after its 200: what is wrong with them is the caller's all the same. */
const IMAGE_CODES = new Set([
  'invalid_image',
  'invalid_image_format',
  'invalid_base64_image',
  'invalid_image_url',
  'invalid_image_mode',
  'image_too_large',
  'image_too_small',
  'image_parse_error',
  'image_file_too_large',
  'unsupported_image_media_type',
  'empty_image_file',
  'failed_to_download_image',
])

/** A proof of a thought that another account made, or that was changed on its way. */
const UNREADABLE_PROOF = 'invalid_encrypted_content'
/** What is asked for with every thought is refused by models that have none. */
const THINKS_NOT = /encrypted content is not supported with this model/i
/** An organisation that OpenAI has not verified is shown no thoughts, which is the operator's to see to. */
const UNVERIFIED = /must be verified to generate reasoning summaries/i

const LIMIT_CODES = new Set(['rate_limit_exceeded', 'rate_limit_error', 'rate_limited', 'too_many_requests'])

/**
 * An HTTP error of a provider. Faults of the caller's request stay the caller's; everything about the operator's account
 * (key, quota, unknown model) is the target's, and another target may do better.
 * @param text Body, already bounded and without secrets.
 */
export function statusFailure(status: number, text: string, headers: Headers, nowMs: number): Failure {
  const error = errorBody(jsonOrUndefined(text))
  const failure = known(status, error) ?? byStatus(status, error)
  if (failure.code !== 'overloaded' && failure.code !== 'upstream_error') return failure
  if (failure.kind === 'credentials' || failure.kind === 'unknown_model') return failure
  const isLimit = failure.kind === 'rate_limited' || failure.kind === 'overloaded'
  const wait =
    retryAfter(headers, nowMs) ??
    (isLimit ? (limitReset(headers, nowMs) ?? waitInWords(error.message ?? '')) : undefined)
  return wait === undefined ? failure : { ...failure, retryAfterMs: wait }
}

/**
 * An error where an answer should be.
 * @param raw The error, or the whole event.
 * @param kind Where it stood, for what nothing better is known of.
 */
export function inBandFailure(raw: unknown, kind: 'in_band' | 'ok_with_error'): Failure {
  const error = errorBody(raw)
  const status = /^[45]\d\d$/.test(error.code) ? Number(error.code) : undefined
  const failure = known(status, error)
  if (failure !== undefined) return withWait(failure, waitInWords(error.message ?? ''))
  const isFull = status === 503 || status === 529 || /overloaded|slow_down/i.test(error.type + error.code)
  if (isFull) return limitFault('overloaded')
  const message = `The provider broke off with an error: ${wordsOf(error)}`
  return { code: 'upstream_error', message, kind }
}

/** What the error itself says it is, whatever its status. */
function known(status: number | undefined, error: ErrorBody): Failure | undefined {
  const { code, type } = error
  const message = error.message ?? ''
  const inner = jsonOrEmpty(error.details.innererror)
  const innerCode = typeof inner.code === 'string' ? inner.code.toLowerCase() : ''
  // A 429 speaks of tokens too, and of those that have been used up in a minute.
  const isLimit = status === 429 || LIMIT_CODES.has(code) || LIMIT_CODES.has(type)
  if (OUT_OF_CREDIT_CODES.has(code) || OUT_OF_CREDIT_CODES.has(type) || (isLimit && OUT_OF_CREDIT.test(message))) {
    return credentialsFault()
  }
  if (isLimit) return limitFault('rate_limited')
  const isOfClient = status === undefined || (status >= 400 && status < 500)
  if (!isOfClient) return undefined
  if (TOO_LONG_CODES.has(code) || TOO_LONG_CODES.has(type) || TOO_LONG.test(message)) {
    return { code: 'context_length_exceeded', message: wordsOf(error), kind: 'context_length' }
  }
  const isFiltered =
    FILTER_CODES.has(code) ||
    FILTER_CODES.has(innerCode) ||
    FILTERED.test(message) ||
    'flagged_input' in metadataOf(error)
  if (isFiltered && status !== 401 && status !== 404) {
    const words = `The provider's content rules refused the request: ${wordsOf(error)}`
    return { code: 'content_filtered', message: words, kind: 'content_filter' }
  }
  if (IMAGE_CODES.has(code)) return { ...faultOfStatus(400, wordsOf(error)), param: 'messages' }
  if (code === UNREADABLE_PROOF) return unreadableProof
  if (THINKS_NOT.test(message)) return noThoughts
  if (UNVERIFIED.test(message)) return noSummaries
  if (OTHER_ROUTE.test(message)) return TOOLS_WITH_REASONING.test(message) ? toolsWithReasoning : wrongRoute
  const isUnknownModel = UNKNOWN_MODEL_CODES.has(code) || (status === 400 && UNKNOWN_MODEL.test(message))
  return isUnknownModel ? unknownModelFault() : undefined
}

function byStatus(status: number, error: ErrorBody): Failure {
  if (status === 451) {
    const message = `The provider's content rules refused the request: ${wordsOf(error)}`
    return { code: 'content_filtered', message, kind: 'content_filter' }
  }
  // Groq's word for a flexible service that is full.
  if (status === 498) return limitFault('overloaded')
  const failure = faultOfStatus(status, wordsOf(error))
  if (!isRequestFault(status) || error.param === undefined) return failure
  return { ...failure, param: error.param.slice(0, PARAM_MAX) }
}

const toolsWithReasoning: Failure = {
  code: 'invalid_request',
  message:
    'The provider refused the request: on its chat route this model takes tools only without reasoning. ' +
    "Set the reasoning effort to 'none', leave out what only that route can do (several choices, stop strings, penalties, " +
    'a bias on tokens, fewer than 16 tokens), or choose another model.',
  param: 'reasoning',
  kind: 'refused',
}

const noSummaries: Failure = {
  code: 'invalid_request',
  message:
    'The provider shows no thoughts to the account that it is called with. Do not ask for them, or choose another model.',
  param: 'reasoning',
  kind: 'refused',
}

const noThoughts: Failure = {
  code: 'invalid_request',
  message:
    'The provider refused the request: this model does not think. Leave the reasoning out, or choose another model.',
  param: 'reasoning',
  kind: 'refused',
}

const unreadableProof: Failure = {
  code: 'invalid_request',
  message:
    'The provider cannot read the thoughts that the conversation brings back: they were made elsewhere, or changed. ' +
    'Send them as they came, or leave them out.',
  param: 'messages',
  kind: 'refused',
}

const wrongRoute: Failure = {
  code: 'upstream_error',
  message: 'The provider does not serve the model on the route that was called.',
  kind: 'unknown_model',
}

/**
 * The usual shape is `{error: {message, type, code, param}}`; others send the error as text, at the top level (Mistral,
 * Cerebras, older vLLM), with the text in `error` and the code beside it (xAI), as FastAPI's `detail`, or in an array of one.
 */
function errorBody(raw: unknown): ErrorBody {
  const outer = Array.isArray(raw) ? raw[0] : raw
  if (typeof outer === 'string') return { message: outer, code: '', type: '', details: {} }
  if (!isJson(outer)) return { code: '', type: '', details: {} }
  if (typeof outer.error === 'string') return bodyOf({ ...outer, message: outer.error })
  if (isJson(outer.error)) return bodyOf(outer.error)
  return bodyOf(outer)
}

function bodyOf(error: Json): ErrorBody {
  const message = error.message ?? error.detail
  const text =
    typeof message === 'string' ? message : isJson(message) || Array.isArray(message) ? detailText(message) : undefined
  return {
    ...(text === undefined ? {} : { message: text }),
    code: word(error.code),
    type: word(error.type),
    ...(typeof error.param === 'string' ? { param: error.param } : {}),
    details: error,
  }
}

const word = (value: unknown): string =>
  typeof value === 'string' ? value.toLowerCase() : typeof value === 'number' ? String(value) : ''

/** What a validator found, of which the first finding is the one to tell. */
function detailText(detail: unknown): string | undefined {
  const list = isJson(detail) && Array.isArray(detail.detail) ? detail.detail : detail
  const first: unknown = Array.isArray(list) ? list[0] : list
  if (!isJson(first)) return undefined
  const where = Array.isArray(first.loc) ? `${first.loc.join('.')}: ` : ''
  const words = first.msg ?? first.message
  return typeof words === 'string' ? where + words : undefined
}

const metadataOf = (error: ErrorBody): Json => jsonOrEmpty(error.details.metadata)

/** The human part of an error, cut short. A router quotes the server behind it, which knows more. */
function wordsOf(error: ErrorBody): string {
  const { raw } = metadataOf(error)
  const quoted = typeof raw === 'string' ? errorBody(jsonOrUndefined(raw) ?? raw).message : undefined
  return (quoted ?? error.message ?? 'no message').slice(0, ERROR_TEXT_MAX)
}
