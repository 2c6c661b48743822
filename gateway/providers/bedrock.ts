// AWS Bedrock, by its Converse interface. Owns the address, the two kinds of key and the signature; bodies are
// bedrock-encoder.ts and bedrock-decoder.ts, errors bedrock-failure.ts, sending and reading http.ts.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { type AwsCredentials, signV4, uriEncode } from './aws-sigv4.ts'
import { BedrockDecoder } from './bedrock-decoder.ts'
import { encodeBedrock, encodeBedrockCount } from './bedrock-encoder.ts'
import { bedrockFailure } from './bedrock-failure.ts'
import { countOf } from './prompt-count.ts'
import type { AnswerDecoder, EncodeContext, HttpCall, Vendor } from './vendor.ts'

const SIGNING_NAME = 'bedrock'
/** Of the name that is made for an answer, to tell its calls from those of others. */
const ANSWER_ID_CHARS = 8
const EVENT_STREAM = 'application/vnd.amazon.eventstream'
/** Access key id, secret key, and the token of a session; the secret has no colon, nor has a Bedrock API key. */
const ACCESS_KEY = /^([A-Z0-9]{16,128}):([^:]{16,}?)(?::(.+))?$/
/** Where an address names its region. */
const REGION_OF_HOST = /^bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\./

export const bedrock: Vendor = {
  async encode(request: InferenceRequest, target: Target, context: EncodeContext): Promise<Result<HttpCall, Failure>> {
    const body = encodeBedrock(request, target, context.maxOutputTokens)
    return body.ok ? await callOf(target.model, 'converse-stream', body.value, context) : body
  },
  decoder(request: InferenceRequest, target: Target): AnswerDecoder {
    return new BedrockDecoder(request, crypto.randomUUID().slice(0, ANSWER_ID_CHARS), target.serviceTier)
  },
  isStream: (contentType) => contentType.startsWith(EVENT_STREAM),
  failure: bedrockFailure,
  countTokens: {
    async encode(
      request: InferenceRequest,
      target: Target,
      context: EncodeContext,
    ): Promise<Result<HttpCall, Failure>> {
      const body = encodeBedrockCount(request, target)
      return body.ok ? await callOf(target.model, 'count-tokens', body.value, context) : body
    },
    read: (text) => countOf(text, 'inputTokens'),
  },
}

async function callOf(
  model: string,
  method: string,
  fields: Record<string, unknown>,
  { config, key, nowMs }: EncodeContext,
): Promise<Result<HttpCall, Failure>> {
  // Nothing keeps these from meaning another address.
  if (/^\.{0,2}$/.test(model)) {
    return err({
      code: 'upstream_error',
      message: 'The provider is registered without a model.',
      kind: 'unknown_model',
    })
  }
  // Ids have colons, and ARNs slashes, inside one segment.
  const url = `${config.baseUrl}/model/${uriEncode(model)}/${method}`
  const body = JSON.stringify(fields)
  const signed = { 'content-type': 'application/json' }
  const headers = { ...config.options.headers, ...signed, accept: `${EVENT_STREAM}, application/json` }
  const credentials = credentialsOf(key.secret)
  if (credentials === undefined)
    return ok({ url, body, headers: { ...headers, authorization: `Bearer ${key.secret}` } })
  const { host, pathname } = new URL(url)
  const region = config.options.region ?? REGION_OF_HOST.exec(host)?.[1]
  if (region === undefined) {
    return err({
      code: 'upstream_error',
      message: 'The provider is registered without its region.',
      kind: 'credentials',
    })
  }
  const call = { method: 'POST', host, path: pathname, headers: signed, body }
  const scope = { region, service: SIGNING_NAME, nowMs: nowMs() }
  return ok({ url, body, headers: { ...headers, ...(await signV4(call, credentials, scope)) } })
}

/** Undefined for a Bedrock API key, which goes along as it is. */
function credentialsOf(secret: string): AwsCredentials | undefined {
  const [found, accessKeyId, secretAccessKey, sessionToken] = ACCESS_KEY.exec(secret) ?? []
  if (found === undefined || accessKeyId === undefined || secretAccessKey === undefined) return undefined
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) }
}
