// Asking a backend of another host to compute a prompt. Owns the request, its signature and what each answer means; whom to ask,
// and when, is handover.ts.
import { z } from 'zod'
import { DispatchRefusal, type PrefillWorker } from '../../protocol/dispatch.ts'
import { PREFILL_PATH, PREFILL_PROOF_HEADER, PrefillReply, type PrefillRequest } from '../../protocol/prefill.ts'
import type { Identity } from '../identity.ts'
import { messageOf } from '../log.ts'
import { REMOTE_OVERHEAD_MS } from './decision.ts'
import type { PushAsk, PushEnd } from './prefill-desk.ts'

const REPLY_CHARS_MAX = 64 * 1024
/** On top of the prompt's own time: the other side is the one to give up. */
const ANSWER_GRACE_MS = 2000
/** Fewer would not reach the other side. */
const DEADLINE_MIN_MS = 1
const TIMER_MS_MAX = 2 ** 31 - 1

export type PrefillClientOptions = {
  identity: Pick<Identity, 'signFor'>
  model: string
  requestId: string
  /** Where the engine that gets K and V is reached from other hosts. */
  address: string
  /** What so many tokens take there, as far as that is known here. */
  computeMs: (tokens: number) => number
  nowMs: () => number
}

/** Never throws. @param signal closes the request, which cancels it there. */
export async function pushByWorker(
  worker: PrefillWorker,
  ask: PushAsk,
  options: PrefillClientOptions,
  signal: AbortSignal,
): Promise<PushEnd> {
  const { identity, model, requestId, address, computeMs, nowMs } = options
  const beganMs = nowMs()
  const leftMs = Math.min(TIMER_MS_MAX, Math.max(DEADLINE_MIN_MS, Math.floor(ask.deadlineAtMs - nowMs())))
  const body: PrefillRequest = {
    version: 1,
    requestId,
    model,
    fingerprint: ask.fingerprint,
    tokens: ask.tokens,
    ...(ask.draw === undefined
      ? {}
      : { draw: { ...ask.draw, seeds: ask.draw.seeds.map((seed) => seed.toString(16)) } }),
    ...(ask.chunks === undefined ? {} : { chunks: [...ask.chunks] }),
    firstBlock: ask.firstBlock,
    address,
    transfer: {
      id: ask.grant.id.toString(16),
      generation: ask.grant.generation.toString(16),
      secret: Buffer.from(ask.grant.secret).toString('base64'),
    },
    priority: ask.priority,
    deadlineInMs: leftMs,
    tenant: ask.tenant,
  }
  const bytes = new TextEncoder().encode(JSON.stringify(body))
  const timer = AbortSignal.timeout(Math.min(TIMER_MS_MAX, leftMs + ANSWER_GRACE_MS))
  try {
    const response = await fetch(`${worker.url.replace(/\/+$/, '')}${PREFILL_PATH}`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        authorization: `Bearer ${worker.grant}`,
        [PREFILL_PROOF_HEADER]: await identity.signFor(worker.backendId, bytes),
      },
      body: bytes,
      redirect: 'error',
      signal: AbortSignal.any([timer, signal]),
    })
    const value = z.json().parse(JSON.parse(await boundedText(response)))
    if (response.ok) {
      const { computedTokens, cachedTokens, leftOverMs = undefined } = PrefillReply.parse(value)
      if (leftOverMs === null) return { kind: 'arrived', computedTokens, cachedTokens }
      const ownMs = Math.max(0, nowMs() - beganMs - REMOTE_OVERHEAD_MS - computeMs(computedTokens))
      return { kind: 'arrived', computedTokens, cachedTokens, leftOverMs: leftOverMs ?? ownMs }
    }
    const { code, message } = DispatchRefusal.parse(value)
    // With this one alone something may have been sent.
    if (response.status === 503 && code === 'internal') return { kind: 'failed', reason: message }
    return { kind: 'refused', failure: { code, message } }
  } catch (thrown) {
    const reason = messageOf(thrown)
    // Nothing was sent where nobody was reached; whatever else broke off may have begun.
    if (!signal.aborted && !timer.aborted && isUnreached(thrown))
      return { kind: 'refused', failure: { code: 'overloaded', message: reason } }
    return { kind: 'failed', reason }
  }
}

/** Of another host's words no more is kept than an answer has. @throws Error where it goes on. */
async function boundedText(response: Response): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true })
    if (text.length > REPLY_CHARS_MAX) throw new Error('the answer is too long')
  }
  return text + decoder.decode()
}

const UNREACHED = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EAI_AGAIN',
  'UND_ERR_CONNECT_TIMEOUT',
])

function isUnreached(thrown: unknown): boolean {
  const cause = thrown instanceof Error ? thrown.cause : undefined
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  return typeof code === 'string' && UNREACHED.has(code)
}
