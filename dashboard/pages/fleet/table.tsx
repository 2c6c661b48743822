// All engines as rows, for fleets that no page of cards holds. Owns the columns, and so the file.
import { bytes, count, duration, NOTHING, percent } from '../../app/format.ts'
import { href } from '../../app/router.ts'
import type { Backend, Engine } from '../../app/wire-admin.ts'
import { Status } from '../../parts/badge.tsx'
import { type Column, Table } from '../../parts/table.tsx'
import { arithmeticShare, bandwidthShare, engineKey, ROLE_WORDS, STATE_KINDS, STATE_WORDS, share } from './figures.ts'
import { workerName } from './worker.tsx'

type Row = { backend: Backend; engine: Engine | undefined }

const amount = (
  id: string,
  head: string,
  pick: (engine: Engine) => number | null,
  text: (value: number) => string = count,
): Column<Row> => ({
  id,
  head,
  align: 'end',
  value: ({ engine }) => (engine === undefined ? undefined : (pick(engine) ?? undefined)),
  cell: ({ engine }) => {
    const value = engine === undefined ? null : pick(engine)
    return value === null ? <span class="muted">{NOTHING}</span> : text(value)
  },
})

const COLUMNS: Column<Row>[] = [
  {
    id: 'worker',
    head: 'Worker',
    grow: true,
    value: ({ backend }) => workerName(backend),
    cell: ({ backend }) => <a href={href(`/fleet/${backend.id}`)}>{workerName(backend)}</a>,
  },
  {
    id: 'state',
    head: 'State',
    value: ({ backend }) => STATE_WORDS[backend.state],
    cell: ({ backend }) => <Status kind={STATE_KINDS[backend.state]}>{STATE_WORDS[backend.state]}</Status>,
  },
  {
    id: 'engine',
    head: 'Engine',
    value: ({ engine }) => engine?.engine ?? undefined,
    cell: ({ engine }) => engine?.engine ?? NOTHING,
  },
  {
    id: 'model',
    head: 'Model',
    value: ({ engine }) => engine?.model,
    cell: ({ engine }) => engine?.model ?? NOTHING,
  },
  {
    id: 'role',
    head: 'Role',
    value: ({ engine }) => (engine === undefined ? undefined : ROLE_WORDS[engine.role]),
    cell: ({ engine }) => (engine === undefined ? NOTHING : ROLE_WORDS[engine.role]),
  },
  amount('running', 'Running', (engine) => engine.sequences_running),
  amount('queue', 'Queue', (engine) => engine.requests_queued + engine.sequences_waiting),
  amount('kv', 'K and V', (engine) => share(engine.kv_blocks_used, engine.kv_blocks_total), percent),
  amount('bandwidth', 'Bandwidth', (engine) => bandwidthShare(engine) ?? null, percent),
  amount(
    'ceiling',
    'Ceiling',
    (engine) => engine.memory_bytes_per_second_max,
    (value) => `${bytes(value)}/s`,
  ),
  amount('arithmetic', 'Arithmetic', (engine) => arithmeticShare(engine) ?? null, percent),
  amount('busy', 'Busy', (engine) => engine.busy_share, percent),
  amount('step', 'Step', (engine) => engine.step_ms, duration),
  {
    id: 'report',
    head: 'Report',
    align: 'end',
    value: ({ backend }) => backend.report_age_ms ?? undefined,
    cell: ({ backend: { report_age_ms: age } }) => (age === null ? NOTHING : duration(age)),
  },
]

export function EnginesTable({ backends }: { backends: readonly Backend[] }) {
  const rows = backends.flatMap((backend): Row[] =>
    backend.models.length === 0
      ? [{ backend, engine: undefined }]
      : backend.models.map((engine) => ({ backend, engine })),
  )
  return (
    <Table
      caption="Engines"
      columns={COLUMNS}
      rows={rows}
      rowKey={({ backend, engine }) => (engine === undefined ? backend.id : engineKey(backend, engine))}
      sortParam="sort"
      defaultSort={{ column: 'worker', descending: false }}
      href={({ backend }) => href(`/fleet/${backend.id}`)}
      file="fleet"
    />
  )
}
