// Explore: any metric by up to two dimensions and time. Owns the question, which stands in the address as a whole, and its
// answers: a headline, a chart and a table that both add up to it.
import { useEffect } from 'preact/hooks'
import { api } from '../app/api.ts'
import { useLoad } from '../app/load.ts'
import { useProject } from '../app/scope.ts'
import { orgId } from '../app/session.ts'
import { STEPS, stepFits, ticksOf } from '../app/time-range.ts'
import { type Codec, oneOf, optionalText, wholeNumber } from '../app/url-state.ts'
import { type GroupBy, METRIC_NAMES, METRICS } from '../app/usage.ts'
import { useRange, useUrlState } from '../app/use-url.ts'
import type { Usage, UsageTags } from '../app/wire.ts'
import { fetchPlot } from '../parts/chart.tsx'
import { Card, Page } from '../parts/page.tsx'
import { Show, Skeleton } from '../parts/states.tsx'
import { Answer, AnswerSkeleton, Breakdown } from './explore/answer.tsx'
import { Controls } from './explore/controls.tsx'
import { FILTER_SCHEMA, FilterBar, filterQuery } from './explore/filters.tsx'

const GROUPS = [
  'model',
  'key',
  'project',
  'provider',
  'model_served',
  'user',
  'team',
  'end_user',
  'backend',
  'status',
] as const
const TOP_MAX = 200

const isGroup = (text: string): text is GroupBy =>
  GROUPS.some((group) => group === text) || /^tag:[^,]{1,64}$/.test(text)

/** A dimension or the name of a tag. */
const group = <Fallback extends GroupBy | undefined>(fallback: Fallback): Codec<GroupBy | Fallback> => ({
  read: (text) => (text !== undefined && isGroup(text) ? text : fallback),
  write: (value) => (value === fallback ? undefined : value),
})

const EXPLORE_SCHEMA = {
  metric: oneOf(METRIC_NAMES, 'spend'),
  by: group('model'),
  // Absent: one dimension.
  and: group(undefined),
  step: oneOf(['auto', ...STEPS], 'auto'),
  top: wholeNumber(10, 1, TOP_MAX),
  sort: optionalText,
}
export type ExploreState = ReturnType<typeof useUrlState<typeof EXPLORE_SCHEMA>>[0]

export default function ExplorePage() {
  useEffect(() => void fetchPlot().catch(() => undefined), [])
  const [state, set] = useUrlState(EXPLORE_SCHEMA)
  const [filters] = useUrlState(FILTER_SCHEMA)
  const { span, previous, zone, from, to } = useRange()
  const project = useProject()
  const metric = METRICS[state.metric]
  const and = state.and === state.by ? undefined : state.and
  const step = state.step === 'auto' || !stepFits(span, state.step) ? span.step : state.step
  const shared = { org: orgId.value, time_zone: zone, ...filterQuery(filters), project: project ?? filters.project }
  const lines = metric.needsLatency === true ? 'lines' : 'none'
  const usage = (query: Record<string, string | number | undefined> | undefined) => {
    const asked = query === undefined ? undefined : { ...shared, ...query }
    return useLoad(asked && JSON.stringify(asked), (signal) => api.get<Usage>('/usage', asked, signal))
  }
  const table = usage({
    from,
    to,
    group_by: and === undefined ? state.by : `${state.by},${and}`,
    top: state.top,
    latency: lines,
  })
  const chart = usage({ from, to, group_by: `${step},${state.by}`, top: state.top, latency: lines })
  const before = usage(
    previous && {
      from: new Date(previous.fromMs).toISOString(),
      to: new Date(previous.toMs).toISOString(),
      group_by: 'none',
      latency: metric.needsLatency === true ? 'total' : 'none',
    },
  )
  const tags = useLoad(`tags ${shared.org} ${from} ${to}`, (signal) =>
    api.get<UsageTags>('/usage/tags', { org: shared.org, project, from, to }, signal),
  )
  const names = table.data?.names
  return (
    <Page title="Explore" ranged dataUntil={table.data?.data_until}>
      <Card>
        <div class="explore-question">
          <Controls
            state={state}
            onChange={set}
            step={step}
            span={span}
            tags={tags.data?.data.map(({ name }) => name) ?? []}
          />
          <FilterBar names={names} range={{ from, to }} />
        </div>
      </Card>
      <Card>
        <Show of={chart} skeleton={<AnswerSkeleton />}>
          {(data) => (
            <Answer
              usage={data}
              before={previous && before.data?.total}
              metric={metric}
              by={state.by}
              ticks={ticksOf(span, step, zone)}
              step={step}
              zone={zone}
            />
          )}
        </Show>
      </Card>
      <Card flush>
        <Show of={table} skeleton={<Skeleton rows={8} height={28} />}>
          {(data) => <Breakdown usage={data} metric={state.metric} by={state.by} and={and} />}
        </Show>
      </Card>
    </Page>
  )
}
