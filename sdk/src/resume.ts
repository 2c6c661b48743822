// Streams that the gateway keeps. Owns taking one up behind its last event, and ending it: a connection that ends does not.
import { type Call, modelOf, one, type Won } from './call.ts'
import type { Core } from './core.ts'
import { pause } from './deadline.ts'
import { pauseMs } from './retry-after.ts'
import { dialectFor, requestFor } from './target.ts'

/** Of one break; with their pauses some half a minute, in which a gateway is back many times over. */
const TRIES_MAX = 10
const CANCEL_MS = 10_000
/** Most often it is left because the gateway is away: one that is being restarted is back after a few seconds. */
const CANCEL_TRIES_MAX = 4

/** The gateway's id of a stream that it keeps. */
export const streamIdOf = ({ target, headers }: Won): string | undefined =>
  target.isGateway ? (headers.get('x-penstock-stream-id') ?? undefined) : undefined

/**
 * The rest of a stream.
 * @returns `gone` where the gateway has it no more, `lost` where it cannot be had now and may go on there.
 * @throws what the call was aborted with.
 */
export async function takenUp(
  core: Core,
  call: Call,
  { streamId, lastEventId, resumes }: { streamId: string; lastEventId: string | undefined; resumes: number },
): Promise<Won | 'gone' | 'lost'> {
  const { 'last-event-id': _, ...headers } = call.request.headers
  call.request = {
    method: 'GET',
    path: `/streams/${encodeURIComponent(streamId)}`,
    headers: { ...headers, ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }) },
    isStream: true,
    began: { dialect: dialectFor(call.request), model: modelOf(call) },
  }
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    await pause(pauseMs(Math.max(tries, resumes), undefined, core.random()), call.scope.signal)
    const outcome = await one(core, call, core.gateway)
    if (outcome.kind !== 'failed') return outcome
    if (!outcome.verdict.retryable) return outcome.verdict.code === 'not_found' ? 'gone' : 'lost'
  }
  return 'lost'
}

/** Nobody waits for it: a stream that nobody follows ends by itself a while later. */
export function cancelStream(core: Core, streamId: string): void {
  const path = `/streams/${encodeURIComponent(streamId)}/cancel`
  const request = { method: 'POST', path, body: {}, headers: {}, isStream: false } as const
  const asked = async (): Promise<boolean> => {
    const response = await core.fetch(await requestFor(core.gateway, request, {}), {
      signal: AbortSignal.timeout(CANCEL_MS),
    })
    await response.body?.cancel()
    return response.status < 500
  }
  const asking = async () => {
    for (let tries = 0; tries < CANCEL_TRIES_MAX; tries++) {
      if (tries > 0) await pause(pauseMs(tries, undefined, core.random()), new AbortController().signal)
      if (await asked().catch(() => false)) return
    }
  }
  void asking()
}
