// How long a prompt is by a target's own count, where its vendor tells that for nothing. Owns that one call: one try, a short
// wait, and no answer where it fails; a caller that counts can live with an estimate.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { errorText, log } from '../observe/log.ts'
import type { ProviderConfig, ProviderKey, Target } from '../policy/plan.ts'
import type { Fetch } from '../policy/reach.ts'
import { readLimited } from './bounded-body.ts'
import { cleanFailure, cleanText, secretsIn } from './secret-text.ts'
import { vendorOf } from './vendors.ts'

/** A count computes nothing: a vendor that takes longer is in trouble. */
const COUNT_TIMEOUT_MS = 5000
const COUNT_BYTES_MAX = 16 * 1024

export type CountContext = {
  /** The one of the provider's keys to ask with. */
  key: ProviderKey
  fetch: Fetch
  requestId: string
  nowMs: () => number
}

/**
 * @returns `undefined` where the vendor does not count or could not; `err` where it finds a fault in the request itself,
 *   which it would find in the real one too.
 */
export async function countTokens(
  request: InferenceRequest,
  target: Target,
  config: ProviderConfig,
  context: CountContext,
): Promise<Result<number | undefined, Failure>> {
  const { key, fetch, requestId, nowMs } = context
  const vendor = vendorOf(config.kind)
  const counter = vendor.countTokens
  if (counter === undefined) return ok(undefined)
  const call = await counter.encode(request, target, { config, key, requestId, nowMs })
  if (!call.ok) return call
  const { url, headers, body } = call.value
  const secrets = secretsIn(key.secret)
  const fields = { requestId, provider: config.name, key: key.name }
  try {
    const signal = AbortSignal.timeout(COUNT_TIMEOUT_MS)
    const init = { method: 'POST', headers, body, redirect: 'manual', signal } as const
    const response = await fetch(url, init, config.reach)
    const text = await readLimited(response, COUNT_BYTES_MAX)
    if (response.status === 200) return ok(counter.read(text))
    const failure = cleanFailure(vendor.failure(response.status, text, response.headers, nowMs()), secrets)
    if (failure.code === 'invalid_request' || failure.code === 'request_too_large') return err(failure)
    log('warn', 'count_refused', { ...fields, status: response.status, code: failure.code, kind: failure.kind })
  } catch (error) {
    log('warn', 'count_failed', { ...fields, error: cleanText(errorText(error), secrets) })
  }
  return ok(undefined)
}
