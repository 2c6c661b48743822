// What all providers of OpenAI's dialect have in common. Owns the shape of a call; where it goes and how it is authorised is the
// vendor's own file, bodies are openai-encoder.ts and openai-decoder.ts.
import { choiceCount } from '../../protocol/request.ts'
import { ok } from '../../protocol/result.ts'
import type { ProviderConfig, Target } from '../policy/plan.ts'
import { OpenAiDecoder } from './openai-decoder.ts'
import { type EncodedRequest, encodeOpenAi } from './openai-encoder.ts'
import { statusFailure } from './openai-failure.ts'
import type { Preset } from './presets.ts'
import type { EncodeContext, Vendor } from './vendor.ts'

export type OpenAiHouse = {
  preset: (config: ProviderConfig) => Preset
  /** The address of a route, made of the registered one and encoded parts. */
  url: (config: ProviderConfig, target: Target, path: EncodedRequest['path']) => string
  /** How the operator's key is sent. */
  authorisation: (context: EncodeContext) => Record<string, string>
  /** Whose thoughts these are, where they must come back unchanged. Default: nobody's. */
  sealMark?: (config: ProviderConfig) => string | undefined
}

export function openAiVendor(house: OpenAiHouse): Vendor {
  return {
    async encode(request, target, context) {
      const { config, maxOutputTokens, requestId } = context
      const sealMark = house.sealMark?.(config)
      const encoded = encodeOpenAi(request, target, {
        preset: house.preset(config),
        ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
        ...(sealMark === undefined ? {} : { sealMark }),
      })
      if (!encoded.ok) return encoded
      const { path, body } = encoded.value
      return ok({
        url: house.url(config, target, path),
        headers: {
          ...config.options.headers,
          'content-type': 'application/json',
          accept: 'text/event-stream, application/json',
          ...house.authorisation(context),
          'x-client-request-id': requestId,
        },
        body: JSON.stringify(body),
      })
    },
    decoder(request, target, config) {
      return new OpenAiDecoder(choiceCount(request), {
        usageDialect: config.usageDialect,
        ...(target.serviceTier === undefined ? {} : { tierAsked: target.serviceTier }),
        stops: request.stop,
        sealMark: house.sealMark?.(config),
        answerId: crypto.randomUUID(),
      })
    },
    isStream: (contentType) => contentType.startsWith('text/event-stream'),
    failure: statusFailure,
  }
}

/** A server without keys is sent none. */
export const bearer = ({ key }: EncodeContext): Record<string, string> =>
  key.secret === '' ? {} : { authorization: `Bearer ${key.secret}` }
