// What is told of an answer: its usage to the application, and that of a direct call to the gateway, which has not seen it. Owns what
// a record says; the queue that it waits in is usage-queue.ts.
import { type Call, modelOf } from './call.ts'
import type { Core } from './core.ts'
import type { Usage } from './errors.ts'
import type { Target } from './target.ts'
import type { UsageRecord } from './usage-queue.ts'

/** Bounds of the gateway: beyond them a record would be refused. */
const MODEL_CHARS_MAX = 128
const NAME_CHARS_MAX = 64
const TAGS_MAX = 8
const TAG = /^([a-z][a-z0-9_-]{0,31})=([\w.:/@+-]{1,64})$/

export type Told = { target: Target; requestId?: string | undefined }

/** One answer, or one try of a direct provider that brought none. Each is told once. */
export function tell(core: Core, call: Call, by: Told, status: UsageRecord['status'], usage: Usage | undefined): void {
  const { target, requestId } = by
  if (usage !== undefined) {
    core.hook('onUsage', {
      ...usage,
      target: target.name,
      model: modelOf(call),
      requestId,
      idempotencyKey: call.idempotencyKey,
      isMetered: target.isGateway,
    })
  }
  if (!target.isGateway) core.reports.add(recordOf(core, call, target, status, usage))
}

function recordOf(
  core: Core,
  call: Call,
  target: Target,
  status: UsageRecord['status'],
  usage: Usage | undefined,
): UsageRecord {
  const nowMs = core.nowMs()
  const tried = call.attempts.findLast((one) => one.target === target.name)
  // A clock may be set back in between.
  const startedAtMs = Math.min(tried?.startedAtMs ?? nowMs, nowMs)
  const tags = tagsOf(core, call)
  return {
    id: core.newId(),
    model: (modelOf(call) ?? '').slice(0, MODEL_CHARS_MAX),
    provider: target.name.slice(0, NAME_CHARS_MAX),
    started_at: new Date(startedAtMs).toISOString(),
    ended_at: new Date(nowMs).toISOString(),
    status,
    usage: partsOf(usage),
    attempts: tried?.attempt ?? 1,
    reason: reasonOf(call, startedAtMs),
    ...(tags === undefined ? {} : { tags }),
  }
}

function partsOf(usage: Usage | undefined): UsageRecord['usage'] {
  if (usage === undefined) return {}
  const parts: UsageRecord['usage'] = {
    input_uncached: usage.inputTokens,
    input_cache_read: usage.cachedInputTokens,
    // Which of its lengths a provider wrote for is not told in all dialects; the short one is what it does unasked.
    input_cache_write_5m: usage.cacheWriteTokens,
    output_text: usage.outputTokens,
    output_reasoning: usage.reasoningTokens,
  }
  return Object.fromEntries(Object.entries(parts).filter(([, count]) => count > 0))
}

/** Why the gateway was passed. */
function reasonOf({ attempts }: Call, startedAtMs: number): string {
  const gateway = attempts.findLast(({ target }) => target === 'gateway')
  if (gateway === undefined) return 'breaker_open'
  const wasRunning = gateway.status === undefined || gateway.startedAtMs + gateway.durationMs > startedAtMs
  return gateway.code ?? (wasRunning ? 'slow' : 'interrupted')
}

function tagsOf(core: Core, call: Call): Record<string, string> | undefined {
  const headers = new Headers({ ...call.request.headers, ...core.gateway.headers, ...call.options.headers })
  const text = headers.get('x-penstock-tags')
  if (text === null) return undefined
  const pairs = text.split(',').flatMap((part) => {
    const [, name, value] = TAG.exec(part.trim()) ?? []
    return name === undefined || value === undefined ? [] : [[name, value] as const]
  })
  return Object.fromEntries(pairs.slice(0, TAGS_MAX))
}
