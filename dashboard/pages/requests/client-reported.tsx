// Calls that clients made past the gateway, as they report them. Owns the card below the list of requests: it is there only where
// something was reported, and says that it is on no bill.
import { api } from '../../app/api.ts'
import { count, dateTime } from '../../app/format.ts'
import { useLoad } from '../../app/load.ts'
import { labelOf } from '../../app/usage.ts'
import type { ClientReported, Names, ReportedCall } from '../../app/wire.ts'
import { Badge, Status } from '../../parts/badge.tsx'
import { Card } from '../../parts/page.tsx'
import { type Column, Table } from '../../parts/table.tsx'

/** The newest; the command line and the API have all of them. */
const ROWS = 20

type Asked = { org: string | undefined; from: string; to: string } & Partial<
  Record<'project' | 'key' | 'model' | 'provider', string | undefined>
>

export function ClientReportedCalls({ asked, zone }: { asked: Asked; zone: string }) {
  const answer = useLoad(`reported ${JSON.stringify(asked)}`, (signal) =>
    api.get<ClientReported>('/usage/client-reported', { ...asked, limit: ROWS }, signal),
  )
  const { data: shown, isStale } = answer
  if (shown === undefined || isStale || shown.total.calls === 0) return undefined
  const { total, data, names } = shown
  return (
    <Card
      flush
      title="Reported by clients, not billed"
      about={`${count(total.calls)} calls that clients made with keys of their own while the gateway was away, in their own words:
        ${count(total.input_tokens)} tokens in, ${count(total.output_tokens)} out. They are in no other figure.`}
      actions={<Badge kind="accent">Not billed</Badge>}
    >
      <Table
        caption="Calls reported by clients, not billed"
        columns={columnsOf(zone, names)}
        rows={data}
        rowKey={({ id }) => id}
        file="client-reported"
        empty=""
      />
      {total.calls > data.length && (
        <p class="muted small live-line">The newest {count(data.length)} of them are shown.</p>
      )}
    </Card>
  )
}

const columnsOf = (zone: string, names: Names): Column<ReportedCall>[] => [
  {
    id: 'time',
    head: 'Started',
    value: ({ started_at: at }) => at,
    cell: ({ started_at: at }) => <span class="nowrap">{dateTime(Date.parse(at), zone)}</span>,
  },
  {
    id: 'status',
    head: 'Ended',
    value: ({ status }) => status,
    cell: ({ status }) => <Status kind={status === 'answered' ? 'neutral' : 'warning'}>{status}</Status>,
  },
  {
    id: 'model',
    head: 'Model',
    grow: true,
    value: ({ model }) => model,
    cell: ({ model }) => <span title={model}>{model}</span>,
  },
  { id: 'provider', head: 'Called', value: ({ provider }) => provider, cell: ({ provider }) => provider },
  {
    id: 'key',
    head: 'Key',
    value: ({ key_id: id }) => labelOf(id, 'key', names),
    cell: ({ key_id: id }) => labelOf(id, 'key', names),
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
  { id: 'reason', head: 'Why', value: ({ reason }) => reason ?? '', cell: ({ reason }) => reason ?? '–' },
]
