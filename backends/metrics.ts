// The agent's numbers in Prometheus text ○. Owns names and format. What inference autoscalers and gateways look for goes
// by the names and meanings that vLLM gave it; what is counted per dispatch, and what has no such name, by our own.
import type { CapacityFrame } from '../protocol/capacity.ts'
import type { Stats } from '../protocol/engine-frames.ts'

/** Since the agent started. */
export type AgentCounters = {
  dispatches: number
  refusals: number
  failures: number
  inputTokens: number
  cachedInputTokens: number
  outputTokens: number
  engineRestarts: number
}

export type AgentNumbers = {
  model: string
  /** Absent before the first engine was ready. */
  frame: CapacityFrame | undefined
  /** Absent while no engine runs. Its totals begin anew with each engine, as those of any process. */
  stats: Stats | undefined
  counters: AgentCounters
}

type Metric = { name: string; type: 'gauge' | 'counter'; help: string; value: number | bigint | undefined }

const gauge = (name: string, help: string, value: Metric['value']): Metric => ({ name, type: 'gauge', help, value })
const counter = (name: string, help: string, value: Metric['value']): Metric => ({ name, type: 'counter', help, value })

/** The text of GET /metrics; numbers that are not known are left out. */
export function metricsText(numbers: AgentNumbers): string {
  const label = `model_name="${numbers.model.replace(/[\\"]/g, '\\$&').replaceAll('\n', '\\n')}"`
  const lines = metricsOf(numbers).flatMap(({ name, type, help, value }) =>
    value === undefined ? [] : [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, `${name}{${label}} ${value}`],
  )
  return `${lines.join('\n')}\n`
}

function metricsOf({ frame, stats, counters }: AgentNumbers): Metric[] {
  const waiting = frame && frame.sequencesWaiting + frame.requestsQueued
  const kvShare = frame && (frame.kvBlocksTotal === 0 ? 0 : frame.kvBlocksUsed / frame.kvBlocksTotal)
  return [
    gauge('vllm:num_requests_running', 'Sequences in the running batch.', frame?.sequencesRunning),
    gauge('vllm:num_requests_waiting', 'Requests and sequences waiting.', waiting),
    gauge('vllm:kv_cache_usage_perc', 'Share of KV blocks held by sequences, 0 to 1.', kvShare),
    counter('vllm:num_preemptions_total', 'Sequences set back to make room.', stats?.preemptions),
    counter('vllm:prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.', stats?.promptTokens),
    counter('vllm:prefix_cache_hits_total', 'Of these, found there.', stats?.cachedTokens),
    gauge('penstock_requests_max', 'Sequences computed at once at most.', frame?.sequencesMax),
    gauge('penstock_prefix_cache_blocks', 'KV blocks in the prefix cache.', frame?.kvBlocksCached),
    gauge('penstock_step_milliseconds', 'Duration of the last engine step.', frame?.stepMs),
    counter('penstock_dispatches_total', 'Dispatches admitted.', counters.dispatches),
    counter('penstock_refusals_total', 'Dispatches refused before any event.', counters.refusals),
    counter('penstock_failures_total', 'Dispatches that ended in an error or lost their caller.', counters.failures),
    counter('penstock_input_tokens_total', 'Prompt tokens computed.', counters.inputTokens),
    counter('penstock_cached_input_tokens_total', 'Prompt tokens from the cache.', counters.cachedInputTokens),
    counter('penstock_output_tokens_total', 'Tokens sampled.', counters.outputTokens),
    counter('penstock_engine_restarts_total', 'Engine processes lost.', counters.engineRestarts),
  ]
}
