// The figures at the head of the overview, each with its change and its course. Owns which there are and where they lead.
import { count, countShort, duration, NOTHING, nanoUsd, percent, usd, usdExact } from '../../app/format.ts'
import { href } from '../../app/router.ts'
import type { Step, Tick } from '../../app/time-range.ts'
import { errorRate, type MetricName, secondTries, valuesOver } from '../../app/usage.ts'
import type { Sums, Usage } from '../../app/wire.ts'
import { Note } from '../../parts/states.tsx'
import { Tile, Tiles } from '../../parts/tile.tsx'

type Read = {
  label: string
  /** Absent: nothing was measured. */
  value: (sums: Sums) => number | bigint | undefined
  text: (value: number | bigint) => string
  exact?: (value: number | bigint) => string
  good: 'up' | 'down' | 'none'
  note?: (sums: Sums) => string | undefined
  page: string
  query: Record<string, string | undefined>
}

const inUsd = (value: number | bigint) => usd(BigInt(value))
const inMs = (value: number | bigint) => duration(Number(value))

const FIGURES: readonly Read[] = [
  {
    label: 'Spend',
    value: (sums) => nanoUsd(sums.cost_nanousd),
    text: inUsd,
    exact: (value) => usdExact(BigInt(value)),
    good: 'none',
    page: '/explore',
    query: { metric: undefined },
  },
  {
    label: 'Requests',
    value: (sums) => sums.requests,
    text: (value) => count(value),
    good: 'none',
    page: '/requests',
    query: {},
  },
  {
    label: 'Tokens',
    value: (sums) => sums.input_tokens + sums.output_tokens,
    text: (value) => countShort(Number(value)),
    exact: (value) => count(value),
    good: 'none',
    note: (sums) => `${countShort(sums.input_tokens)} in, ${countShort(sums.output_tokens)} out`,
    page: '/explore',
    query: { metric: 'tokens' },
  },
  {
    label: 'Error rate',
    value: errorRate,
    text: (value) => percent(Number(value)),
    good: 'down',
    note: (sums) => `${count(sums.failed_requests)} failed`,
    page: '/explore',
    query: { metric: 'errors', by: 'status' },
  },
  {
    label: 'Cache savings',
    value: (sums) => nanoUsd(sums.cache_savings_nanousd),
    text: inUsd,
    exact: (value) => usdExact(BigInt(value)),
    good: 'up',
    note: cachedShare,
    page: '/explore',
    query: { metric: 'savings' },
  },
  latency('Latency p50', 'total', 'p50_ms', 'p50'),
  latency('Latency p95', 'total', 'p95_ms', 'p95'),
  latency('Latency p99', 'total', 'p99_ms', 'p99'),
  latency('First token p50', 'first_token', 'p50_ms', 'first_token_p50', (sums) => {
    const p95 = sums.latency?.first_token?.p95_ms
    return p95 === undefined ? undefined : `p95 ${duration(p95)}`
  }),
  {
    label: 'Fallback and hedge cost',
    value: (sums) => secondTries(sums).costNanoUsd,
    text: inUsd,
    exact: (value) => usdExact(BigInt(value)),
    good: 'down',
    note: (sums) => `${count(secondTries(sums).attempts)} extra attempts`,
    page: '/explore',
    query: { metric: 'second_tries', by: 'provider' },
  },
]

function latency(
  label: string,
  of: 'total' | 'first_token',
  which: 'p50_ms' | 'p95_ms' | 'p99_ms',
  metric: MetricName,
  note?: Read['note'],
): Read {
  return {
    label,
    value: (sums) => sums.latency?.[of]?.[which],
    text: inMs,
    good: 'down',
    page: '/explore',
    query: { metric },
    ...(note === undefined ? {} : { note }),
  }
}

function cachedShare(sums: Sums): string | undefined {
  return sums.input_tokens === 0 ? undefined : `${percent(sums.usage.input_cache_read / sums.input_tokens)} of input`
}

export function Headline({
  usage,
  before,
  ticks,
  step,
}: {
  usage: Usage
  before: Sums | undefined
  ticks: readonly Tick[]
  step: Step
}) {
  const { total } = usage
  return (
    <div class="headline">
      <Tiles>
        {FIGURES.map((figure) => (
          <Figure
            key={figure.label}
            figure={figure}
            total={total}
            before={before}
            trend={trendOf(figure, usage, ticks, step)}
          />
        ))}
      </Tiles>
      <Doubts total={total} />
    </div>
  )
}

/** The course of a figure; steps that have not come yet are left out, so that the line does not fall at its end. */
function trendOf(figure: Read, usage: Usage, ticks: readonly Tick[], step: Step): (number | undefined)[] {
  const untilMs = Date.parse(usage.data_until)
  const past = ticks.filter(({ startMs }) => startMs < untilMs)
  return valuesOver(usage, past, step, figure.value, undefined).map((value) =>
    value === undefined ? undefined : Number(value),
  )
}

function Figure({
  figure,
  total,
  before,
  trend,
}: {
  figure: Read
  total: Sums
  before: Sums | undefined
  trend: (number | undefined)[]
}) {
  const value = figure.value(total)
  const earlier = before === undefined ? undefined : figure.value(before)
  const exact = figure.exact ?? figure.text
  const delta =
    value === undefined || earlier === undefined
      ? undefined
      : {
          now: Number(value),
          before: Number(earlier),
          good: figure.good,
          title: `${exact(earlier)} in the period before`,
        }
  return (
    <Tile
      label={figure.label}
      value={value === undefined ? NOTHING : figure.text(value)}
      title={value === undefined ? undefined : exact(value)}
      delta={delta}
      note={figure.note?.(total)}
      href={href(figure.page, figure.query)}
      trend={trend}
    />
  )
}

/** What of the sums is not exact, where something is not. */
function Doubts({ total }: { total: Sums }) {
  const doubts = [
    [total.estimated_attempts, 'are estimates'],
    [total.partial_attempts, 'were counted from a stream that broke off'],
    [total.unpriced_attempts, 'had no price and were charged nothing'],
    [total.inconsistent_attempts, 'contradict themselves'],
  ] as const
  const told = doubts.filter(([attempts]) => attempts > 0)
  if (told.length === 0) return null
  return (
    <Note kind={total.unpriced_attempts > 0 ? 'warning' : 'info'}>
      Of {count(total.attempts)} attempts {told.map(([attempts, what]) => `${count(attempts)} ${what}`).join(', ')}.
    </Note>
  )
}

export const HeadlineSkeleton = () => (
  <div class="headline">
    <Tiles>
      {FIGURES.map(({ label }) => (
        <Tile key={label} label={label} value={<span class="value-skeleton" />} />
      ))}
    </Tiles>
  </div>
)
