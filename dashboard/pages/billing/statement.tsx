// The statement of a month: opening balance, usage by project, key and model, corrections, credit, closing balance. Owns the view; the
// gateway adds up, and says itself whether the lines agree with the ledger.
import { api, urlOf, withQuery } from '../../app/api.ts'
import { count, date, nanoUsd, usd, usdExact } from '../../app/format.ts'
import { useLoad } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import { orgId } from '../../app/session.ts'
import { optionalText } from '../../app/url-state.ts'
import { labelOf } from '../../app/usage.ts'
import { useUrlState } from '../../app/use-url.ts'
import type { Names } from '../../app/wire.ts'
import type { Statement, StatementLine, StatementMonths } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'
import { Select } from '../../parts/field.tsx'
import { Icon } from '../../parts/icon.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Note, Show, Skeleton } from '../../parts/states.tsx'
import { type Column, Table } from '../../parts/table.tsx'
import { PART_LABELS } from '../requests/bill.ts'
import { sumsOf } from './sums.ts'

export function StatementView({ zone }: { zone: string }) {
  const org = orgId.value
  const [{ month }, set] = useUrlState({ month: optionalText })
  const months = useLoad(`months ${org} ${zone}`, (signal) =>
    api.get<StatementMonths>(`/organisations/${org}/statements`, { time_zone: zone }, signal),
  )
  const shown = month ?? months.data?.data[0]?.month
  const path = `/organisations/${org}/statements/${shown}`
  const statement = useLoad(shown === undefined ? undefined : `${path} ${zone}`, (signal) =>
    api.get<Statement>(path, { time_zone: zone }, signal),
  )
  if (months.data !== undefined && months.data.data.length === 0)
    return (
      <Card>
        <Empty title="No statement yet" icon="billing">
          The first is there with the first entry of the ledger.
        </Empty>
      </Card>
    )
  return (
    <Card
      title="Statement"
      about={`Months in ${zone}; a line counts where its attempt ended.`}
      actions={
        <>
          <Select
            aria-label="Month"
            value={shown ?? ''}
            onChange={(next) => set({ month: next })}
            choices={(months.data?.data ?? []).map(({ month: value, over }) => ({
              value,
              label: over ? value : `${value} (so far)`,
            }))}
          />
          {shown !== undefined && (
            <a class="button button-small" href={urlOf(withQuery(path, { time_zone: zone, format: 'csv' }))} download>
              <Icon name="download" />
              Whole statement
            </a>
          )}
        </>
      }
    >
      <Show of={statement} skeleton={<Skeleton rows={8} height={32} />}>
        {(one) => <Body statement={one} zone={zone} />}
      </Show>
    </Card>
  )
}

function Body({ statement, zone }: { statement: Statement; zone: string }) {
  const { names, lines } = statement
  const sums = sumsOf(statement)
  const estimated = lines.reduce((sum, line) => sum + line.estimated_attempts, 0)
  return (
    <div class="stack">
      {!statement.matches_ledger && (
        <Note kind="danger">
          The lines and the ledger do not agree. This is a fault: run the ledger check and report it.
        </Note>
      )}
      {estimated > 0 && (
        <Note kind="warning">{count(estimated)} attempts are charged by an estimate or a partial count.</Note>
      )}
      <table class="sums">
        <caption class="visually-hidden">Sums of the month</caption>
        <tbody>
          <Sum name={`Balance on ${date(Date.parse(statement.from), zone)}`} amount={sums.opening} />
          <Sum name="Usage" amount={sums.usage} />
          <Sum name="Corrections of earlier estimates" amount={sums.corrections} />
          <Sum name="Payments and promotions" amount={sums.credit} />
          <Sum
            name={statement.over ? `Balance on ${date(Date.parse(statement.to), zone)}` : 'Balance now'}
            amount={sums.closing}
            isLast
          />
        </tbody>
      </table>
      <Table
        caption="Lines of the statement"
        columns={columnsOf(names, statement)}
        rows={lines}
        rowKey={(line) =>
          [
            line.kind,
            line.project_id,
            line.key_id,
            line.model,
            line.provider,
            line.model_served,
            line.price_version_id,
            line.basis_points,
          ].join(' ')
        }
        defaultSort={{ column: 'amount', descending: true }}
        file={`statement-${statement.month}`}
        stacks
        foot={{
          what: { text: 'Usage and corrections', csv: 'Usage and corrections' },
          amount: {
            text: usdExact(nanoUsd(statement.usage_nanousd)),
            csv: { decimal: statement.usage_usd },
          },
        }}
        empty={<Empty title="Nothing was used in this month" icon="billing" />}
      />
    </div>
  )
}

function Sum({ name, amount: value, isLast = false }: { name: string; amount: bigint; isLast?: boolean }) {
  return (
    <tr class={isLast ? 'is-last' : undefined}>
      <th scope="row">{name}</th>
      <td title={usdExact(value)}>{usd(value)}</td>
    </tr>
  )
}

const columnsOf = (names: Names, { from, to }: Statement): Column<StatementLine>[] => [
  {
    id: 'what',
    head: 'Project and key',
    value: ({ project_id: project, key_id: key }) =>
      `${labelOf(project, 'project', names)} / ${labelOf(key, 'key', names)}`,
    cell: ({ project_id: project, key_id: key, kind }) => (
      <span>
        {labelOf(project, 'project', names)} / {labelOf(key, 'key', names)}{' '}
        {kind === 'correction' && <Badge kind="accent">correction</Badge>}
      </span>
    ),
  },
  {
    id: 'model',
    head: 'Model',
    grow: true,
    value: ({ model, provider, model_served: served }) => `${model} (${provider}/${served})`,
    cell: ({ model, provider, model_served: served }) => (
      <span title={`${provider}/${served}`}>
        {model} <span class="muted small">{provider}</span>
      </span>
    ),
  },
  {
    id: 'parts',
    head: 'Used',
    value: ({ parts }) => parts.map(({ part, units }) => `${PART_LABELS[part]} ${units}`).join('; '),
    cell: ({ parts }) => (
      <span class="small parts">
        {parts.map(({ part, units, unit_price_nanousd_per_million: price }) => (
          <span key={part} class="part">
            {PART_LABELS[part]} {count(units)}
            {price !== null && <span class="muted"> at {usdExact(wholeNano(price))}/M</span>}
          </span>
        ))}
      </span>
    ),
  },
  {
    id: 'attempts',
    head: 'Attempts',
    align: 'end',
    value: ({ attempts }) => attempts,
    cell: ({ attempts, key_id: key, model }) => (
      <a href={href('/requests', { key, model, range: 'custom', from, to })}>{count(attempts)}</a>
    ),
  },
  {
    id: 'amount',
    head: 'Amount',
    align: 'end',
    value: ({ amount_nanousd: amount }) => nanoUsd(amount),
    csv: ({ amount_usd: amount }) => ({ decimal: amount }),
    cell: ({ amount_nanousd: amount }) => <span title={usdExact(nanoUsd(amount))}>{usd(nanoUsd(amount))}</span>,
  },
]

/** With a mark-up a price may have fractions of a nano-dollar, which no screen needs. */
const wholeNano = (text: string): bigint => BigInt(text.split('.')[0] ?? '0')
