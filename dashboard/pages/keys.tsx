// Keys: who may call, with which rights, what they have used, and their end. Owns the list and what is open over it; the form is
// keys/form.tsx, the text that is shown once keys/made.tsx, one key keys/detail.tsx.
import { useMemo, useState } from 'preact/hooks'
import { formatUsd } from '../../protocol/units.ts'
import { allPages, api } from '../app/api.ts'
import { ago, dateTime, nanoUsd, usd, usdExact } from '../app/format.ts'
import { useLoad } from '../app/load.ts'
import type { PageProps } from '../app/pages.ts'
import { go, href } from '../app/router.ts'
import { useProject, useProjects } from '../app/scope.ts'
import { can, orgId } from '../app/session.ts'
import { flag, oneOf, optionalText } from '../app/url-state.ts'
import { useRange, useUrlState } from '../app/use-url.ts'
import type { ApiKey, KeyUse, MadeKey, Usage } from '../app/wire.ts'
import { Status } from '../parts/badge.tsx'
import { Select, TextField } from '../parts/field.tsx'
import { Icon } from '../parts/icon.tsx'
import { Card, Page } from '../parts/page.tsx'
import { Empty, Note, Show, Skeleton } from '../parts/states.tsx'
import { type Column, Table } from '../parts/table.tsx'
import { KeyDetail } from './keys/detail.tsx'
import { KeyForm } from './keys/form.tsx'
import { MadeKeyDialog } from './keys/made.tsx'
import { STATE_KINDS, STATE_WORDS, stateOf } from './keys/state.ts'

const FILTERS = {
  q: optionalText,
  project: optionalText,
  state: oneOf(['works', 'all'] as const, 'works'),
  new: flag(false),
}
/** Most that the API names one by one; what is beyond has no figure in the list. */
const KEYS_WITH_SPEND = 1_000

type Spend = ReadonlyMap<string, { costNanoUsd: bigint; requests: number }>
/** Absent while it is not known. The API looks back this far. */
type LastUse = ReadonlyMap<string, string> | undefined
const USE_DAYS = 90

function lastUseText(lastUse: LastUse, id: string, nowMs: number): string {
  const at = lastUse?.get(id)
  if (at !== undefined) return ago(Date.parse(at), nowMs)
  return lastUse === undefined ? 'Not known' : `Not in ${USE_DAYS} days`
}

export default function KeysPage({ rest }: PageProps) {
  const org = orgId.value
  const [filters, setFilters] = useUrlState(FILTERS)
  const { from, to, zone } = useRange()
  const project = useProject()
  const projects = useProjects()
  const [made, setMade] = useState<MadeKey | undefined>()
  const nowMs = Date.now()

  const keys = useLoad(`keys ${org}`, (signal) => allPages<ApiKey>(`/organisations/${org}/keys`, {}, signal))
  const use = useLoad(`key-use ${org}`, (signal) => api.get<KeyUse>(`/organisations/${org}/key-use`, {}, signal))
  const spend = useLoad(`key-spend ${org} ${project} ${from} ${to}`, (signal) =>
    api.get<Usage>(
      '/usage',
      { org, project, from, to, group_by: 'key', top: KEYS_WITH_SPEND, latency: 'none' },
      signal,
    ),
  )
  const lastUse = useMemo(
    () => use.data && new Map(use.data.data.map((one) => [one.key_id, one.last_used_at])),
    [use.data],
  )
  const spendOf: Spend = useMemo(
    () =>
      new Map(
        spend.data?.data.flatMap((line) =>
          line.key_id === undefined
            ? []
            : [[line.key_id, { costNanoUsd: nanoUsd(line.cost_nanousd), requests: line.requests }]],
        ),
      ),
    [spend.data],
  )
  const projectNames = useMemo(() => new Map(projects.data?.map(({ id, name }) => [id, name])), [projects.data])

  const shown = (all: readonly ApiKey[]) =>
    all.filter(
      (key) =>
        (filters.state === 'all' || stateOf(key, nowMs) === 'works') &&
        (filters.project === undefined || key.project_id === filters.project) &&
        (filters.q === undefined ||
          `${key.name} ${key.prefix} ${key.id}`.toLowerCase().includes(filters.q.toLowerCase())),
    )
  const columns = keyColumns({ nowMs, zone, lastUse, spendOf, projectNames })
  const open = rest[0]
  const opened = keys.data?.data.find(({ id }) => id === open)
  const close = () => (open === undefined ? setFilters({ new: false }, { replace: true }) : go(href('/keys')))

  return (
    <Page
      title="Keys"
      about="What an application calls with. A key's text is shown once, when it is made."
      ranged
      dataUntil={spend.data?.data_until}
      actions={
        can('keys.write') && (
          <button type="button" class="button button-primary" onClick={() => setFilters({ new: true })}>
            <Icon name="plus" />
            Create key
          </button>
        )
      }
    >
      <Show of={keys} skeleton={<Skeleton rows={8} height={36} />}>
        {({ data, isCut }) => (
          <Card flush>
            <div class="filters">
              <TextField
                label="Search"
                type="search"
                value={filters.q ?? ''}
                placeholder="Name, text, id"
                onInput={(q) => setFilters({ q }, { replace: true })}
              />
              <div class="field">
                <span class="field-label" aria-hidden="true">
                  Project
                </span>
                <Select
                  aria-label="Project"
                  value={filters.project ?? ''}
                  onChange={(value) => setFilters({ project: value === '' ? undefined : value })}
                  choices={[
                    { value: '', label: 'All projects' },
                    ...(projects.data ?? []).map(({ id, name }) => ({ value: id, label: name })),
                  ]}
                />
              </div>
              <div class="field">
                <span class="field-label" aria-hidden="true">
                  State
                </span>
                <Select
                  aria-label="State"
                  value={filters.state}
                  onChange={(state) => setFilters({ state })}
                  choices={[
                    { value: 'works', label: 'Working' },
                    { value: 'all', label: 'All' },
                  ]}
                />
              </div>
            </div>
            {isCut && <Note kind="warning">There are more keys than this page reads: the newest are shown.</Note>}
            <Table
              caption="API keys"
              columns={columns}
              rows={shown(data)}
              rowKey={({ id }) => id}
              defaultSort={{ column: 'created', descending: true }}
              sortParam="sort"
              href={({ id }) => href(`/keys/${id}`)}
              isSelected={({ id }) => id === open}
              file="keys"
              empty={
                data.length === 0 ? (
                  <Empty title="No key yet" icon="keys">
                    Make one for each application or person: usage, limits and revoking go by key.
                  </Empty>
                ) : (
                  <Empty title="No key matches" icon="keys">
                    Change the filters, or show all states.
                  </Empty>
                )
              }
            />
          </Card>
        )}
      </Show>
      {filters.new && can('keys.write') && made === undefined && (
        <KeyForm
          projects={projects.data ?? []}
          onClose={close}
          onDone={(key) => {
            setMade(key)
            keys.reload()
          }}
        />
      )}
      {made !== undefined && (
        <MadeKeyDialog
          made={made}
          onClose={() => {
            setMade(undefined)
            close()
          }}
        />
      )}
      {opened !== undefined && made === undefined && (
        <KeyDetail
          apiKey={opened}
          projects={projects.data ?? []}
          lastUsed={lastUseText(lastUse, opened.id, nowMs)}
          spend={spendOf.get(opened.id)}
          onClose={close}
          onChanged={keys.reload}
          onRotated={(key) => {
            setMade(key)
            keys.reload()
          }}
        />
      )}
      {open !== undefined && keys.data !== undefined && opened === undefined && (
        <Note kind="warning">There is no key {open} here, or you may not see it.</Note>
      )}
    </Page>
  )
}

function keyColumns({
  nowMs,
  zone,
  lastUse,
  spendOf,
  projectNames,
}: {
  nowMs: number
  zone: string
  lastUse: LastUse
  spendOf: Spend
  projectNames: ReadonlyMap<string, string>
}): Column<ApiKey>[] {
  return [
    {
      id: 'name',
      head: 'Name',
      grow: true,
      value: ({ name }) => name,
      cell: ({ id, name, prefix }) => (
        <span class="key-name">
          <a href={href(`/keys/${id}`)}>{name}</a>
          <code class="muted small nowrap">{prefix}…</code>
        </span>
      ),
    },
    {
      id: 'project',
      head: 'Project',
      value: ({ project_id: id }) => projectNames.get(id) ?? id,
      cell: ({ project_id: id }) => projectNames.get(id) ?? <code>{id.slice(0, 8)}</code>,
    },
    {
      id: 'state',
      head: 'State',
      value: (key) => STATE_WORDS[stateOf(key, nowMs)],
      cell: (key) => {
        const state = stateOf(key, nowMs)
        return <Status kind={STATE_KINDS[state]}>{STATE_WORDS[state]}</Status>
      },
    },
    {
      id: 'models',
      head: 'Models',
      value: ({ models }) => models?.join(', ') ?? 'all',
      cell: ({ models }) => (models === null ? <span class="muted">All</span> : models.join(', ')),
    },
    {
      id: 'spend',
      head: 'Spend',
      align: 'end',
      value: ({ id }) => spendOf.get(id)?.costNanoUsd ?? 0n,
      csv: ({ id }) => {
        const spent = spendOf.get(id)
        return spent === undefined ? undefined : { decimal: formatUsd(spent.costNanoUsd) }
      },
      cell: ({ id }) => {
        const spent = spendOf.get(id)
        if (spent === undefined) return <span class="muted">–</span>
        return (
          <a href={href('/requests', { key: id })} title={usdExact(spent.costNanoUsd)}>
            {usd(spent.costNanoUsd)}
          </a>
        )
      },
    },
    {
      id: 'used',
      head: 'Last used',
      value: ({ id }) => lastUse?.get(id),
      cell: ({ id }) => {
        const at = lastUse?.get(id)
        const text = lastUseText(lastUse, id, nowMs)
        if (at === undefined) return <span class="muted">{text}</span>
        return <span title={dateTime(Date.parse(at), zone)}>{text}</span>
      },
    },
    {
      id: 'created',
      head: 'Made',
      value: ({ created_at: at }) => at,
      cell: ({ created_at: at }) => <span title={dateTime(Date.parse(at), zone)}>{ago(Date.parse(at), nowMs)}</span>,
    },
  ]
}
