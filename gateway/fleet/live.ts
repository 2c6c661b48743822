// The fleet as administrators see it, once or as a stream. Owns what is shown of a backend, and the events: a snapshot when something
// changed, at most one a second, comments in between, and an end after some minutes, so that a page that is left open keeps neither
// an isolate nor a right that was taken away; one that has stopped reading ends sooner, and leaves its place to others.
import { type CapacityFrame, type KvTransfer, MAC_TYPES, type StepModel } from '../../protocol/capacity.ts'
import type { Env } from '../env.ts'
import { failureResponse } from '../errors.ts'
import { errorText, log } from '../observe/log.ts'
import { SSE_HEADERS } from '../stream/sse.ts'
import type { BackendSummary } from './fleet.ts'

/** Backends report each second: to look more often shows nothing new. */
const LOOK_EVERY_MS = 1_000
/** Proxies take a connection that is silent for half a minute for a dead one. */
const KEEP_ALIVE_MS = 15_000
/** After it the page asks again, with its credential. */
const STREAM_MS = 300_000
/** Before a page asks again: enough not to hurry, too short to be noticed. */
const RETRY_MS = 1_000
/** What is said has to be taken by then. Longer than a phone needs to change its network; sockets hold what comes in between. */
const TAKEN_WITHIN_MS = 30_000
/** Of one isolate; each asks the Fleet object once a second. */
const STREAMS_MAX = 32

let streams = 0

export function fleetEvents(env: Env, requestId: string): Response {
  if (streams >= STREAMS_MAX) {
    const message = `${STREAMS_MAX} pages follow the fleet here already.`
    return failureResponse({ code: 'overloaded', message, retryAfterMs: 10_000 }, requestId)
  }
  // Counted from its first read on: the answer to HEAD is never read, and nobody says that it is over.
  let isRead = false
  let isOver = false
  const end = () => {
    if (untaken !== undefined) clearTimeout(untaken)
    if (isRead && !isOver) streams--
    isOver = true
  }
  const encoder = new TextEncoder()
  const endsAtMs = Date.now() + STREAM_MS
  let shown: string | undefined
  let spokeAtMs = 0
  let untaken: ReturnType<typeof setTimeout> | undefined
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        if (!isRead) streams++
        isRead = true
        if (untaken !== undefined) clearTimeout(untaken)
        const say = (text: string) => {
          spokeAtMs = Date.now()
          controller.enqueue(encoder.encode(text))
          // Nobody pulls from behind a connection that takes nothing more, and nobody cancels it either.
          untaken = setTimeout(() => {
            end()
            log('info', 'fleet_events_not_read', { requestId })
            controller.error(new Error(`nothing was read for ${TAKEN_WITHIN_MS} ms`))
          }, TAKEN_WITHIN_MS)
        }
        try {
          while (!isOver) {
            if (Date.now() >= endsAtMs) {
              say(`retry: ${RETRY_MS}\n\n`)
              end()
              controller.close()
              return
            }
            if (shown !== undefined) await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS))
            const data = (await env.FLEET.getByName('default').list()).map(backendJson)
            // How old a report is changes while nothing does.
            const seen = JSON.stringify(data.map((backend) => ({ ...backend, report_age_ms: null })))
            if (isOver) return
            if (seen !== shown) {
              const hint = shown === undefined ? `retry: ${RETRY_MS}\n` : ''
              shown = seen
              return say(
                `${hint}event: snapshot\ndata: ${JSON.stringify({ as_of: new Date().toISOString(), data })}\n\n`,
              )
            }
            if (Date.now() - spokeAtMs >= KEEP_ALIVE_MS) return say(': the same\n\n')
          }
        } catch (error) {
          end()
          log('warn', 'fleet_events_broke_off', { requestId, error: errorText(error) })
          controller.error(error)
        }
      },
      cancel: end,
    },
    { highWaterMark: 0 },
  )
  return new Response(body, { headers: { ...SSE_HEADERS, 'cache-control': 'no-store' } })
}

export const backendJson = (one: BackendSummary) => ({
  id: one.backendId,
  url: one.url,
  label: one.label,
  enrolled_at: new Date(one.enrolledAtMs).toISOString(),
  state: one.state,
  report_age_ms: one.reportAgeMs ?? null,
  /** What was asked for; what has become of it stands with the engines below. */
  desired: one.desired ?? null,
  kv_chunks: one.kv.chunks,
  kv_chunks_left_out: one.kv.leftOut,
  models: one.models.map(engineJson),
})

const engineJson = (frame: CapacityFrame) => ({
  model: frame.model,
  engine: frame.engine ?? null,
  role: frame.role,
  draining: frame.draining,
  ready: frame.notReady === undefined,
  not_ready_reason: frame.notReady ?? null,
  canary_failures: frame.canaryFailures ?? 0,
  transfer: frame.transfer === undefined ? null : transferOf(frame.transfer),
  step_model: frame.stepModel === undefined ? null : stepModelOf(frame.stepModel),
  context_tokens: frame.contextTokensMax,
  requests_queued: frame.requestsQueued,
  requests_queued_max: frame.requestsQueuedMax,
  sequences_running: frame.sequencesRunning,
  sequences_waiting: frame.sequencesWaiting,
  sequences_max: frame.sequencesMax,
  kv_blocks_used: frame.kvBlocksUsed,
  kv_blocks_cached: frame.kvBlocksCached,
  kv_blocks_total: frame.kvBlocksTotal,
  block_tokens: frame.blockTokens,
  prefill_tokens_queued: frame.prefillTokensQueued,
  decode_kv_tokens: frame.decodeKvTokens,
  step_ms: frame.stepMs,
  prefill_tokens_per_second: frame.measuredPrefillTokensPerSecond ?? null,
  decode_tokens_per_second: frame.measuredDecodeTokensPerSecond ?? null,
  memory_bytes_per_second: frame.memoryBytesPerSecond ?? null,
  memory_bytes_per_second_max: frame.memoryBytesPerSecondMax ?? null,
  macs_per_second: known(frame.macs?.[0]),
  macs_per_second_max: known(frame.macs?.[1]),
  macs_type: MAC_TYPES[frame.macs?.[2] ?? -1] ?? null,
  busy_share: frame.busyShare ?? null,
})

/** From billions; 0 is not known. */
const known = (giga: number | undefined) => (giga === undefined || giga === 0 ? null : giga * 1e9)

const transferOf = (transfer: KvTransfer) => ({
  fingerprint: transfer.fingerprint,
  host: transfer.host,
  remote: transfer.remote,
  bytes_per_token: transfer.bytesPerToken,
  measured_bytes_per_second: transfer.measuredBytesPerSecond ?? null,
  reservations: transfer.reservations,
})

const stepModelOf = (model: StepModel) => ({
  base_ms: model.baseMs,
  prefill_token_ms: model.prefillTokenMs,
  decode_sequence_ms: model.decodeSequenceMs,
  kv_token_ms: model.kvTokenMs,
})
