// The agent's numbers in Prometheus text ○. Owns names and format. What inference autoscalers and gateways look for goes
// by the names and meanings that vLLM gave it; what is counted per dispatch, and what has no such name, by our own.
import type { CapacityFrame } from '../protocol/capacity.ts'
import type { Stats } from '../protocol/engine-status.ts'
import type { CanaryCounters } from './canary.ts'
import type { HandoffCounters } from './handoff/handoffs.ts'

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
  engines: {
    /** Absent where there is only one. */
    name?: string
    /** Absent before it was ready for the first time. */
    frame: CapacityFrame | undefined
    /** Absent while it does not run. Its totals begin anew with each process, as those of any. */
    stats: Stats | undefined
    reservations: number
    canary: CanaryCounters
  }[]
  counters: AgentCounters
  handoffs: HandoffCounters
}

type Engine = AgentNumbers['engines'][number]
type Value = number | bigint | undefined
type Sample = { labels: Record<string, string>; value: Value }
type Metric = { name: string; type: 'gauge' | 'counter'; help: string; samples: Sample[] }

/** The text of GET /metrics; numbers that are not known are left out. */
export function metricsText(numbers: AgentNumbers): string {
  const lines = metricsOf(numbers).flatMap(({ name, type, help, samples }) => {
    const known = samples.filter(({ value }) => value !== undefined)
    if (known.length === 0) return []
    const values = known.map(({ labels, value }) => {
      const all = Object.entries({ model_name: numbers.model, ...labels })
      return `${name}{${all.map(([key, text]) => `${key}="${escaped(text)}"`).join(',')}} ${value}`
    })
    return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...values]
  })
  return `${lines.join('\n')}\n`
}

const escaped = (text: string) => text.replace(/[\\"]/g, '\\$&').replaceAll('\n', '\\n')

function metricsOf({ engines, counters, handoffs }: AgentNumbers): Metric[] {
  type Read = (engine: Engine) => Value
  const of = (engine: Engine): Record<string, string> => (engine.name === undefined ? {} : { engine: engine.name })
  const each = (read: Read): Sample[] => engines.map((engine) => ({ labels: of(engine), value: read(engine) }))
  const gauge = (name: string, help: string, read: Read): Metric => ({ name, type: 'gauge', help, samples: each(read) })
  const total = (name: string, help: string, read: Read): Metric => ({
    name,
    type: 'counter',
    help,
    samples: each(read),
  })
  const counter = (name: string, help: string, value: number): Metric => {
    return { name, type: 'counter', help, samples: [{ labels: {}, value }] }
  }
  const waiting: Read = ({ frame }) => frame && frame.sequencesWaiting + frame.requestsQueued
  const kvShare: Read = ({ frame }) =>
    frame && (frame.kvBlocksTotal === 0 ? 0 : frame.kvBlocksUsed / frame.kvBlocksTotal)
  return [
    gauge('vllm:num_requests_running', 'Sequences in the running batch.', ({ frame }) => frame?.sequencesRunning),
    gauge('vllm:num_requests_waiting', 'Requests and sequences waiting.', waiting),
    gauge('vllm:kv_cache_usage_perc', 'Share of KV blocks held by sequences, 0 to 1.', kvShare),
    total('vllm:num_preemptions_total', 'Sequences set back to make room.', ({ stats }) => stats?.preemptions),
    total(
      'vllm:prefix_cache_queries_total',
      'Prompt tokens looked up in the prefix cache.',
      ({ stats }) => stats?.promptTokens,
    ),
    total('vllm:prefix_cache_hits_total', 'Of these, found there.', ({ stats }) => stats?.cachedTokens),
    gauge('penstock_requests_max', 'Sequences computed at once at most.', ({ frame }) => frame?.sequencesMax),
    gauge('penstock_prefix_cache_blocks', 'KV blocks in the prefix cache.', ({ frame }) => frame?.kvBlocksCached),
    gauge('penstock_step_milliseconds', 'Duration of the last engine step.', ({ frame }) => frame?.stepMs),
    gauge('penstock_reservations', 'Prompts whose blocks are set aside.', ({ reservations }) => reservations),
    gauge(
      'penstock_engine_ready',
      '1: it is given work. 0: it is starting, or failed its canary.',
      ({ frame, stats }) => (stats !== undefined && frame !== undefined && frame.notReady === undefined ? 1 : 0),
    ),
    {
      name: 'penstock_canary_total',
      type: 'counter',
      help: 'Known questions to an idle engine, by what became of them.',
      samples: engines.flatMap((engine) =>
        Object.entries(engine.canary).map(([outcome, value]) => ({ labels: { ...of(engine), outcome }, value })),
      ),
    },
    counter('penstock_dispatches_total', 'Dispatches admitted.', counters.dispatches),
    counter('penstock_refusals_total', 'Dispatches refused before any event.', counters.refusals),
    counter('penstock_failures_total', 'Dispatches that ended in an error or lost their caller.', counters.failures),
    counter('penstock_input_tokens_total', 'Prompt tokens computed.', counters.inputTokens),
    counter('penstock_cached_input_tokens_total', 'Prompt tokens from the cache.', counters.cachedInputTokens),
    counter('penstock_output_tokens_total', 'Tokens sampled.', counters.outputTokens),
    counter('penstock_engine_restarts_total', 'Engine processes lost.', counters.engineRestarts),
    {
      name: 'penstock_handoffs_total',
      type: 'counter',
      help: 'Prompts that could have been handed over, by what became of it.',
      samples: Object.entries(handoffs.outcomes).map(([outcome, value]) => ({ labels: { outcome }, value })),
    },
    counter('penstock_handoff_tokens_total', 'Prompt tokens whose K and V came from elsewhere.', handoffs.tokens),
    counter('penstock_handoff_bytes_total', 'Bytes of these K and V.', handoffs.bytes),
    counter('penstock_prefill_degraded_total', 'Prompts that no prefill engine could take.', handoffs.degraded),
    counter('penstock_prompts_pushed_total', 'Prompts computed for other engines.', handoffs.pushed),
    counter('penstock_prompts_refused_total', 'Prompts of other engines refused.', handoffs.pushesRefused),
  ]
}
