// What all providers of OpenAI's dialect have in common. Owns the shape of a call; where it goes and how it is authorised is the
// vendor's own file, which route serves a conversation openai-responses-choice.ts, bodies are openai-encoder.ts and
// openai-decoder.ts, openai-responses-encoder.ts and openai-responses-decoder.ts.

import type { Failure } from '../../protocol/errors.ts'
import { choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { ProviderApi, ProviderConfig, Target } from '../policy/plan.ts'
import { OpenAiDecoder } from './openai-decoder.ts'
import { type EncodedRequest, encodeOpenAi } from './openai-encoder.ts'
import { statusFailure } from './openai-failure.ts'
import { isForResponses, type ResponsesHabit } from './openai-responses-choice.ts'
import { ResponsesDecoder } from './openai-responses-decoder.ts'
import { encodeResponses } from './openai-responses-encoder.ts'
import type { Preset } from './presets.ts'
import type { EncodeContext, Vendor } from './vendor.ts'

/** Of the digest of a caller's key: nobody guards anything by it. */
const CACHE_KEY_CHARS = 32

type Path = EncodedRequest['path'] | '/responses'

export type OpenAiHouse = {
  preset: (config: ProviderConfig) => Preset
  /** The address of a route, made of the registered one and encoded parts. */
  url: (config: ProviderConfig, target: Target, path: Path) => string
  /** How the operator's key is sent. */
  authorisation: (context: EncodeContext) => Record<string, string>
  /** Whose thoughts those of the chat route are, where they must come back unchanged. Default: nobody's. */
  sealMark?: (config: ProviderConfig) => string | undefined
  /** Which route serves conversations, where the operator does not say. */
  api: (config: ProviderConfig) => ProviderApi
  /** Whose thoughts those of the responses route are. */
  responsesMark: (config: ProviderConfig) => string
}

export function openAiVendor(house: OpenAiHouse): Vendor {
  const habitOf = (config: ProviderConfig): ResponsesHabit => ({
    api: config.options.api ?? house.api(config),
    mark: house.responsesMark(config),
    // The vendor refuses those whose organisation it has not verified: no answer may depend on that unasked.
    hasSummaries: config.options.reasoningSummary === true,
  })
  return {
    async encode(request, target, context) {
      const { config, requestId } = context
      const encoded = bodyOf(house, habitOf(config), request, target, context)
      if (!encoded.ok) return encoded
      const { path, body } = encoded.value
      return ok({
        url: house.url(config, target, path),
        headers: {
          ...config.options.headers,
          'content-type': 'application/json',
          accept: 'text/event-stream, application/json',
          ...(await cacheHeader(house.preset(config), request)),
          ...house.authorisation(context),
          'x-client-request-id': requestId,
        },
        body: JSON.stringify(body),
      })
    },
    decoder(request, target, config) {
      const habit = habitOf(config)
      const { usageDialect } = config
      const tierAsked = target.serviceTier === undefined ? {} : { tierAsked: target.serviceTier }
      const answerId = crypto.randomUUID()
      if (isForResponses(request, target, habit)) {
        return new ResponsesDecoder(request, { usageDialect, ...tierAsked, sealMark: habit.mark, answerId })
      }
      return new OpenAiDecoder(choiceCount(request), {
        usageDialect,
        ...tierAsked,
        stops: request.stop,
        sealMark: house.sealMark?.(config),
        answerId,
      })
    },
    isStream: (contentType) => contentType.startsWith('text/event-stream'),
    failure: statusFailure,
  }
}

function bodyOf(
  house: OpenAiHouse,
  habit: ResponsesHabit,
  request: InferenceRequest,
  target: Target,
  { config, maxOutputTokens }: EncodeContext,
): Result<{ path: Path; body: unknown }, Failure> {
  const common = { preset: house.preset(config), ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }) }
  if (isForResponses(request, target, habit)) {
    const encoded = encodeResponses(request, target, { ...common, habit })
    return encoded.ok ? ok({ path: '/responses', body: encoded.value }) : encoded
  }
  const sealMark = house.sealMark?.(config)
  return encodeOpenAi(request, target, { ...common, ...(sealMark === undefined ? {} : { sealMark }) })
}

/** A digest of the key: a caller's own word goes into no header. */
async function cacheHeader(
  { cacheKeyHeader }: Preset,
  { promptCacheKey }: InferenceRequest,
): Promise<Record<string, string>> {
  if (cacheKeyHeader === undefined || promptCacheKey === undefined) return {}
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(promptCacheKey)))
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return { [cacheKeyHeader]: hex.slice(0, CACHE_KEY_CHARS) }
}

/** A server without keys is sent none. */
export const bearer = ({ key }: EncodeContext): Record<string, string> =>
  key.secret === '' ? {} : { authorization: `Bearer ${key.secret}` }
