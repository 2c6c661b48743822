// The price book: what a million tokens of each part cost, by version. Owns the list; history is never priced again.
import { allPages } from '../../app/api.ts'
import { dateTime } from '../../app/format.ts'
import { useLoad } from '../../app/load.ts'
import { flag, optionalText } from '../../app/url-state.ts'
import { useUrlState } from '../../app/use-url.ts'
import type { PartName } from '../../app/wire.ts'
import type { Price } from '../../app/wire-admin.ts'
import { Badge, Status } from '../../parts/badge.tsx'
import { Checkbox, TextField } from '../../parts/field.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Note, Show, Skeleton } from '../../parts/states.tsx'
import { Table } from '../../parts/table.tsx'
import { PART_LABELS } from '../requests/bill.ts'

type State = 'in force' | 'to come' | 'ended'
const KINDS = { 'in force': 'good', 'to come': 'accent', ended: 'neutral' } as const

/** Of versions of one price, the one that began last and has not ended is in force. */
function statesOf(prices: readonly Price[], nowMs: number): Map<string, State> {
  const current = new Map<string, Price>()
  const nameOf = ({ provider, model, service_tier: tier }: Price) => `${provider}\n${model}\n${tier}`
  const hasBegun = (price: Price) => Date.parse(price.effective_from) <= nowMs
  const hasEnded = ({ effective_to: to }: Price) => to !== undefined && Date.parse(to) <= nowMs
  for (const price of prices) {
    const known = current.get(nameOf(price))
    if (!hasBegun(price) || hasEnded(price)) continue
    if (known === undefined || known.effective_from < price.effective_from) current.set(nameOf(price), price)
  }
  return new Map(
    prices.map((price) => [
      price.id,
      current.get(nameOf(price))?.id === price.id ? 'in force' : hasBegun(price) ? 'ended' : 'to come',
    ]),
  )
}

export function Prices({ zone }: { zone: string }) {
  const [filters, set] = useUrlState({ price: optionalText, old: flag(false) })
  const prices = useLoad('prices', (signal) => allPages<Price>('/prices', {}, signal))
  return (
    <Card
      title="Price book"
      about="Dollars per million tokens. A new price is a new version; what was used before keeps its own."
      flush
    >
      <div class="filters">
        <TextField
          label="Search"
          type="search"
          value={filters.price ?? ''}
          placeholder="Provider or model"
          onInput={(price) => set({ price }, { replace: true })}
        />
        <Checkbox label="Also versions that have ended" checked={filters.old} onChange={(old) => set({ old })} />
      </div>
      <Show of={prices} skeleton={<Skeleton rows={8} height={32} />}>
        {({ data, isCut }) => {
          const states = statesOf(data, Date.now())
          const shown = data.filter(
            ({ id, provider, model }) =>
              (filters.old || states.get(id) !== 'ended') &&
              `${provider} ${model}`.toLowerCase().includes((filters.price ?? '').toLowerCase()),
          )
          return (
            <>
              {isCut && <Note kind="warning">There are more versions than this page reads.</Note>}
              <Table
                caption="Prices"
                rows={shown}
                rowKey={({ id }) => id}
                defaultSort={{ column: 'model', descending: false }}
                file="prices"
                empty={<Empty title="No price matches" icon="billing" />}
                columns={[
                  {
                    id: 'provider',
                    head: 'Provider',
                    value: ({ provider }) => provider,
                    cell: ({ provider }) => provider,
                  },
                  {
                    id: 'model',
                    head: 'Model',
                    grow: true,
                    value: ({ model }) => model,
                    cell: ({ model, service_tier: tier }) => (
                      <span>
                        {model} {tier !== 'standard' && <Badge>{tier}</Badge>}
                      </span>
                    ),
                  },
                  {
                    id: 'state',
                    head: 'State',
                    value: ({ id }) => states.get(id),
                    cell: ({ id }) => <Status kind={KINDS[states.get(id) ?? 'ended']}>{states.get(id)}</Status>,
                  },
                  {
                    id: 'prices',
                    head: 'Per million',
                    value: textOf,
                    cell: (price) => (
                      <span class="small">
                        {partsOf(price).map(([part, amount]) => (
                          <span key={part} class="part">
                            {PART_LABELS[part]} <strong>${amount}</strong>
                          </span>
                        ))}
                        {price.context_tiers !== undefined && (
                          <span class="muted">and {price.context_tiers.length} more for long prompts</span>
                        )}
                      </span>
                    ),
                  },
                  {
                    id: 'from',
                    head: 'From',
                    value: ({ effective_from: from }) => from,
                    cell: ({ effective_from: from }) => <span class="nowrap">{dateTime(Date.parse(from), zone)}</span>,
                  },
                ]}
              />
            </>
          )
        }}
      </Show>
    </Card>
  )
}

const partsOf = ({ usd_per_million: prices }: Price): [PartName, string][] =>
  Object.entries(prices) as [PartName, string][]
const textOf = (price: Price): string =>
  partsOf(price)
    .map(([part, amount]) => `${PART_LABELS[part]} ${amount}`)
    .join('; ')
