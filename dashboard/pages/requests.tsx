// Requests: one by one, newest first, live while that is on. Owns the list with its filters; one request with its attempts is
// requests/detail.tsx, keeping the list up to date requests/live.ts.
import { useState } from 'preact/hooks'
import { api } from '../app/api.ts'
import { ago, count, dateTime, duration, nanoUsd, usd, usdExact } from '../app/format.ts'
import { useLoad } from '../app/load.ts'
import type { PageProps } from '../app/pages.ts'
import { go, href, params } from '../app/router.ts'
import { useProject } from '../app/scope.ts'
import { orgId } from '../app/session.ts'
import { flag, oneOf, optionalText } from '../app/url-state.ts'
import { labelOf } from '../app/usage.ts'
import { useRange, useUrlState } from '../app/use-url.ts'
import type { Names, UsageRequest, UsageRequests } from '../app/wire.ts'
import { Badge, Status } from '../parts/badge.tsx'
import { Checkbox, MoneyField, NumberField, Select, TextField } from '../parts/field.tsx'
import { Card, Page } from '../parts/page.tsx'
import { Empty, Failure, Note, Show, Skeleton } from '../parts/states.tsx'
import { type Column, Table } from '../parts/table.tsx'
import { toastError } from '../parts/toast.tsx'
import { FILTER_SCHEMA, FilterBar, filterQuery } from './explore/filters.tsx'
import { ClientReportedCalls } from './requests/client-reported.tsx'
import { RequestDetail } from './requests/detail.tsx'
import { mergeNewest, useLive } from './requests/live.ts'
import { STATUS_CLASSES, STATUS_KINDS } from './requests/status.ts'

const ROWS = 100
const OWN = {
  ...FILTER_SCHEMA,
  status_class: oneOf(['', ...STATUS_CLASSES.map(({ value }) => value)] as const, ''),
  id: optionalText,
  min_cost: optionalText,
  min_ms: optionalText,
  live: flag(false),
}
const ID_PREFIX = /^[0-9a-f-]{4,36}$/i

type Older = { key: string; rows: UsageRequest[]; cursor: string | undefined }

export default function RequestsPage({ rest }: PageProps) {
  const [filters, setFilters] = useUrlState(OWN)
  const { from, to, zone } = useRange()
  const project = useProject()
  const query = {
    org: orgId.value,
    ...filterQuery({ ...filters, status_class: filters.status_class === '' ? undefined : filters.status_class }),
    project,
    id_prefix: filters.id !== undefined && ID_PREFIX.test(filters.id) ? filters.id.toLowerCase() : undefined,
    min_cost_usd:
      filters.min_cost !== undefined && /^\d+(\.\d{1,9})?$/.test(filters.min_cost) ? filters.min_cost : undefined,
    min_duration_ms: filters.min_ms !== undefined && /^\d{1,9}$/.test(filters.min_ms) ? filters.min_ms : undefined,
    from,
    to: filters.live ? undefined : to,
  }
  // While it is live the range ends now, and what is new comes by itself.
  const key = JSON.stringify(filters.live ? { ...query, from: undefined } : query)
  const first = useLoad(key, (signal) => api.get<UsageRequests>('/usage/requests', { ...query, limit: ROWS }, signal))
  const live = useLive(filters.live && !first.isStale ? first.data : undefined, key, query)
  const [older, setOlder] = useState<Older | undefined>()
  const [isLoadingMore, setLoadingMore] = useState(false)
  const more = older?.key === key ? older : undefined
  const cursor = more === undefined ? first.data?.next_cursor : more.cursor
  const loadMore = () => {
    setLoadingMore(true)
    api
      .get<UsageRequests>('/usage/requests', { ...query, limit: ROWS, cursor })
      .then(({ data, next_cursor: next }) => setOlder({ key, rows: [...(more?.rows ?? []), ...data], cursor: next }))
      .catch(toastError)
      .finally(() => setLoadingMore(false))
  }
  const names = { ...first.data?.names, ...live.names }
  // One request lies over the list: its filters stay in the address.
  const asked = Object.fromEntries(params.value)
  const oneOfThem = (id: string) => href(`/requests/${id}`, asked)

  return (
    <Page
      title="Requests"
      about="Each request with the attempts behind it. Refusals by a limit never become requests."
      ranged
      actions={<Checkbox label="Live" checked={filters.live} onChange={(isLive) => setFilters({ live: isLive })} />}
    >
      <Card flush>
        <div class="filters">
          <TextField
            label="Request id"
            type="search"
            value={filters.id ?? ''}
            placeholder="Its first characters"
            onInput={(id) => setFilters({ id }, { replace: true })}
            error={
              filters.id !== undefined && !ID_PREFIX.test(filters.id) ? 'Four or more of 0-9, a-f and -' : undefined
            }
          />
          <div class="field">
            <span class="field-label" aria-hidden="true">
              Ended
            </span>
            <Select
              aria-label="Ended"
              value={filters.status_class}
              onChange={(value) => setFilters({ status_class: value })}
              choices={[{ value: '', label: 'In any way' }, ...STATUS_CLASSES]}
            />
          </div>
          <MoneyField
            label="Cost from"
            value={filters.min_cost ?? ''}
            placeholder="0"
            onInput={(text) => setFilters({ min_cost: text }, { replace: true })}
          />
          <NumberField
            label="Took at least"
            value={filters.min_ms ?? ''}
            placeholder="0"
            suffix="ms"
            onInput={(text) => setFilters({ min_ms: text }, { replace: true })}
          />
        </div>
        <div class="filter-chips">
          <FilterBar names={names} range={{ from, to }} />
        </div>
        {live.error !== undefined && <Failure error={live.error} />}
        <Show of={first} skeleton={<Skeleton rows={12} height={32} />}>
          {({ data }) => (
            <Table
              caption="Requests"
              columns={columnsOf(zone, names, oneOfThem)}
              rows={mergeNewest(live.rows, [...data, ...(more?.rows ?? [])])}
              rowKey={({ id }) => id}
              href={({ id }) => oneOfThem(id)}
              isSelected={({ id }) => id === rest[0]}
              file="requests"
              pageRows={ROWS}
              more={cursor === undefined ? undefined : { load: loadMore, isLoading: isLoadingMore }}
              empty={
                <Empty title={filters.live ? 'Waiting for requests' : 'No request matches'} icon="requests">
                  {filters.live ? 'They show up here as soon as they have ended.' : 'Change the range or the filters.'}
                </Empty>
              }
            />
          )}
        </Show>
        {filters.live && first.data !== undefined && (
          <p class="live-line" role="status">
            <Status kind="good">Live</Status>
            <span class="muted">{count(live.rows.length)} new since this page was opened</span>
          </p>
        )}
        {filters.live && live.missed > 0 && (
          <div class="live-missed" role="status">
            <Note kind="warning">
              {count(live.missed)} {live.missed === 1 ? 'row is' : 'rows are'} not shown: they came faster than this
              page shows them. Pause, or filter.{' '}
              <button type="button" class="button button-small" onClick={() => setFilters({ live: false })}>
                Pause
              </button>
            </Note>
          </div>
        )}
      </Card>
      <ClientReportedCalls
        asked={{
          org: query.org,
          from,
          to,
          project,
          key: filters.key,
          model: filters.model,
          provider: filters.provider,
        }}
        zone={zone}
      />
      {rest[0] !== undefined && <RequestDetail id={rest[0]} zone={zone} onClose={() => go(href('/requests', asked))} />}
      {rest.length > 1 && <Note kind="warning">There is no such page below a request.</Note>}
    </Page>
  )
}

const columnsOf = (zone: string, names: Names, linkOf: (id: string) => string): Column<UsageRequest>[] => [
  {
    id: 'time',
    head: 'Started',
    value: ({ started_at: at }) => at,
    cell: ({ id, started_at: at }) => (
      <a class="nowrap" href={linkOf(id)} title={ago(Date.parse(at), Date.now())}>
        {dateTime(Date.parse(at), zone)}
      </a>
    ),
  },
  {
    id: 'status',
    head: 'Ended',
    value: ({ status }) => status,
    cell: ({ status, status_class: kind }) => <Status kind={STATUS_KINDS[kind]}>{status}</Status>,
  },
  {
    id: 'model',
    head: 'Model',
    grow: true,
    value: ({ model }) => model,
    cell: ({ model }) => <span title={model}>{model}</span>,
  },
  {
    id: 'target',
    head: 'Answered by',
    value: ({ provider }) => provider,
    cell: ({ provider, attempts }) => (
      <span class="nowrap">
        {provider}
        {attempts > 1 && <span class="muted small"> after {attempts} attempts</span>}
      </span>
    ),
  },
  {
    id: 'key',
    head: 'Key',
    value: ({ key_id: id }) => labelOf(id, 'key', names),
    cell: ({ key_id: id }) => <a href={href('/requests', { key: id })}>{labelOf(id, 'key', names)}</a>,
  },
  {
    id: 'input',
    head: 'Input',
    align: 'end',
    value: ({ input_tokens: tokens }) => tokens,
    cell: ({ input_tokens: tokens }) => count(tokens),
  },
  {
    id: 'output',
    head: 'Output',
    align: 'end',
    value: ({ output_tokens: tokens }) => tokens,
    cell: ({ output_tokens: tokens }) => count(tokens),
  },
  {
    id: 'first',
    head: 'First token',
    align: 'end',
    value: ({ first_token_ms: ms }) => ms ?? undefined,
    cell: ({ first_token_ms: ms }) => (ms === null ? <span class="muted">–</span> : duration(ms)),
  },
  {
    id: 'took',
    head: 'Took',
    align: 'end',
    value: ({ duration_ms: ms }) => ms,
    cell: ({ duration_ms: ms }) => duration(ms),
  },
  {
    id: 'cost',
    head: 'Cost',
    align: 'end',
    value: ({ cost_nanousd: cost }) => nanoUsd(cost),
    csv: ({ cost_usd: cost }) => ({ decimal: cost }),
    cell: ({ cost_nanousd: cost, estimated }) => (
      <span class="nowrap" title={usdExact(nanoUsd(cost))}>
        {estimated && (
          <Badge kind="warning" title="Its usage is an estimate, or was counted from a stream that broke off">
            est.
          </Badge>
        )}{' '}
        {usd(nanoUsd(cost))}
      </span>
    ),
  },
]
