// Answers of /usage as charts and tables need them. Owns the dimensions with their words, what a line is called, the metrics
// and how each is read from sums, and the turning of lines into series. ○ Pure.
import { count, duration, nanoUsd, percent, shareOf, usd } from './format.ts'
import { type Amount, OTHER, type Series } from './stack.ts'
import type { Step, Tick } from './time-range.ts'
import type { Dimension, Names, Sums, Usage, UsageLine } from './wire.ts'

type DimensionWords = { label: string; plural: string; field: keyof UsageLine; none: string }

export const DIMENSIONS: Readonly<Record<Dimension, DimensionWords>> = {
  model: { label: 'Model', plural: 'models', field: 'model', none: 'No model' },
  key: { label: 'Key', plural: 'keys', field: 'key_id', none: 'No key' },
  project: { label: 'Project', plural: 'projects', field: 'project_id', none: 'No project' },
  provider: { label: 'Provider', plural: 'providers', field: 'provider', none: 'No provider' },
  model_served: { label: 'Model served', plural: 'models served', field: 'model_served', none: 'None' },
  user: { label: 'User', plural: 'users', field: 'user_id', none: 'No user' },
  team: { label: 'Team', plural: 'teams', field: 'team_id', none: 'No team' },
  end_user: { label: 'End user', plural: 'end users', field: 'end_user', none: 'No end user' },
  backend: { label: 'Backend', plural: 'backends', field: 'backend_id', none: 'Not on own machines' },
  status: { label: 'Status', plural: 'statuses', field: 'status', none: 'No status' },
}

/** `tag:feature` groups by the values of one tag. */
export type GroupBy = Dimension | `tag:${string}`

export const isTag = (group: GroupBy): group is `tag:${string}` => group.startsWith('tag:')

export const groupLabel = (group: GroupBy): string =>
  isTag(group) ? `Tag ${group.slice('tag:'.length)}` : DIMENSIONS[group].label

/** Id and name of a line in one of its dimensions. The id is what a filter takes. */
export function nameOf(line: UsageLine, group: GroupBy, names: Names | undefined): { id: string; label: string } {
  if (line.other === true) return { id: OTHER, label: 'Other' }
  if (isTag(group)) return tagName(line.tag)
  const { field, none } = DIMENSIONS[group]
  const value = line[field]
  if (typeof value !== 'string') return { id: 'none', label: none }
  return { id: value, label: labelOf(value, group, names) }
}

/** In the place of values, or of end users, that were too many to tell apart. */
const FOLDED = '*'
const FOLDED_LABEL = 'Too many to tell apart'

function tagName(value: string | null | undefined): { id: string; label: string } {
  if (value === null || value === undefined) return { id: 'none', label: 'Without this tag' }
  return value === FOLDED ? { id: value, label: FOLDED_LABEL } : { id: value, label: value }
}

/** The name that belongs to an id, or the id itself where it has none any more. */
export function labelOf(id: string, dimension: Dimension, names: Names | undefined): string {
  switch (dimension) {
    case 'key': {
      const key = names?.keys?.[id]
      return key === undefined ? shortId(id) : `${key.name}${key.revoked ? ' (revoked)' : ''}`
    }
    case 'project':
      return names?.projects?.[id] ?? shortId(id)
    case 'user':
      return names?.users?.[id] ?? shortId(id)
    case 'team':
      return names?.teams?.[id] ?? shortId(id)
    case 'backend':
      return names?.backends?.[id] ?? shortId(id)
    case 'end_user':
      return id === FOLDED ? FOLDED_LABEL : id
    default:
      return id
  }
}

/** The beginning of a uuid: enough to tell apart what is on one screen. */
const shortId = (id: string): string => (id.length === 36 ? id.slice(0, 8) : id)

// ── Metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

export type MetricName =
  | 'spend'
  | 'requests'
  | 'tokens'
  | 'input_tokens'
  | 'output_tokens'
  | 'cached_tokens'
  | 'errors'
  | 'error_rate'
  | 'savings'
  | 'absorbed'
  | 'second_tries'
  | 'provider_cost'
  | 'p50'
  | 'p95'
  | 'p99'
  | 'first_token_p50'
  | 'first_token_p95'

export type Metric = {
  label: string
  /** Absent: nothing was measured. */
  read: (sums: Sums) => Amount | undefined
  format: (value: Amount) => string
  /** A decimal, for files. */
  decimal: (value: Amount) => string
  /** Whether parts add up to the whole: rates and percentiles do not. */
  adds: boolean
  good: 'up' | 'down' | 'none'
  isMoney?: boolean
  needsLatency?: boolean
}

const plainCount = { format: (value: Amount) => count(value), decimal: String, adds: true }
const money = { format: (value: Amount) => usd(BigInt(value)), decimal: usdDecimal, adds: true, isMoney: true }
const milliseconds = {
  format: (value: Amount) => duration(Number(value)),
  decimal: String,
  adds: false,
  good: 'down',
  needsLatency: true,
} as const

/** `12.5`, for files. */
function usdDecimal(value: Amount): string {
  const amount = BigInt(value)
  const digits = (amount < 0n ? -amount : amount).toString().padStart(10, '0')
  const fraction = digits.slice(-9).replace(/0+$/, '')
  return `${amount < 0n ? '-' : ''}${digits.slice(0, -9)}${fraction === '' ? '' : `.${fraction}`}`
}

const percentile = (label: string, of: 'total' | 'first_token', which: 'p50_ms' | 'p95_ms' | 'p99_ms'): Metric => ({
  label,
  read: (sums) => sums.latency?.[of]?.[which],
  ...milliseconds,
})

export const METRICS: Readonly<Record<MetricName, Metric>> = {
  spend: { label: 'Spend', read: (sums) => nanoUsd(sums.cost_nanousd), ...money, good: 'none' },
  requests: { label: 'Requests', read: (sums) => sums.requests, ...plainCount, good: 'none' },
  tokens: { label: 'Tokens', read: (sums) => sums.input_tokens + sums.output_tokens, ...plainCount, good: 'none' },
  input_tokens: { label: 'Input tokens', read: (sums) => sums.input_tokens, ...plainCount, good: 'none' },
  output_tokens: { label: 'Output tokens', read: (sums) => sums.output_tokens, ...plainCount, good: 'none' },
  cached_tokens: {
    label: 'Cached input tokens',
    read: (sums) => sums.usage.input_cache_read,
    ...plainCount,
    good: 'up',
  },
  errors: { label: 'Failed requests', read: (sums) => sums.failed_requests, ...plainCount, good: 'down' },
  error_rate: {
    label: 'Error rate',
    read: errorRate,
    format: (value) => percent(Number(value)),
    decimal: String,
    adds: false,
    good: 'down',
  },
  savings: { label: 'Cache savings', read: (sums) => nanoUsd(sums.cache_savings_nanousd), ...money, good: 'up' },
  absorbed: { label: 'Absorbed cost', read: (sums) => nanoUsd(sums.absorbed_nanousd), ...money, good: 'down' },
  second_tries: {
    label: 'Fallback and hedge cost',
    read: (sums) => secondTries(sums).costNanoUsd,
    ...money,
    good: 'down',
  },
  provider_cost: {
    label: 'Provider cost',
    read: (sums) => nanoUsd(sums.provider_cost_nanousd),
    ...money,
    good: 'none',
  },
  p50: percentile('Latency p50', 'total', 'p50_ms'),
  p95: percentile('Latency p95', 'total', 'p95_ms'),
  p99: percentile('Latency p99', 'total', 'p99_ms'),
  first_token_p50: percentile('First token p50', 'first_token', 'p50_ms'),
  first_token_p95: percentile('First token p95', 'first_token', 'p95_ms'),
}

export const METRIC_NAMES = Object.keys(METRICS).filter((name): name is MetricName => Object.hasOwn(METRICS, name))

/** Of requests that ended; nothing where there were none. */
export function errorRate(sums: Sums): number | undefined {
  return sums.requests === 0 ? undefined : sums.failed_requests / sums.requests
}

/** What was paid for attempts beyond the first: charged to the customer, and borne by the gateway. */
export function secondTries(sums: Sums): { costNanoUsd: bigint; attempts: number } {
  const roles = Object.values(sums.roles)
  return {
    costNanoUsd: roles.reduce((sum, role) => sum + nanoUsd(role.cost_nanousd) + nanoUsd(role.absorbed_nanousd), 0n),
    attempts: roles.reduce((sum, role) => sum + role.attempts, 0),
  }
}

export const TOKEN_PARTS = [
  { id: 'input_uncached', label: 'Input', parts: ['input_uncached'] },
  { id: 'input_cache_read', label: 'Cached input', parts: ['input_cache_read'] },
  { id: 'cache_write', label: 'Cache writes', parts: ['input_cache_write_5m', 'input_cache_write_1h'] },
  { id: 'output_text', label: 'Output', parts: ['output_text'] },
  { id: 'output_reasoning', label: 'Reasoning', parts: ['output_reasoning'] },
  { id: 'media', label: 'Audio and images', parts: ['input_audio', 'input_image', 'output_audio', 'output_image'] },
] as const

// ── Series ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const tickKey = (line: UsageLine, step: Step): string | undefined => line[step]

/** Lines grouped by time and one dimension, largest first, `other` last. Steps without usage count nothing. */
export function seriesBy(usage: Usage, ticks: readonly Tick[], step: Step, group: GroupBy, metric: Metric): Series[] {
  const places = new Map(ticks.map(({ key }, index) => [key, index]))
  const found = new Map<string, { id: string; label: string; values: (Amount | undefined)[] }>()
  for (const line of usage.data) {
    const place = places.get(tickKey(line, step) ?? '')
    if (place === undefined) continue
    const { id, label } = nameOf(line, group, usage.names)
    const known = found.get(id) ?? { id, label, values: empty(ticks.length, metric) }
    known.values[place] = metric.read(line)
    found.set(id, known)
  }
  const weight = ({ values }: Series) => values.reduce<number>((sum, value) => sum + Number(value ?? 0), 0)
  return [...found.values()].sort((a, b) => {
    if (a.id === OTHER || b.id === OTHER) return a.id === OTHER ? 1 : -1
    return weight(b) - weight(a)
  })
}

/** What adds up is zero where nothing happened; a percentile of nothing is a gap. */
const empty = (length: number, metric: Pick<Metric, 'adds' | 'isMoney'>): (Amount | undefined)[] =>
  new Array(length).fill(metric.adds ? (metric.isMoney ? 0n : 0) : undefined)

/** Lines grouped by time alone, as one value for each step. */
export function valuesOver(
  usage: Usage,
  ticks: readonly Tick[],
  step: Step,
  read: (sums: Sums) => Amount | undefined,
  gap?: Amount,
): (Amount | undefined)[] {
  const lines = new Map(usage.data.map((line) => [tickKey(line, step), line]))
  return ticks.map(({ key }) => {
    const line = lines.get(key)
    return line === undefined ? gap : read(line)
  })
}

/** A part of a whole in words, exact for money. */
export function shareText(part: Amount, whole: Amount): string {
  if (Number(whole) === 0) return ''
  const share =
    typeof part === 'bigint' && typeof whole === 'bigint' ? shareOf(part, whole) : Number(part) / Number(whole)
  // A part that is there is never said to be nothing.
  return percent(share === 0 && Number(part) > 0 ? Number.MIN_VALUE : share)
}
