// The fullest money limits. Owns the card; all limits are the page of their own.
import { api } from '../../app/api.ts'
import { shareOf, usd } from '../../app/format.ts'
import { fullness, subjectText, windowText } from '../../app/limit-words.ts'
import { useLoad } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import { can, orgId } from '../../app/session.ts'
import type { Names } from '../../app/wire.ts'
import type { LimitState, LimitsState } from '../../app/wire-admin.ts'
import { Meter, MeterLine } from '../../parts/meter.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Show, Skeleton } from '../../parts/states.tsx'

const SHOWN = 5
const REFRESH_MS = 15_000

export function Budgets() {
  const org = orgId.value
  const state = useLoad(
    `limits ${org}`,
    (signal) => api.get<LimitsState>(`/organisations/${org}/limits/state`, {}, signal),
    { everyMs: REFRESH_MS },
  )
  return (
    <Card
      title="Budgets"
      actions={
        <a class="button button-small" href={href('/limits')}>
          All limits
        </a>
      }
    >
      <Show of={state} skeleton={<Skeleton rows={4} height={28} />}>
        {({ data, names }) => {
          const budgets = data
            .filter(({ meter }) => meter === 'money')
            .sort((a, b) => fullness(b) - fullness(a))
            .slice(0, SHOWN)
          if (budgets.length === 0)
            return (
              <Empty
                title="No budgets"
                icon="limits"
                actions={
                  can('limits.write') ? (
                    <a class="button" href={href('/limits')}>
                      Set a budget
                    </a>
                  ) : undefined
                }
              >
                A budget stops spending before it passes, exactly.
              </Empty>
            )
          return (
            <div class="meters">
              {budgets.map((one) => (
                <Budget key={`${one.limit_id} ${one.subject}`} budget={one} names={names} />
              ))}
            </div>
          )
        }}
      </Show>
    </Card>
  )
}

function Budget({ budget, names }: { budget: LimitState; names: Names }) {
  const max = BigInt(budget.max)
  const settled = BigInt(budget.settled ?? '0')
  const held = BigInt(budget.held)
  const name = `${subjectText(budget.scope, budget.subject ?? budget.scope_id, names)}${budget.model === null ? '' : `, ${budget.model}`}`
  const text = `${usd(settled)} of ${usd(max)}`
  const projected = budget.projection === null ? undefined : shareOf(BigInt(budget.projection.value), max)
  return (
    <MeterLine
      name={
        <>
          {name} <span class="muted">{windowText(budget.window)}</span>
        </>
      }
      text={
        <>
          {budget.settled === null ? <span class="muted">not counted yet, of {usd(max)}</span> : text}
          {held > 0n && <span class="muted"> + {usd(held)} held</span>}
        </>
      }
    >
      <Meter label={name} used={shareOf(settled, max)} held={shareOf(held, max)} projected={projected} text={text} />
    </MeterLine>
  )
}
