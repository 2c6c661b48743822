// The agent's numbers in Prometheus text ○. Owns names and format. The first four carry the names that inference
// autoscalers and gateways look for; the rest are our own.
import type { CapacityFrame } from '../protocol/capacity.ts'

export type AgentCounters = {
  dispatches: number
  refusals: number
  failures: number
  inputTokens: number
  cachedInputTokens: number
  outputTokens: number
  engineRestarts: number
}

export function metricsText(frame: CapacityFrame | undefined, counters: AgentCounters): string {
  const lines: string[] = []
  const add = (name: string, type: 'gauge' | 'counter', help: string, value: number) => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, `${name} ${value}`)
  }
  if (frame !== undefined) {
    const kvUsage = frame.kvBlocksTotal === 0 ? 0 : frame.kvBlocksUsed / frame.kvBlocksTotal
    const waiting = frame.sequencesWaiting + frame.requestsQueued
    add('penstock:num_requests_running', 'gauge', 'Sequences in the running batch.', frame.sequencesRunning)
    add('penstock:num_requests_waiting', 'gauge', 'Requests and sequences waiting.', waiting)
    add('penstock:kv_cache_usage_perc', 'gauge', 'Share of KV blocks in use, 0 to 1.', kvUsage)
    add('penstock:num_requests_max', 'gauge', 'Sequences computed at once at most.', frame.sequencesMax)
    add('penstock_step_milliseconds', 'gauge', 'Duration of the last engine step.', frame.stepMs)
  }
  add('penstock_dispatches_total', 'counter', 'Dispatches admitted.', counters.dispatches)
  add('penstock_refusals_total', 'counter', 'Dispatches refused before any event.', counters.refusals)
  add(
    'penstock_failures_total',
    'counter',
    'Dispatches that ended in an error event or lost their caller.',
    counters.failures,
  )
  add('penstock_input_tokens_total', 'counter', 'Prompt tokens computed.', counters.inputTokens)
  add('penstock_cached_input_tokens_total', 'counter', 'Prompt tokens from the cache.', counters.cachedInputTokens)
  add('penstock_output_tokens_total', 'counter', 'Tokens sampled.', counters.outputTokens)
  add('penstock_engine_restarts_total', 'counter', 'Engine processes lost.', counters.engineRestarts)
  return `${lines.join('\n')}\n`
}
