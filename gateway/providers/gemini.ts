// Google's Gemini API. Owns the address and the headers; bodies are gemini-encoder.ts and gemini-decoder.ts, errors
// gemini-failure.ts, sending and reading http.ts.
import type { Failure } from '../../protocol/errors.ts'
import { choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import { isJson } from '../meter/normalise.ts'
import type { Target } from '../policy/plan.ts'
import { GeminiDecoder } from './gemini-decoder.ts'
import { encodeGemini, type GeminiCall, modelParts } from './gemini-encoder.ts'
import { geminiFailure } from './gemini-failure.ts'
import type { AnswerDecoder, EncodeContext, HttpCall, Vendor } from './vendor.ts'

/** The version whose methods know tools, schemas and thinking. */
const API_VERSION = 'v1beta'

export const gemini: Vendor = {
  async encode(request: InferenceRequest, target: Target, context: EncodeContext): Promise<Result<HttpCall, Failure>> {
    const encoded = encodeGemini(request, target, context.maxOutputTokens)
    return encoded.ok ? ok(callOf(encoded.value, target, context)) : encoded
  },
  decoder(request: InferenceRequest, target: Target): AnswerDecoder {
    return new GeminiDecoder(choiceCount(request), target.serviceTier)
  },
  isStream: (contentType) => contentType.startsWith('text/event-stream'),
  failure: geminiFailure,
  countTokens: {
    async encode(
      request: InferenceRequest,
      target: Target,
      context: EncodeContext,
    ): Promise<Result<HttpCall, Failure>> {
      const encoded = encodeGemini(request, target, context.maxOutputTokens)
      if (!encoded.ok) return encoded
      const whole = { model: modelParts(target.model).join('/'), ...encoded.value.body }
      return ok(callOf({ method: 'countTokens', body: { generateContentRequest: whole } }, target, context))
    },
    read: totalOf,
  },
}

function callOf({ method, body }: GeminiCall, target: Target, { config, key }: EncodeContext): HttpCall {
  const model = modelParts(target.model).map(encodeURIComponent).join('/')
  const version = encodeURIComponent(config.options.apiVersion ?? API_VERSION)
  // Without `alt=sse` the stream is one JSON array, which only its end makes readable.
  const query = method === 'streamGenerateContent' ? '?alt=sse' : ''
  return {
    url: `${config.baseUrl}/${version}/${model}:${method}${query}`,
    headers: {
      ...config.options.headers,
      'content-type': 'application/json',
      accept: 'text/event-stream, application/json',
      // Never in the address: those are logged on the way.
      'x-goog-api-key': key.secret,
    },
    body: JSON.stringify(body),
  }
}

function totalOf(text: string): number | undefined {
  try {
    const json: unknown = JSON.parse(text)
    const total = isJson(json) ? json.totalTokens : undefined
    return typeof total === 'number' && Number.isSafeInteger(total) && total >= 0 ? total : undefined
  } catch {
    return undefined
  }
}
