// The charts of the overview: spend, tokens and latency over time. Owns their cards.
import { count, countShort, duration, durationShort, percent, usd, usdShort } from '../../app/format.ts'
import type { Loaded } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import type { Amount, Series } from '../../app/stack.ts'
import type { Step, Tick } from '../../app/time-range.ts'
import { DIMENSIONS, METRICS, seriesBy, TOKEN_PARTS, valuesOver } from '../../app/usage.ts'
import { RANGE_SCHEMA, useUrlState } from '../../app/use-url.ts'
import type { Dimension, Usage } from '../../app/wire.ts'
import { localDate } from '../../app/zones.ts'
import { Chart } from '../../parts/chart.tsx'
import { Segments } from '../../parts/field.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Show } from '../../parts/states.tsx'

type Axis = { ticks: readonly Tick[]; step: Step; zone: string }
type Split = Extract<Dimension, 'model' | 'key' | 'provider' | 'project'>

const SPLITS: readonly Split[] = ['model', 'key', 'provider', 'project']
const CHART_PX = 240
/** Chart and legend. */
const BOX_PX = CHART_PX + 36

/** A click on a step of a chart shows that step alone. */
function useZoom(zone: string, step: Step): ((tick: Tick) => void) | undefined {
  const [, set] = useUrlState(RANGE_SCHEMA)
  if (step === 'hour') return undefined
  return ({ startMs, endMs }) =>
    set({ range: 'custom', from: localDate(zone, startMs), to: localDate(zone, endMs - 1) })
}

const ChartSkeleton = () => (
  <div class="chart-skeleton" style={{ height: `${BOX_PX}px` }} role="status" aria-label="Loading" />
)

const Nothing = () => (
  <div class="chart-nothing" style={{ minHeight: `${BOX_PX}px` }}>
    <Empty title="No requests in this range" icon="explore">
      Take a longer range, or another project.
    </Empty>
  </div>
)

export function SpendCard({
  usage,
  by,
  onBy,
  ...axis
}: Axis & { usage: Loaded<Usage>; by: Split; onBy: (by: Split) => void }) {
  const zoom = useZoom(axis.zone, axis.step)
  return (
    <Card
      title="Spend"
      about="By the time that requests started"
      actions={
        <>
          <Segments
            label="Spend by"
            value={by}
            onChange={onBy}
            choices={SPLITS.map((value) => ({ value, label: DIMENSIONS[value].label }))}
          />
          <a class="button button-small" href={href('/explore', { by: by === 'model' ? undefined : by })}>
            Explore
          </a>
        </>
      }
    >
      <Show of={usage} skeleton={<ChartSkeleton />}>
        {(data) =>
          data.data.length === 0 ? (
            <Nothing />
          ) : (
            <Chart
              {...axis}
              label={`Spend by ${by}`}
              series={seriesBy(data, axis.ticks, axis.step, by, METRICS.spend)}
              kind="bars"
              format={(value) => usd(BigInt(value))}
              axis={(value) => usdShort(BigInt(value))}
              csv={METRICS.spend.decimal}
              height={CHART_PX}
              {...(zoom === undefined ? {} : { onPick: zoom })}
            />
          )
        }
      </Show>
    </Card>
  )
}

export function TokensCard({ usage, ...axis }: Axis & { usage: Loaded<Usage> }) {
  const zoom = useZoom(axis.zone, axis.step)
  const series = (data: Usage): Series[] =>
    TOKEN_PARTS.map(({ id, label, parts }) => ({
      id,
      label,
      values: valuesOver(
        data,
        axis.ticks,
        axis.step,
        (sums) => parts.reduce((sum, part) => sum + sums.usage[part], 0),
        0,
      ),
    })).filter(({ values }) => values.some((value) => value !== 0))
  return (
    <Card title="Tokens" about="Parts do not overlap">
      <Show of={usage} skeleton={<ChartSkeleton />}>
        {(data) =>
          data.total.requests === 0 ? (
            <Nothing />
          ) : (
            <Chart
              {...axis}
              label="Tokens by part"
              series={series(data)}
              kind="bars"
              format={(value: Amount) => count(value)}
              axis={(value) => countShort(Number(value))}
              height={CHART_PX}
              {...(zoom === undefined ? {} : { onPick: zoom })}
            />
          )
        }
      </Show>
    </Card>
  )
}

const PERCENTILES = [
  { id: 'p50', label: 'p50', field: 'p50_ms' },
  { id: 'p95', label: 'p95', field: 'p95_ms' },
  { id: 'p99', label: 'p99', field: 'p99_ms' },
] as const

export function LatencyCard({
  usage,
  of,
  onOf,
  ...axis
}: Axis & { usage: Loaded<Usage>; of: 'total' | 'first_token'; onOf: (of: 'total' | 'first_token') => void }) {
  const series = (data: Usage): Series[] =>
    PERCENTILES.map(({ id, label, field }) => ({
      id,
      label,
      values: valuesOver(data, axis.ticks, axis.step, (sums) => sums.latency?.[of]?.[field]),
    }))
  return (
    <Card
      title="Latency"
      about={usage.data && `Requests that ended well; within ${percent(usage.data.latency_error)}`}
      actions={
        <Segments
          label="Latency of"
          value={of}
          onChange={onOf}
          choices={[
            { value: 'total', label: 'Whole answer' },
            { value: 'first_token', label: 'First token' },
          ]}
        />
      }
    >
      <Show of={usage} skeleton={<ChartSkeleton />}>
        {(data) =>
          data.total.requests === 0 ? (
            <Nothing />
          ) : (
            <Chart
              {...axis}
              label={of === 'total' ? 'Latency of whole answers' : 'Time to the first token'}
              series={series(data)}
              kind="lines"
              format={(value) => duration(Number(value))}
              axis={(value) => durationShort(Number(value))}
              height={CHART_PX}
            />
          )
        }
      </Show>
    </Card>
  )
}
