// Credit that was granted: payments and promotions, and for the operator booking another. Owns the list and the form; a grant carries an id
// made when the form is opened, so that sending it twice books it once.
import { useState } from 'preact/hooks'
import { allPages, api } from '../../app/api.ts'
import { dateTime, nanoUsd, usd, usdExact } from '../../app/format.ts'
import { useLoad } from '../../app/load.ts'
import { isOperator, orgId } from '../../app/session.ts'
import type { Grant } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'
import { Dialog } from '../../parts/dialog.tsx'
import { Form, MoneyField, SelectField, TextField } from '../../parts/field.tsx'
import { Icon } from '../../parts/icon.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Note, Show, Skeleton } from '../../parts/states.tsx'
import { Table } from '../../parts/table.tsx'
import { toast } from '../../parts/toast.tsx'

export function Grants({ zone, onGranted }: { zone: string; onGranted: () => void }) {
  const org = orgId.value
  const [grantId, setGrantId] = useState<string | undefined>()
  const grants = useLoad(`grants ${org}`, (signal) =>
    allPages<Grant>(`/organisations/${org}/credit/grants`, {}, signal),
  )
  return (
    <Card
      title="Credit"
      about="Payments and promotions, as they were booked."
      flush
      actions={
        isOperator.value && (
          <button type="button" class="button button-small" onClick={() => setGrantId(crypto.randomUUID())}>
            <Icon name="plus" />
            Book credit
          </button>
        )
      }
    >
      <Show of={grants} skeleton={<Skeleton rows={4} height={32} />}>
        {({ data, isCut }) => (
          <>
            {isCut && <Note kind="warning">There are more than this page reads: the newest are shown.</Note>}
            <Table
              caption="Credit that was granted"
              rows={data}
              rowKey={({ id }) => id}
              defaultSort={{ column: 'time', descending: true }}
              file="credit"
              empty={<Empty title="No credit was booked" icon="billing" />}
              columns={[
                {
                  id: 'time',
                  head: 'Time',
                  value: ({ occurred_at: at }) => at,
                  cell: ({ occurred_at: at }) => <span class="nowrap">{dateTime(Date.parse(at), zone)}</span>,
                },
                { id: 'kind', head: 'Kind', value: ({ kind }) => kind, cell: ({ kind }) => <Badge>{kind}</Badge> },
                { id: 'note', head: 'Note', grow: true, value: ({ note }) => note, cell: ({ note }) => note },
                {
                  id: 'amount',
                  head: 'Amount',
                  align: 'end',
                  value: ({ amount_nanousd: amount }) => nanoUsd(amount),
                  csv: ({ amount_usd: amount }) => ({ decimal: amount }),
                  cell: ({ amount_nanousd: amount }) => (
                    <span title={usdExact(nanoUsd(amount))}>{usd(nanoUsd(amount))}</span>
                  ),
                },
              ]}
            />
          </>
        )}
      </Show>
      {grantId !== undefined && (
        <GrantForm
          id={grantId}
          onClose={() => setGrantId(undefined)}
          onDone={() => {
            setGrantId(undefined)
            grants.reload()
            onGranted()
          }}
        />
      )}
    </Card>
  )
}

function GrantForm({ id, onClose, onDone }: { id: string; onClose: () => void; onDone: () => void }) {
  const [kind, setKind] = useState<Grant['kind']>('payment')
  const [amount, setAmount] = useState('')
  const [note, setNote] = useState('')
  return (
    <Dialog title="Book credit" onClose={onClose}>
      <Form
        action="Book it"
        onCancel={onClose}
        disabled={!/^-?\d+(\.\d{1,9})?$/.test(amount)}
        onSubmit={async () => {
          await api.post<Grant>(`/organisations/${orgId.value}/credit/grants`, { id, kind, amount_usd: amount, note })
          toast('Credit is booked')
          onDone()
        }}
      >
        {(errorOf) => (
          <>
            <SelectField
              label="Kind"
              value={kind}
              onChange={setKind}
              choices={[
                { value: 'payment', label: 'Payment' },
                { value: 'promotion', label: 'Promotion' },
              ]}
            />
            <MoneyField
              label="Amount"
              hint="Below zero takes back."
              value={amount}
              onInput={setAmount}
              error={errorOf('amount_usd')}
              required
            />
            <TextField
              label="Note"
              hint="Stands on the statement."
              value={note}
              onInput={setNote}
              error={errorOf('note')}
            />
          </>
        )}
      </Form>
    </Dialog>
  )
}
