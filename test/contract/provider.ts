// A promised provider, set up as the catalog would. Owns calling its vendor: a request encoded, a recording decoded.
import type { ProviderConfig, ProviderKey, Target } from '../../gateway/policy/plan.ts'
import type { ProviderEvent } from '../../gateway/providers/event.ts'
import { dispatchOf, fleetWire } from '../../gateway/providers/fleet-wire.ts'
import type { AnswerDecoder, EncodeContext, HttpCall } from '../../gateway/providers/vendor.ts'
import { vendorOf } from '../../gateway/providers/vendors.ts'
import { DispatchRequest } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import { PLAIN_REQUEST } from './features.ts'
import type { Answer, Promised } from './promise.ts'
import type { Recording } from './recording.ts'

/** 2026-11-22T12:00:00Z */
const NOW_MS = 1_795_348_800_000

const keyOf = ({ secret }: Promised): ProviderKey => ({ name: 'first', secret, weight: 1 })

function configOf(promised: Promised): ProviderConfig {
  const { kind, preset, baseUrl, options, usageDialect } = promised
  return {
    name: 'provider',
    kind,
    baseUrl,
    reach: 'public',
    keys: [keyOf(promised)],
    ...(preset === undefined ? {} : { preset }),
    options: options ?? {},
    usageDialect,
    cutoff: 'drain',
  }
}

export const targetOf = ({ model }: Promised, serviceTier?: string): Target => ({
  provider: 'provider',
  model,
  contextTokens: 200_000,
  price: undefined,
  ...(serviceTier === undefined ? {} : { serviceTier }),
})

export const contextOf = (promised: Promised, maxOutputTokens?: number): EncodeContext => ({
  config: configOf(promised),
  key: keyOf(promised),
  ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
  requestId: '01a2b3c4-0000-7000-8000-000000000000',
  nowMs: () => NOW_MS,
})

/** What would be sent, with the body as JSON. */
export async function encode(
  promised: Promised,
  request: InferenceRequest,
  serviceTier?: string,
): Promise<Result<{ call: HttpCall; body: unknown }, Failure>> {
  const context = contextOf(promised, request.maxOutputTokens)
  const encoded = await vendorOf(promised.kind).encode(request, targetOf(promised, serviceTier), context)
  return encoded.ok ? ok({ call: encoded.value, body: JSON.parse(encoded.value.body) }) : encoded
}

/** What own backends would be sent, as they would read it. */
export async function encodeForFleet(request: InferenceRequest): Promise<Result<{ body: unknown }, Failure>> {
  const wire = fleetWire(request)
  if (!wire.ok) return wire
  const { maxOutputTokens } = request
  const dispatch = dispatchOf(
    request,
    wire.value,
    { model: 'own' },
    {
      requestId: '01a2b3c4-0000-7000-8000-000000000000',
      attempt: 1,
      tenant: 'tenant',
      deadlineInMs: 1000,
      seed: 1,
      ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    },
  )
  return ok({ body: DispatchRequest.parse(JSON.parse(JSON.stringify(dispatch))) })
}

export function decoderOf(promised: Promised, answer: Pick<Answer, 'request' | 'serviceTier'>): AnswerDecoder {
  const request = { ...PLAIN_REQUEST, ...answer.request }
  return vendorOf(promised.kind).decoder(request, targetOf(promised, answer.serviceTier), configOf(promised))
}

export const isStream = (promised: Promised, recording: Recording): boolean =>
  vendorOf(promised.kind).isStream(recording.contentType)

export const failureOf = (promised: Promised, { status, text, headers }: Recording): Failure =>
  vendorOf(promised.kind).failure(status, text, headers, NOW_MS)

/** A stream in the pieces that `cuts` make of it, and its end. */
export function read(decoder: AnswerDecoder, bytes: Uint8Array, cuts: readonly number[]): ProviderEvent[] {
  const events: ProviderEvent[] = []
  let at = 0
  for (const cut of [...cuts, bytes.length]) {
    events.push(...decoder.push(bytes.subarray(at, cut)))
    at = cut
  }
  events.push(...decoder.end())
  return events
}
