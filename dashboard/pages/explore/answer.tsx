// The answer to a question of Explore. Owns the headline with its change, the chart over time, and the table whose last row is
// the headline again.
import { countShort, durationShort, NOTHING, percent, usdShort } from '../../app/format.ts'
import { href } from '../../app/router.ts'
import { type Amount, OTHER, topSeries } from '../../app/stack.ts'
import type { Step, Tick } from '../../app/time-range.ts'
import {
  type GroupBy,
  groupLabel,
  isTag,
  METRICS,
  type Metric,
  type MetricName,
  nameOf,
  seriesBy,
  shareText,
} from '../../app/usage.ts'
import { useUrlState } from '../../app/use-url.ts'
import type { Sums, Usage, UsageLine } from '../../app/wire.ts'
import { Chart, COLOURS, fileName } from '../../parts/chart.tsx'
import { Empty, Note } from '../../parts/states.tsx'
import { type Column, Table } from '../../parts/table.tsx'
import { Change } from '../../parts/tile.tsx'
import { activeFilters, FILTER_SCHEMA } from './filters.tsx'

const CHART_PX = 300

const text = (metric: Metric, value: Amount | undefined): string =>
  value === undefined ? NOTHING : metric.format(value)

function axisText(metric: Metric): (value: Amount) => string {
  if (metric.isMoney === true) return (value) => usdShort(BigInt(value))
  if (metric.needsLatency === true) return (value) => durationShort(Number(value))
  return metric.adds ? (value) => countShort(Number(value)) : (value) => percent(Number(value))
}

export const AnswerSkeleton = () => (
  <div class="chart-skeleton" style={{ height: `${CHART_PX + 88}px` }} role="status" aria-label="Loading" />
)

export function Answer({
  usage,
  before,
  metric,
  by,
  ticks,
  step,
  zone,
}: {
  usage: Usage
  before: Sums | undefined
  metric: Metric
  by: GroupBy
  ticks: readonly Tick[]
  step: Step
  zone: string
}) {
  const value = metric.read(usage.total)
  const earlier = before === undefined ? undefined : metric.read(before)
  const all = seriesBy(usage, ticks, step, by, metric)
  // Rates and percentiles cannot be added up: of those only the first are drawn.
  const series = metric.adds ? topSeries(all, COLOURS) : all.filter(({ id }) => id !== OTHER).slice(0, COLOURS)
  const isUntimed =
    metric.needsLatency === true && series.every(({ values }) => values.every((one) => one === undefined))
  return (
    <>
      <div class="explore-head">
        <div>
          <h2 class="tile-label">{metric.label}</h2>
          <p class="explore-figure">{text(metric, value)}</p>
        </div>
        {value !== undefined && earlier !== undefined && (
          <p class="explore-change">
            <Change now={Number(value)} before={Number(earlier)} good={metric.good} title="" /> against{' '}
            {text(metric, earlier)} in the period before
          </p>
        )}
      </div>
      {usage.total.requests === 0 ? (
        <Empty title="No requests in this range" icon="explore">
          Take a longer range, or remove a filter.
        </Empty>
      ) : isUntimed ? (
        <Note>
          Latencies are not kept by {groupLabel(by).toLowerCase()}: take another dimension, or look at single requests.
        </Note>
      ) : (
        <Chart
          label={`${metric.label} by ${groupLabel(by).toLowerCase()}`}
          ticks={ticks}
          step={step}
          zone={zone}
          series={series}
          kind={metric.adds ? 'bars' : 'lines'}
          format={metric.format}
          axis={axisText(metric)}
          csv={metric.decimal}
          height={CHART_PX}
        />
      )}
    </>
  )
}

/** Beside the metric asked for, what a line is made of. */
const BESIDE: readonly MetricName[] = ['spend', 'requests', 'input_tokens', 'output_tokens', 'error_rate']

export function Breakdown({
  usage,
  metric: asked,
  by,
  and,
}: {
  usage: Usage
  metric: MetricName
  by: GroupBy
  and: GroupBy | undefined
}) {
  const [filters] = useUrlState(FILTER_SCHEMA)
  const metric = METRICS[asked]
  const whole = metric.read(usage.total)
  const groups = and === undefined ? [by] : [by, and]
  const behind = (line: UsageLine) => requestsBehind(line, groups, usage, activeFilters(filters))
  const columns: Column<UsageLine>[] = [
    ...groups.map((group, index): Column<UsageLine> => {
      const label = (line: UsageLine) => nameOf(line, group, usage.names).label
      return {
        id: index === 0 ? 'by' : 'and',
        head: groupLabel(group),
        value: label,
        cell: (line) => {
          const to = index === 0 ? behind(line) : undefined
          return to === undefined ? label(line) : <a href={to}>{label(line)}</a>
        },
      }
    }),
    metricColumn('metric', metric),
    ...(metric.adds && whole !== undefined
      ? [
          {
            id: 'share',
            head: 'Share',
            align: 'end',
            value: (line) => Number(metric.read(line) ?? 0) / (Number(whole) || 1),
            cell: (line) => <span class="muted">{shareText(metric.read(line) ?? 0, whole)}</span>,
          } satisfies Column<UsageLine>,
        ]
      : []),
    ...BESIDE.filter((name) => name !== asked).map((name) => metricColumn(name, METRICS[name])),
  ]
  const foot = Object.fromEntries([
    ['by', { text: metric.adds ? 'Sum' : 'All', csv: metric.adds ? 'Sum' : 'All' }],
    ...[
      ['metric', metric] as const,
      ...BESIDE.filter((name) => name !== asked).map((name) => [name, METRICS[name]] as const),
    ].map(([id, one]) => {
      const value = one.read(usage.total)
      return [id, { text: text(one, value), csv: value === undefined ? undefined : { decimal: one.decimal(value) } }]
    }),
  ])
  const title = `${metric.label} by ${groups.map((group) => groupLabel(group).toLowerCase()).join(' and ')}`
  return (
    <>
      <Table
        caption={title}
        showCaption
        columns={columns}
        rows={usage.data}
        rowKey={(line) => groups.map((group) => nameOf(line, group, usage.names).id).join(' ')}
        defaultSort={{ column: 'metric', descending: true }}
        sortParam="sort"
        href={behind}
        file={fileName(title)}
        foot={foot}
        empty={<Empty title="No requests in this range" icon="explore" />}
      />
      {usage.folded && (
        <Note>
          There were too many {groups.includes('end_user') ? 'end users' : 'values of a tag'} to name each of them all
          the time: the others are added up as “*”, and a line can be short of what it used then.
        </Note>
      )}
    </>
  )
}

const metricColumn = (id: string, metric: Metric): Column<UsageLine> => ({
  id,
  head: metric.label,
  align: 'end',
  value: (line) => metric.read(line),
  cell: (line) => text(metric, metric.read(line)),
  csv: (line) => {
    const value = metric.read(line)
    return value === undefined ? undefined : { decimal: metric.decimal(value) }
  },
})

/** The log of requests that a line was added up from; nothing for `Other`, which no filter names. */
function requestsBehind(
  line: UsageLine,
  groups: readonly GroupBy[],
  usage: Usage,
  filters: Record<string, string>,
): string | undefined {
  const query: Record<string, string> = { ...filters }
  for (const group of groups) {
    const { id } = nameOf(line, group, usage.names)
    if (id === OTHER || id === '*') return undefined
    if (!isTag(group)) query[group] = id
    else query.tag = id === 'none' ? `!${group.slice('tag:'.length)}` : `${group.slice('tag:'.length)}=${id}`
  }
  return href('/requests', query)
}
