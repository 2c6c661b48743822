// Entries of the ledger, newest first. Owns the list; each belongs to a transfer whose entries sum to zero.
import { useState } from 'preact/hooks'
import { api, urlOf, withQuery } from '../../app/api.ts'
import { dateTime, nanoUsd, usdExact } from '../../app/format.ts'
import { useLoad } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import { orgId } from '../../app/session.ts'
import { useRange } from '../../app/use-url.ts'
import type { Page as ApiPage } from '../../app/wire.ts'
import type { LedgerEntry } from '../../app/wire-admin.ts'
import { Icon } from '../../parts/icon.tsx'
import { Card } from '../../parts/page.tsx'
import { RangePicker } from '../../parts/range-picker.tsx'
import { Empty, Show, Skeleton } from '../../parts/states.tsx'
import { Table } from '../../parts/table.tsx'
import { toastError } from '../../parts/toast.tsx'

const ROWS = 100
const PURPOSES: Readonly<Record<LedgerEntry['purpose'], string>> = {
  usage: 'Usage',
  provider_cost: 'Cost of a provider',
  hold: 'Hold',
  grant: 'Credit',
}

type Older = { key: string; rows: LedgerEntry[]; cursor: string | undefined }

export function Entries({ zone }: { zone: string }) {
  const { from, to } = useRange()
  const query = { org: orgId.value, from, to }
  const key = JSON.stringify(query)
  const first = useLoad(key, (signal) =>
    api.get<ApiPage<LedgerEntry>>('/ledger/entries', { ...query, limit: ROWS }, signal),
  )
  const [older, setOlder] = useState<Older | undefined>()
  const [isBusy, setBusy] = useState(false)
  const more = older?.key === key ? older : undefined
  const cursor = more === undefined ? first.data?.next_cursor : more.cursor
  const load = () => {
    setBusy(true)
    api
      .get<ApiPage<LedgerEntry>>('/ledger/entries', { ...query, limit: ROWS, cursor })
      .then(({ data, next_cursor: next }) => setOlder({ key, rows: [...(more?.rows ?? []), ...data], cursor: next }))
      .catch(toastError)
      .finally(() => setBusy(false))
  }
  return (
    <Card
      title="Ledger"
      about="Double entry: the entries of a transfer sum to zero, and none is ever changed."
      flush
      actions={
        <>
          <RangePicker />
          <a
            class="button button-small"
            href={urlOf(withQuery('/ledger/export', { ...query, format: 'csv' }))}
            download
          >
            <Icon name="download" />
            All as CSV
          </a>
        </>
      }
    >
      <Show of={first} skeleton={<Skeleton rows={10} height={32} />}>
        {({ data }) => (
          <Table
            caption="Entries of the ledger"
            rows={[...data, ...(more?.rows ?? [])]}
            rowKey={(one) => `${one.transfer_id} ${one.account}`}
            file="ledger"
            more={cursor === undefined ? undefined : { load, isLoading: isBusy }}
            empty={<Empty title="No entry in this range" icon="billing" />}
            columns={[
              {
                id: 'time',
                head: 'Time',
                value: ({ occurred_at: at }) => at,
                cell: ({ occurred_at: at }) => <span class="nowrap">{dateTime(Date.parse(at), zone)}</span>,
              },
              {
                id: 'purpose',
                head: 'For',
                value: ({ purpose }) => PURPOSES[purpose],
                cell: ({ purpose, kind }) =>
                  `${PURPOSES[purpose]}${kind === null || kind === 'attempt' ? '' : `, ${kind}`}`,
              },
              {
                id: 'account',
                head: 'Account',
                value: ({ account }) => account,
                cell: ({ account }) => <code>{account}</code>,
              },
              {
                id: 'request',
                head: 'Request',
                value: ({ request_id: id }) => id ?? undefined,
                cell: ({ request_id: id }) =>
                  id === null ? <span class="muted">–</span> : <a href={href(`/requests/${id}`)}>{id.slice(0, 8)}</a>,
              },
              {
                id: 'amount',
                head: 'Amount',
                align: 'end',
                value: ({ amount_nanousd: amount }) => nanoUsd(amount),
                csv: ({ amount_usd: amount }) => ({ decimal: amount }),
                cell: ({ amount_nanousd: amount }) => <span class="nowrap">{usdExact(nanoUsd(amount))}</span>,
              },
            ]}
          />
        )}
      </Show>
    </Card>
  )
}
