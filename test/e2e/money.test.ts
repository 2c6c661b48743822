// Money on the real system: workerd, Postgres and an upstream that keeps books of its own. Clients hang up, the gateway
// is killed and Postgres goes away; afterwards both books must agree. `npm run soak` does the same for longer.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { audit } from '../../bench/gateway/audit.ts'
import {
  type Budget,
  type MoneyRun,
  openBudget,
  openTenant,
  round,
  roundBudget,
  storm,
  stormBudget,
  type Tenant,
} from '../../bench/gateway/money.ts'
import { GatewayStack } from '../../bench/gateway/stack.ts'
import { Upstream } from '../../bench/gateway/upstream.ts'

const CLIENTS = 200
const ROOM = 50

let stack: GatewayStack
let upstream: Upstream
let run: MoneyRun
let tenant: Tenant
const budgets: Budget[] = []

beforeAll(async () => {
  upstream = await Upstream.start({ chunkMs: 0 })
  stack = await GatewayStack.start()
  run = { stack, upstream, clients: CLIENTS, room: ROOM, seed: 1, onProgress: (line) => console.log(line) }
  tenant = await openTenant(run)
})
afterAll(async () => {
  await stack?.stop()
  await upstream?.stop()
})

async function budgetOf(nanoUsd: bigint): Promise<Budget> {
  const budget = await openBudget(run, tenant, nanoUsd)
  budgets.push(budget)
  return budget
}

describe(`${CLIENTS} clients on a budget for ${ROOM} requests`, () => {
  // The killed ones first: the holds they leave open end by themselves a minute later, and the others run meanwhile.
  it('are served by a gateway that is killed among them', async () => {
    const budget = await budgetOf(roundBudget(ROOM))
    await round(run, budget, { kind: 'kill_gateway' })
    expect(budget.outcomes.filter(({ ended }) => ended === 'cut').length).toBeGreaterThan(0)
    expect(budget.outcomes.filter(({ ended }) => ended === 'broken').length).toBeGreaterThan(0)
  })

  it('are served by a gateway that is killed while Postgres is away', async () => {
    const budget = await budgetOf(roundBudget(ROOM))
    await round({ ...run, seed: 2 }, budget, { kind: 'kill_gateway_without_postgres', downMs: 1_000 })
    expect(budget.outcomes.filter(({ ended }) => ended === 'broken').length).toBeGreaterThan(0)
  })

  it('are admitted exactly as often as it covers, and it is spent to the nano-dollar', async () => {
    const budget = await budgetOf(stormBudget(ROOM))
    await storm(run, budget)
    expect(budget.outcomes.filter(({ ended }) => ended === 'whole')).toHaveLength(ROOM)
    expect(budget.outcomes.filter(({ code }) => code === 'insufficient_quota')).toHaveLength(CLIENTS - ROOM)
  })

  it('are served while Postgres is away', async () => {
    const budget = await budgetOf(roundBudget(ROOM))
    await round(run, budget, { kind: 'stop_postgres', downMs: 3_000 })
    expect(budget.outcomes.filter(({ ended }) => ended === 'whole').length).toBeGreaterThan(0)
  })
})

describe('the books afterwards', () => {
  it('charge every request once, none beyond its budget and none that was not served, and nothing stays held', async () => {
    expect(await audit(run, tenant, budgets)).toEqual([])
  }, 300_000)

  it('are found wrong where one nano-dollar is added or an entry is missing', async () => {
    const [row] = await stack.sql`
      UPDATE usage_attempts SET cost_nanousd = cost_nanousd + 1
      WHERE ctid = (SELECT ctid FROM usage_attempts WHERE org_id = ${tenant.orgId} AND charge = 'customer' AND cost_nanousd > 0
        LIMIT 1) RETURNING request_id`
    expect((await audit(run, tenant, budgets)).join('\n')).toContain(`request ${row?.request_id} costs`)
    await stack.sql`UPDATE usage_attempts SET cost_nanousd = cost_nanousd - 1 WHERE request_id = ${row?.request_id}`
    await stack.sql`
      DELETE FROM ledger_entries WHERE ctid = (SELECT ctid FROM ledger_entries WHERE org_id = ${tenant.orgId} LIMIT 1)`
    expect((await audit(run, tenant, budgets)).join('\n')).toMatch(/transfer \S+ sums to/)
  }, 120_000)
})
