// Health: how each target and each key does. Owns the tab; the rows are health-rows.ts.
import { ago, count, duration, NOTHING, percent } from '../../app/format.ts'
import type { Loaded } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import { oneOf } from '../../app/url-state.ts'
import { useUrlState } from '../../app/use-url.ts'
import type { Model, Provider, ProvidersHealth } from '../../app/wire-admin.ts'
import { Badge, Status } from '../../parts/badge.tsx'
import { Segments } from '../../parts/field.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Show, Skeleton } from '../../parts/states.tsx'
import { type Column, Table } from '../../parts/table.tsx'
import { Tile, Tiles } from '../../parts/tile.tsx'
import {
  failuresOf,
  type HealthRow,
  healthRows,
  type KeyRow,
  keyRows,
  STANDING_ABOUT,
  STANDING_KINDS,
  STANDING_WORDS,
  successOf,
  totals,
} from './health-rows.ts'

const FILTERS = { window: oneOf(['5', '60'] as const, '60') }
const RANGES = { 5: '1h', 60: '1h' } as const

export function Health({
  health,
  providers,
  models,
}: {
  health: Loaded<ProvidersHealth>
  providers: readonly Provider[]
  models: readonly Model[]
}) {
  const [filters, setFilters] = useUrlState(FILTERS)
  const minutes = filters.window === '5' ? 5 : 60
  return (
    <Show
      of={health}
      skeleton={
        <div class="stack">
          <Skeleton rows={1} height={96} />
          <Skeleton rows={8} height={36} />
        </div>
      }
    >
      {(data) => {
        const rows = healthRows(data, models, minutes)
        const keys = keyRows(providers, data)
        return (
          <div class="stack">
            <Headline rows={rows} keys={keys} minutes={minutes} />
            <Card flush>
              <Table
                caption="Targets"
                showCaption
                columns={targetColumns(minutes)}
                rows={rows}
                rowKey={({ id }) => id}
                sortParam="sort"
                defaultSort={{ column: 'attempts', descending: true }}
                file="provider-health"
                actions={
                  <Segments
                    label="Window"
                    value={filters.window}
                    onChange={(window) => setFilters({ window })}
                    choices={[
                      { value: '5', label: '5 min' },
                      { value: '60', label: '60 min' },
                    ]}
                  />
                }
                empty={
                  <Empty title="No target yet" icon="providers">
                    Models name targets; what they did stands here.
                  </Empty>
                }
              />
              <p class="table-note">
                Attempts of all organisations, by the rows that have reached the database{' '}
                {ago(Date.parse(data.as_of), Date.now())}. Breakers are what the isolate that answered this page knows:
                others may know better, and one that has seen no traffic knows nothing.
              </p>
            </Card>
            <Card flush>
              <Table
                caption="Provider keys"
                showCaption
                columns={KEY_COLUMNS}
                rows={keys}
                rowKey={({ id }) => id}
                file="provider-keys"
                empty={
                  <Empty title="No provider yet" icon="providers">
                    Own machines need none. The configuration tab adds them.
                  </Empty>
                }
              />
            </Card>
          </div>
        )
      }}
    </Show>
  )
}

function Headline({ rows, keys, minutes }: { rows: readonly HealthRow[]; keys: readonly KeyRow[]; minutes: 5 | 60 }) {
  const sums = totals(rows)
  const unwell = rows.filter(({ breaker }) => breaker !== undefined && breaker.standing !== 'closed')
  const distinct = new Set(unwell.map(({ provider, model }) => `${provider}/${model}`))
  const resting = keys.filter(({ breakers }) => breakers.some(({ standing }) => standing !== 'closed'))
  const success = sums.ok + sums.failed === 0 ? undefined : sums.ok / (sums.ok + sums.failed)
  return (
    <Tiles>
      <Tile
        label={`Attempts in ${minutes} min`}
        value={count(sums.attempts)}
        note={`${count(Math.round(sums.perMinute * 10) / 10)} a minute`}
        href={href('/requests', { range: RANGES[minutes] })}
      />
      <Tile
        label="Answered"
        value={success === undefined ? NOTHING : percent(success)}
        note={`${count(sums.failed)} failed, ${count(sums.cancelled)} cancelled`}
      />
      <Tile
        label="Breakers open or half open"
        value={count(distinct.size)}
        note={distinct.size === 0 ? 'as far as this isolate knows' : [...distinct].slice(0, 2).join(', ')}
      />
      <Tile
        label="Keys resting"
        value={count(resting.length)}
        note={`of ${count(keys.length)}, ${count(keys.filter(({ disabled }) => disabled).length)} disabled`}
      />
    </Tiles>
  )
}

const amount = (
  id: string,
  head: string,
  pick: (window: NonNullable<HealthRow['window']>) => number | null | undefined,
  text: (value: number) => string,
): Column<HealthRow> => ({
  id,
  head,
  align: 'end',
  value: ({ window }) => (window === undefined ? undefined : (pick(window) ?? undefined)),
  cell: ({ window }) => {
    const value = window === undefined ? undefined : pick(window)
    return value === undefined || value === null ? <span class="muted">{NOTHING}</span> : text(value)
  },
})

const targetColumns = (minutes: 5 | 60): Column<HealthRow>[] => [
  {
    id: 'target',
    head: 'Target',
    grow: true,
    value: ({ provider, model }) => `${provider}/${model}`,
    cell: ({ provider, model, key }) => (
      <span class="target-name">
        <a href={href('/requests', { provider, model_served: model, range: RANGES[minutes] })}>
          {provider}/{model}
        </a>
        {key !== undefined && <span class="muted small">key {key}</span>}
      </span>
    ),
  },
  {
    id: 'breaker',
    head: 'Breaker',
    value: ({ breaker }) => breaker?.standing,
    cell: ({ breaker }) =>
      breaker === undefined ? (
        <span class="muted" title="This isolate has not called it">
          Unknown here
        </span>
      ) : (
        <span
          title={`${STANDING_ABOUT[breaker.standing]}. ${breaker.failures_in_row} failures in a row, ${breaker.in_flight} in flight.`}
        >
          <Status
            kind={
              breaker.standing === 'closed' && breaker.failures_in_row > 0
                ? 'warning'
                : STANDING_KINDS[breaker.standing]
            }
          >
            {STANDING_WORDS[breaker.standing]}
            {breaker.standing === 'closed' &&
              breaker.failures_in_row > 0 &&
              `, ${count(breaker.failures_in_row)} failed in a row`}
            {breaker.until !== null &&
              breaker.standing === 'resting' &&
              ` ${ago(Date.parse(breaker.until), Date.now())}`}
          </Status>
        </span>
      ),
  },
  {
    id: 'success',
    head: 'Answered',
    align: 'end',
    value: ({ window }) => (window === undefined ? undefined : successOf(window)),
    cell: ({ window }) => {
      const share = window === undefined ? undefined : successOf(window)
      if (share === undefined) return <span class="muted">{NOTHING}</span>
      return <span class={share < 0.5 ? 'is-bad' : share < 0.98 ? 'is-warning' : ''}>{percent(share)}</span>
    },
  },
  amount('attempts', 'Attempts', ({ attempts }) => attempts, count),
  {
    id: 'failures',
    head: 'Failures',
    value: ({ window }) => window?.failed,
    csv: ({ window }) =>
      window === undefined
        ? undefined
        : failuresOf(window)
            .map(([kind, times]) => `${kind} ${times}`)
            .join('; '),
    cell: ({ window }) =>
      window === undefined || window.failed === 0 ? (
        <span class="muted">{window === undefined ? NOTHING : 'None'}</span>
      ) : (
        <span class="row failure-kinds">
          {failuresOf(window).map(([kind, times]) => (
            <Badge key={kind} kind="danger">
              {kind} {count(times)}
            </Badge>
          ))}
        </span>
      ),
  },
  amount('first', 'First token p50', ({ first_token: one }) => one?.p50_ms, duration),
  amount('first95', 'p95', ({ first_token: one }) => one?.p95_ms, duration),
  amount('total95', 'All p95', ({ total: one }) => one?.p95_ms, duration),
  amount('rate', 'Tokens/s', ({ output_tokens_per_second: rate }) => rate, count),
]

const KEY_COLUMNS: Column<KeyRow>[] = [
  { id: 'provider', head: 'Provider', grow: true, value: ({ provider }) => provider, cell: ({ provider }) => provider },
  { id: 'key', head: 'Key', value: ({ name }) => name, cell: ({ name }) => name },
  {
    id: 'state',
    head: 'State',
    value: ({ disabled, breakers }) => (disabled ? 'disabled' : (breakers[0]?.standing ?? 'closed')),
    cell: ({ disabled, breakers }) => {
      if (disabled) return <Status kind="neutral">Disabled</Status>
      const unwell = breakers.filter(({ standing }) => standing !== 'closed')
      if (unwell.length === 0) return <Status kind="good">No failure known</Status>
      return (
        <>
          {unwell.map(({ model, standing, until }) => (
            <Status key={model} kind={STANDING_KINDS[standing]}>
              {STANDING_WORDS[standing]}
              {model !== null && ` for ${model}`}
              {until !== null && ` ${ago(Date.parse(until), Date.now())}`}
            </Status>
          ))}
        </>
      )
    },
  },
  { id: 'weight', head: 'Weight', align: 'end', value: ({ weight }) => weight, cell: ({ weight }) => count(weight) },
  { id: 'share', head: 'Share', align: 'end', value: ({ share }) => share, cell: ({ share }) => percent(share) },
]
