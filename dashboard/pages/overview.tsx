// Overview: what was used, what it cost, how it went, against the period before. Owns the loading and the order of the page;
// its pieces are overview/*.tsx. Every figure leads to Explore or to the requests behind it.
import { useEffect } from 'preact/hooks'
import { api } from '../app/api.ts'
import { useLoad } from '../app/load.ts'
import { useProject } from '../app/scope.ts'
import { can, orgId } from '../app/session.ts'
import { ticksOf } from '../app/time-range.ts'
import { oneOf } from '../app/url-state.ts'
import { useRange, useUrlState } from '../app/use-url.ts'
import type { Usage } from '../app/wire.ts'
import { fetchPlot } from '../parts/chart.tsx'
import { Columns, Page } from '../parts/page.tsx'
import { ProjectSelect } from '../parts/project-select.tsx'
import { Show } from '../parts/states.tsx'
import { Budgets } from './overview/budgets.tsx'
import { LatencyCard, SpendCard, TokensCard } from './overview/charts.tsx'
import { FirstRun, useIsFirstRun } from './overview/first-run.tsx'
import { Headline, HeadlineSkeleton } from './overview/headline.tsx'
import { Ranking } from './overview/ranking.tsx'

const SCHEMA = {
  by: oneOf(['model', 'key', 'provider', 'project'], 'model'),
  latency: oneOf(['total', 'first_token'], 'total'),
}
/** Series of a chart beside `Other`: more cannot be told apart. */
const SERIES = 7
const RANKED = 6
/** As often as a look at the page is worth. */
const REFRESH_MS = 60_000

export default function OverviewPage() {
  useEffect(() => void fetchPlot().catch(() => undefined), [])
  const [{ by, latency }, set] = useUrlState(SCHEMA)
  const { span, previous, zone, from, to } = useRange()
  const project = useProject()
  const shared = { org: orgId.value, project, time_zone: zone }
  const usage = (name: string, query: Record<string, string | number | undefined> | undefined) => {
    const asked = query === undefined ? undefined : { ...shared, ...query }
    return useLoad(
      asked === undefined ? undefined : `${name} ${JSON.stringify(asked)}`,
      (signal) => api.get<Usage>('/usage', asked, signal),
      { everyMs: REFRESH_MS },
    )
  }
  const now = usage('now', { from, to, group_by: span.step, latency: 'lines' })
  const before = usage(
    'before',
    previous && { from: iso(previous.fromMs), to: iso(previous.toMs), group_by: 'none', latency: 'total' },
  )
  const split = usage('split', { from, to, group_by: `${span.step},${by}`, top: SERIES, latency: 'none' })
  const keys = usage('keys', { from, to, group_by: 'key', top: RANKED, latency: 'none' })
  const models = usage('models', { from, to, group_by: 'model', top: RANKED, latency: 'none' })
  const isFirstRun = useIsFirstRun(now.data?.total.requests === 0)
  const ticks = ticksOf(span, span.step, zone)

  if (isFirstRun)
    return (
      <Page title="Overview">
        <FirstRun onArrived={now.reload} />
      </Page>
    )
  return (
    <Page title="Overview" ranged dataUntil={now.data?.data_until} actions={<ProjectSelect />}>
      <Show of={now} skeleton={<HeadlineSkeleton />}>
        {(data) => <Headline usage={data} before={previous && before.data?.total} ticks={ticks} step={span.step} />}
      </Show>
      <SpendCard usage={split} ticks={ticks} step={span.step} zone={zone} by={by} onBy={(next) => set({ by: next })} />
      <Columns>
        <Ranking usage={keys} dimension="key" />
        <Ranking usage={models} dimension="model" />
        {can('limits.read') && <Budgets />}
      </Columns>
      <Columns>
        <TokensCard usage={now} ticks={ticks} step={span.step} zone={zone} />
        <LatencyCard
          usage={now}
          ticks={ticks}
          step={span.step}
          zone={zone}
          of={latency}
          onOf={(next) => set({ latency: next })}
        />
      </Columns>
    </Page>
  )
}

const iso = (atMs: number): string => new Date(atMs).toISOString()
