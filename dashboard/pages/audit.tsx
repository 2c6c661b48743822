// Audit: who changed what, and from where. Owns the list with its filters, and one act with what it changed.
import { useState } from 'preact/hooks'
import { ApiError, api, urlOf, withQuery } from '../app/api.ts'
import { ago, dateTime } from '../app/format.ts'
import { useLoad } from '../app/load.ts'
import { isOperator, orgId } from '../app/session.ts'
import { flag, optionalText } from '../app/url-state.ts'
import { useRange, useUrlState } from '../app/use-url.ts'
import type { Page as ApiPage, User } from '../app/wire.ts'
import type { AuditEntry } from '../app/wire-admin.ts'
import { Badge } from '../parts/badge.tsx'
import { CopyButton } from '../parts/copy.tsx'
import { Dialog } from '../parts/dialog.tsx'
import { Facts } from '../parts/facts.tsx'
import { Checkbox, Select, TextField } from '../parts/field.tsx'
import { Icon } from '../parts/icon.tsx'
import { Card, Page } from '../parts/page.tsx'
import { Empty, Show, Skeleton } from '../parts/states.tsx'
import { type Column, Table } from '../parts/table.tsx'
import { toastError } from '../parts/toast.tsx'
import { changesOf } from './audit/changes.ts'

const FILTERS = { actor: optionalText, action: optionalText, object: optionalText, everywhere: flag(false) }
const ROWS = 100

export default function AuditPage() {
  const org = orgId.value
  const [filters, setFilters] = useUrlState(FILTERS)
  const { from, to, zone } = useRange()
  const [opened, setOpened] = useState<AuditEntry | undefined>()
  const [older, setOlder] = useState<{ key: string; rows: AuditEntry[]; cursor: string | undefined } | undefined>()
  const [isLoadingMore, setLoadingMore] = useState(false)
  const query = {
    org_id: filters.everywhere && isOperator.value ? undefined : org,
    actor: filters.actor,
    action: filters.action,
    object_id: filters.object,
    from,
    to,
  }
  const key = JSON.stringify(query)
  const first = useLoad(key, (signal) => api.get<ApiPage<AuditEntry>>('/audit', { ...query, limit: ROWS }, signal))
  const people = useLoad(`audit-users ${org}`, (signal) =>
    api.get<ApiPage<User>>(`/organisations/${org}/users`, { limit: 200 }, signal).catch((error: unknown) => {
      // Who may read the audit need not know the people.
      if (error instanceof ApiError && error.status === 403) return { data: [] }
      throw error
    }),
  )
  const names = new Map(people.data?.data.map((one) => [one.id, one.email ?? one.slug ?? one.name]))
  const more = older?.key === key ? older : undefined
  const cursor = more === undefined ? first.data?.next_cursor : more.cursor
  const loadMore = () => {
    setLoadingMore(true)
    api
      .get<ApiPage<AuditEntry>>('/audit', { ...query, limit: ROWS, cursor })
      .then(({ data, next_cursor: next }) => setOlder({ key, rows: [...(more?.rows ?? []), ...data], cursor: next }))
      .catch(toastError)
      .finally(() => setLoadingMore(false))
  }
  const who = ({ actor, user_id: id }: AuditEntry) =>
    actor === 'operator' ? 'Operator' : (names.get(id ?? '') ?? id?.slice(0, 8) ?? 'Member')

  return (
    <Page
      title="Audit"
      about="Every change, who made it and from where. Rows are never changed or removed."
      ranged
      actions={
        <a class="button" href={urlOf(withQuery('/audit/export', { ...query, format: 'csv' }))} download>
          <Icon name="download" />
          All as CSV
        </a>
      }
    >
      <Card flush>
        <div class="filters">
          <TextField
            label="Action"
            type="search"
            value={filters.action ?? ''}
            placeholder="such as key.create"
            onInput={(action) => setFilters({ action }, { replace: true })}
          />
          <div class="field">
            <span class="field-label" aria-hidden="true">
              Who
            </span>
            <Select
              aria-label="Who"
              value={filters.actor ?? ''}
              onChange={(actor) => setFilters({ actor: actor === '' ? undefined : actor })}
              choices={[
                { value: '', label: 'Anybody' },
                { value: 'operator', label: 'The operator' },
                ...[...names].map(([value, label]) => ({ value, label })),
              ]}
            />
          </div>
          <TextField
            label="Object"
            type="search"
            value={filters.object ?? ''}
            placeholder="Whole id or name"
            onInput={(object) => setFilters({ object }, { replace: true })}
          />
          {isOperator.value && (
            <Checkbox
              label="Of all organisations and the platform"
              checked={filters.everywhere}
              onChange={(everywhere) => setFilters({ everywhere })}
            />
          )}
        </div>
        <Show of={first} skeleton={<Skeleton rows={10} height={32} />}>
          {({ data }) => (
            <Table
              caption="Audit trail"
              columns={columnsOf(zone, who)}
              rows={[...data, ...(more?.rows ?? [])]}
              rowKey={({ id }) => id}
              onOpen={setOpened}
              isSelected={({ id }) => id === opened?.id}
              file="audit"
              more={cursor === undefined ? undefined : { load: loadMore, isLoading: isLoadingMore }}
              empty={
                <Empty title="Nothing was changed" icon="audit">
                  No act matches in this range.
                </Empty>
              }
            />
          )}
        </Show>
      </Card>
      {opened !== undefined && <Act act={opened} who={who(opened)} zone={zone} onClose={() => setOpened(undefined)} />}
    </Page>
  )
}

const columnsOf = (zone: string, who: (entry: AuditEntry) => string): Column<AuditEntry>[] => [
  {
    id: 'time',
    head: 'Time',
    value: ({ occurred_at: at }) => at,
    cell: ({ occurred_at: at }) => (
      <span class="nowrap" title={ago(Date.parse(at), Date.now())}>
        {dateTime(Date.parse(at), zone)}
      </span>
    ),
  },
  { id: 'who', head: 'Who', value: who, cell: who },
  {
    id: 'action',
    head: 'Action',
    value: ({ action }) => action,
    cell: ({ action }) => (
      <Badge kind={/revoke|delete|remove|refus/.test(action) ? 'danger' : 'neutral'}>{action}</Badge>
    ),
  },
  {
    id: 'object',
    head: 'Object',
    grow: true,
    value: ({ object_id: id }) => id,
    cell: ({ object_id: id }) => <code class="small">{id}</code>,
  },
  {
    id: 'address',
    head: 'From',
    value: ({ address }) => address ?? undefined,
    cell: ({ address }) => address ?? <span class="muted">–</span>,
  },
]

function Act({ act, who, zone, onClose }: { act: AuditEntry; who: string; zone: string; onClose: () => void }) {
  const changes = changesOf(act.details)
  return (
    <Dialog title={act.action} onClose={onClose} wide>
      <Facts
        facts={[
          ['Time', dateTime(Date.parse(act.occurred_at), zone)],
          ['Who', who],
          act.key_id === null ? undefined : ['With the key', <code key="key">{act.key_id}</code>],
          ['From', act.address ?? 'Not known'],
          ['Object', <code key="object">{act.object_id}</code>],
          [
            'Request',
            <span key="request" class="nowrap">
              <code>{act.request_id}</code> <CopyButton text={act.request_id} label="Copy the request id" bare />
            </span>,
          ],
        ]}
      />
      {changes.length > 0 && (
        <Table
          caption="What was changed"
          columns={[
            { id: 'path', head: 'Field', cell: ({ path }) => <code>{path}</code>, value: ({ path }) => path },
            {
              id: 'before',
              head: 'Before',
              cell: ({ before }) => <span class="break">{before ?? '–'}</span>,
              csv: ({ before }) => before,
            },
            {
              id: 'after',
              head: 'After',
              cell: ({ after }) => <span class="break">{after ?? '–'}</span>,
              csv: ({ after }) => after,
            },
          ]}
          rows={changes}
          rowKey={({ path }) => path}
        />
      )}
    </Dialog>
  )
}
