// Limits that were passed, and requests that they refused. Owns the list; an event is told once in each window of a limit.

import { api } from '../../app/api.ts'
import { ago, count, dateTime, usd } from '../../app/format.ts'
import { METER_WORDS, subjectText, windowText } from '../../app/limit-words.ts'
import { useLoad } from '../../app/load.ts'
import { orgId } from '../../app/session.ts'
import type { Names } from '../../app/wire.ts'
import type { LimitEvents, LimitState } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Show, Skeleton } from '../../parts/states.tsx'
import { type Column, Table } from '../../parts/table.tsx'

const ROWS = 50
const REFRESH_MS = 15_000
type Event = LimitEvents['data'][number]

export function LimitEventList({
  names,
  limits,
  zone,
}: {
  names: Names | undefined
  limits: readonly LimitState[]
  zone: string
}) {
  const org = orgId.value
  const events = useLoad(
    `limit-events ${org}`,
    (signal) => api.get<LimitEvents>(`/organisations/${org}/limit-events`, { limit: ROWS }, signal),
    { everyMs: REFRESH_MS },
  )
  const limitOf = (id: string) => limits.find(({ limit_id: one }) => one === id)
  const what = ({ limit_id: id, subject }: Event) => {
    const limit = limitOf(id)
    if (limit === undefined) return `A limit that is gone (${id.slice(0, 8)})`
    return `${subjectText(limit.scope, subject === '' ? limit.scope_id : subject, names)}: ${METER_WORDS[limit.meter].toLowerCase()} ${windowText(limit.window)}`
  }
  const amount = ({ limit_id: id }: Event, value: string) =>
    limitOf(id)?.meter === 'money' ? usd(BigInt(value)) : count(BigInt(value))
  const columns: Column<Event>[] = [
    {
      id: 'time',
      head: 'Time',
      value: ({ occurred_at: at }) => at,
      cell: ({ occurred_at: at }) => (
        <span class="nowrap" title={dateTime(Date.parse(at), zone)}>
          {ago(Date.parse(at), Date.now())}
        </span>
      ),
    },
    {
      id: 'kind',
      head: 'What happened',
      value: ({ kind }) => kind,
      cell: ({ kind }) =>
        kind === 'refused' ? <Badge kind="danger">refused</Badge> : <Badge kind="warning">passed</Badge>,
    },
    { id: 'limit', head: 'Limit', grow: true, value: what, cell: what },
    {
      id: 'value',
      head: 'At',
      align: 'end',
      value: ({ value }) => BigInt(value),
      cell: (event) => amount(event, event.value),
    },
    { id: 'max', head: 'Of', align: 'end', value: ({ max }) => BigInt(max), cell: (event) => amount(event, event.max) },
  ]
  return (
    <Card title="What happened" about="Told once in each window of a limit." flush>
      <Show of={events} skeleton={<Skeleton rows={4} height={32} />}>
        {({ data }) => (
          <Table
            caption="Limits passed and requests refused"
            columns={columns}
            rows={data}
            rowKey={(event) => `${event.limit_id} ${event.subject} ${event.window} ${event.kind}`}
            file="limit-events"
            empty={
              <Empty title="No limit was reached" icon="check">
                It is written down here when one is passed or refuses a request.
              </Empty>
            }
          />
        )}
      </Show>
    </Card>
  )
}
