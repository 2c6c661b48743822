// POST /prefill: a prompt that another backend's decode engine wants computed. Owns what the request has to bring along and
// the answer; the queue and the engine are prefill-desk.ts, who may ask prefill-authority.ts.
import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Draw } from '../../protocol/engine-handoff.ts'
import { PREFILL_PROOF_HEADER, type PrefillReply, PrefillRequest } from '../../protocol/prefill.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { malformed, type Refusal, readBody, sendJson, sendRefusal } from '../http-body.ts'
import { isRemoteAddress } from './addresses.ts'
import type { PrefillAuthority } from './prefill-authority.ts'
import type { PrefillDesk, PushAsk } from './prefill-desk.ts'

export type PrefillRoute = {
  authority: PrefillAuthority
  desk: Pick<PrefillDesk, 'push'>
  model: string
  /** Checked before anything is read: whether prompts are taken at all. */
  closed: () => Refusal | undefined
  refused: () => void
  /** Monotonic milliseconds. */
  nowMs: () => number
}

export async function handlePrefill(request: IncomingMessage, response: ServerResponse, route: PrefillRoute) {
  const arrivedMs = route.nowMs()
  const refuse = (refusal: Refusal) => {
    route.refused()
    sendRefusal(response, refusal)
  }
  const closed = route.closed()
  if (closed !== undefined) return refuse(closed)
  const proof = request.headers[PREFILL_PROOF_HEADER]
  const { authorization } = request.headers
  const granted = await route.authority.check(authorization, typeof proof === 'string' ? proof : undefined)
  if (!granted.ok) return refuse(granted.error)
  const body = await readBody(request)
  if (!body.ok) return refuse(body.error)
  const parsed = parsePrefill(body.value, request.socket.remoteAddress)
  if (!parsed.ok) return refuse(parsed.error)
  const { model, requestId, tenant } = parsed.value
  const { model: grantedModel, request_id: grantedRequest, tenant: grantedTenant, leftMs } = granted.value
  if (model !== grantedModel || requestId !== grantedRequest || tenant !== grantedTenant)
    return refuse(malformed('the grant is for another prompt'))
  if (model !== route.model)
    return refuse({ status: 404, failure: { code: 'model_not_found', message: 'this model is not served here' } })
  // Last: a grant that was good and a body that was not may be sent again.
  const redeemed = await route.authority.redeem(granted.value, body.value)
  if (!redeemed.ok) return refuse(redeemed.error)

  const gone = new AbortController()
  const leave = () => gone.abort()
  response.on('close', leave)
  if (response.destroyed) leave()
  try {
    // The grant ends with its dispatch: whoever says more and reads slowly would hold the prompt's blocks for as long.
    const deadlineAtMs = arrivedMs + Math.min(parsed.value.deadlineInMs, Math.max(0, leftMs))
    const end = await route.desk.push(askOf(parsed.value, deadlineAtMs), gone.signal)
    switch (end.kind) {
      case 'arrived': {
        const { computedTokens, cachedTokens, leftOverMs = null } = end
        return sendJson(response, 200, { computedTokens, cachedTokens, leftOverMs } satisfies PrefillReply)
      }
      case 'refused':
        return refuse({ status: end.failure.code === 'invalid_request' ? 400 : 429, failure: end.failure })
      case 'failed': {
        const message = `the keys and values could not be handed over: ${end.reason}`
        return refuse({ status: 503, failure: { code: 'internal', message } })
      }
      default:
        return end satisfies never
    }
  } finally {
    response.off('close', leave)
  }
}

function parsePrefill(body: Uint8Array, from: string | undefined): Result<PrefillRequest, Refusal> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    return err(malformed('the body is not JSON in UTF-8'))
  }
  const parsed = PrefillRequest.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    return err(malformed(issue?.message ?? 'the body is no prefill', issue?.path.join('.')))
  }
  // Of this machine's own sockets a stranger names none.
  if (!isRemoteAddress(parsed.data.address, from))
    return err(malformed('the address is not one of a network', 'address'))
  return ok(parsed.data)
}

/** Its numbers are the engine's to check. */
function drawOf({ seeds, logprobsTop, grammar, ...rest }: NonNullable<PrefillRequest['draw']>): Draw {
  return {
    ...rest,
    seeds: seeds.map((seed) => BigInt(`0x${seed}`)),
    ...(logprobsTop === undefined ? {} : { logprobsTop }),
    ...(grammar === undefined ? {} : { grammar }),
  }
}

function askOf(request: PrefillRequest, deadlineAtMs: number): PushAsk {
  const { tokens, draw, chunks, firstBlock, address, fingerprint, priority, tenant, transfer } = request
  const tenantNumber = createHash('sha256').update(tenant).digest().readBigUInt64LE()
  return {
    tokens,
    ...(draw === undefined ? {} : { draw: drawOf(draw) }),
    ...(chunks === undefined ? {} : { chunks }),
    firstBlock,
    address,
    fingerprint,
    grant: {
      id: BigInt(`0x${transfer.id}`),
      generation: BigInt(`0x${transfer.generation}`),
      secret: Uint8Array.from(Buffer.from(transfer.secret, 'base64')),
    },
    priority,
    tenant,
    tenantNumber,
    salt: tenantNumber,
    deadlineAtMs,
  }
}
