// Billing: what is left, what a month cost and why, and the books behind it. Owns the page and its parts' places; a statement is
// billing/statement.tsx, the ledger billing/entries.tsx, grants billing/grants.tsx, prices billing/prices.tsx.
import { api } from '../app/api.ts'
import { nanoUsd, usd, usdExact } from '../app/format.ts'
import { useLoad } from '../app/load.ts'
import { can, orgId } from '../app/session.ts'
import { oneOf } from '../app/url-state.ts'
import { useUrlState, zoneNow } from '../app/use-url.ts'
import type { Credit } from '../app/wire-admin.ts'
import { Page } from '../parts/page.tsx'
import { Note, Show, Skeleton } from '../parts/states.tsx'
import { Tabs } from '../parts/tabs.tsx'
import { Tile, Tiles } from '../parts/tile.tsx'
import { Entries } from './billing/entries.tsx'
import { Grants } from './billing/grants.tsx'
import { Prices } from './billing/prices.tsx'
import { StatementView } from './billing/statement.tsx'

const TABS = ['statement', 'ledger', 'credit', 'prices'] as const
const REFRESH_MS = 15_000

export default function BillingPage() {
  const org = orgId.value
  const [{ tab }, set] = useUrlState({ tab: oneOf(TABS, 'statement') })
  const zone = zoneNow()
  const credit = useLoad(
    can('credit.read') ? `credit ${org}` : undefined,
    (signal) => api.get<Credit>(`/organisations/${org}/credit`, {}, signal),
    { everyMs: REFRESH_MS },
  )
  const shown = [
    { value: 'statement' as const, label: 'Statement', may: can('ledger.read') },
    { value: 'ledger' as const, label: 'Ledger', may: can('ledger.read') },
    { value: 'credit' as const, label: 'Credit', may: can('credit.read') },
    { value: 'prices' as const, label: 'Price book', may: can('prices.read') },
  ].filter(({ may }) => may)
  const current = shown.some(({ value }) => value === tab) ? tab : (shown[0]?.value ?? 'statement')

  return (
    <Page title="Billing" about="Every amount is a sum of ledger entries, to the nano-dollar.">
      {can('credit.read') && (
        <Show of={credit} skeleton={<Skeleton rows={1} height={88} />}>
          {(one) => <Balance credit={one} />}
        </Show>
      )}
      <Tabs label="Parts of billing" value={current} onChange={(next) => set({ tab: next })} tabs={shown}>
        {current === 'statement' && <StatementView zone={zone} />}
        {current === 'ledger' && <Entries zone={zone} />}
        {current === 'credit' && <Grants zone={zone} onGranted={credit.reload} />}
        {current === 'prices' && <Prices zone={zone} />}
      </Tabs>
    </Page>
  )
}

function Balance({ credit }: { credit: Credit }) {
  const balance = nanoUsd(credit.balance_nanousd)
  const held = nanoUsd(credit.held_nanousd)
  const isPrepaid = credit.mode === 'prepaid'
  // Whoever pays afterwards owes something, unless more came in than was used.
  const isOwing = !isPrepaid && balance < 0n
  return (
    <>
      <Tiles>
        <Tile
          label={isOwing ? 'Owed' : 'Balance'}
          value={usd(isOwing ? -balance : balance)}
          title={usdExact(isOwing ? -balance : balance)}
          note={isPrepaid ? 'Prepaid' : 'Paid afterwards'}
        />
        <Tile
          label="Held by running requests"
          value={usd(held)}
          title={usdExact(held)}
          note="Not spent: what is not used comes back"
        />
        {credit.available_nanousd !== undefined && (
          <Tile
            label="Available"
            value={usd(nanoUsd(credit.available_nanousd))}
            title={usdExact(nanoUsd(credit.available_nanousd))}
            note={`Overdraft ${usd(nanoUsd(credit.overdraft_nanousd))} included`}
          />
        )}
        <Tile
          label="Paid in"
          value={usd(nanoUsd(credit.paid_nanousd))}
          title={usdExact(nanoUsd(credit.paid_nanousd))}
        />
        <Tile
          label="Promotions"
          value={usd(nanoUsd(credit.promoted_nanousd))}
          title={usdExact(nanoUsd(credit.promoted_nanousd))}
        />
      </Tiles>
      {credit.outbox_rows > 0 && (
        <Note>{credit.outbox_rows} rows are on their way into the ledger: the balance follows within seconds.</Note>
      )}
    </>
  )
}
