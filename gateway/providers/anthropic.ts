// Anthropic's Messages API. Owns the address, the headers and what the vendor learns of the caller; bodies are
// anthropic-encoder.ts and anthropic-decoder.ts, errors anthropic-failure.ts, sending and reading http.ts.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { ProviderConfig, Target } from '../policy/plan.ts'
import { AnthropicDecoder } from './anthropic-decoder.ts'
import { encodeAnthropic, encodeAnthropicCount } from './anthropic-encoder.ts'
import { anthropicFailure } from './anthropic-failure.ts'
import { countOf } from './prompt-count.ts'
import type { AnswerDecoder, EncodeContext, HttpCall, Vendor } from './vendor.ts'

/** The later one knows less: older models do without temperature, top_p and top_k there. */
const API_VERSION = '2023-06-01'
const versionOf = ({ options }: ProviderConfig): string => options.apiVersion ?? API_VERSION

export const anthropic: Vendor = {
  async encode(request: InferenceRequest, target: Target, context: EncodeContext): Promise<Result<HttpCall, Failure>> {
    const { maxOutputTokens, config } = context
    const userId = request.endUser === undefined ? undefined : await pseudonym(config.name, request.endUser)
    const body = encodeAnthropic(request, target, maxOutputTokens, { userId, apiVersion: versionOf(config) })
    return body.ok ? ok(callOf('/v1/messages', body.value, context)) : body
  },
  decoder(request: InferenceRequest): AnswerDecoder {
    return new AnthropicDecoder(request)
  },
  isStream: (contentType) => contentType.startsWith('text/event-stream'),
  failure: anthropicFailure,
  countTokens: {
    async encode(
      request: InferenceRequest,
      target: Target,
      context: EncodeContext,
    ): Promise<Result<HttpCall, Failure>> {
      const body = encodeAnthropicCount(request, target)
      return body.ok ? ok(callOf('/v1/messages/count_tokens', body.value, context)) : body
    },
    read: (text) => countOf(text, 'input_tokens'),
  },
}

function callOf(path: string, body: Record<string, unknown>, { config, key }: EncodeContext): HttpCall {
  return {
    // Registered with the version at its end or without: both are in use.
    url: `${config.baseUrl.replace(/\/v1$/, '')}${path}`,
    headers: {
      ...config.options.headers,
      'content-type': 'application/json',
      accept: 'text/event-stream, application/json',
      'anthropic-version': versionOf(config),
      'x-api-key': key.secret,
    },
    body: JSON.stringify(body),
  }
}

/** The vendor wants to tell users apart and not to know them: callers may use addresses as names. */
async function pseudonym(provider: string, endUser: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(`end user of ${provider}: ${endUser}`))
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('')
}
