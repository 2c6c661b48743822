// The books after a money run, held against what the upstream says it served. Owns the rules; each broken one is a
// sentence. What is not durable yet is waited for, since rows may be as late as a hold's expiry.
import { setTimeout as sleep } from 'node:timers/promises'
import { admits, type Budget, COUNTED_MODEL, COUNTED_PRICE, type MoneyRun, type Tenant } from './money.ts'
import type { Served } from './upstream.ts'

type AttemptRow = {
  requestId: string
  keyId: string
  kind: string
  status: string
  charge: string
  source: string
  model: string
  input: number
  output: number
  costNanoUsd: bigint
}

/** A deadline of seconds, the grace of a minute, the longest pause between flushes, and some air. */
const ROWS_WAIT_MS = 120_000
const POLL_MS = 250
/** Enough to see what went wrong; a broken rule is mostly broken many times. */
const PROBLEMS_SHOWN_MAX = 20

/**
 * Waits until every request that was served, or that a client saw, has its row, and then until no hold is open.
 * @returns what is wrong, in sentences; empty: the books are right
 */
export async function audit(run: MoneyRun, tenant: Tenant, budgets: Budget[]): Promise<string[]> {
  const served = new Map(run.upstream.served.map((one) => [one.requestId, one]))
  const seen = new Set(
    budgets.flatMap(({ outcomes }) =>
      outcomes.filter(({ status }) => status === 200).map(({ requestId }) => requestId ?? ''),
    ),
  )
  const problems = await untilRecorded(run, tenant, new Set([...served.keys(), ...seen]))
  problems.push(...(await holdProblems(run, tenant, budgets)))
  // Read after the last request, and all at once.
  const attempts = await settledAttempts(run, tenant)
  const whole = new Set(
    budgets.flatMap(({ outcomes }) =>
      outcomes.filter(({ ended }) => ended === 'whole').map(({ requestId }) => requestId ?? ''),
    ),
  )
  problems.push(...rowProblems(attempts, new Map(run.upstream.served.map((one) => [one.requestId, one])), whole))
  problems.push(...budgetProblems(attempts, budgets))
  problems.push(...(await ledgerProblems(run, tenant, attempts)))
  const hidden = problems.length - PROBLEMS_SHOWN_MAX
  return hidden > 0 ? [...problems.slice(0, PROBLEMS_SHOWN_MAX), `and ${hidden} more`] : problems
}

async function untilRecorded(run: MoneyRun, tenant: Tenant, wanted: Set<string>): Promise<string[]> {
  const until = performance.now() + ROWS_WAIT_MS
  for (;;) {
    const rows = await run.stack.sql`SELECT request_id FROM usage_requests WHERE org_id = ${tenant.orgId}`
    const missing = new Set(wanted)
    for (const { request_id: requestId } of rows) missing.delete(requestId)
    if (missing.size === 0) return []
    if (performance.now() > until) return [...missing].map((id) => `request ${id} was served and has no row`)
    await sleep(POLL_MS)
  }
}

/**
 * Once nothing is held any more a budget admits exactly what is left of it: a request whose worst case is one nano-dollar
 * more is refused, and one that takes all of it is not.
 */
async function holdProblems(run: MoneyRun, tenant: Tenant, budgets: Budget[]): Promise<string[]> {
  const problems: string[] = []
  for (const budget of budgets) {
    const charged = chargedTo(await settledAttempts(run, tenant), budget.keyId)
    const left = budget.budgetNanoUsd - charged
    // A hold that nobody settled ends by itself a minute after its deadline.
    const until = performance.now() + ROWS_WAIT_MS
    let last = left > 0n ? await admits(run, budget, left) : undefined
    while (last !== undefined && last.ended !== 'whole' && performance.now() < until) {
      await sleep(4 * POLL_MS)
      last = await admits(run, budget, left)
    }
    if (last !== undefined && last.ended !== 'whole')
      problems.push(`key ${budget.keyId}: a hold is still open, ${left} were left: ${last.message ?? last.ended}`)
    // The one before cost one nano-dollar.
    const over = await admits(run, budget, last === undefined ? 1n : left)
    if (over.code !== 'insufficient_quota')
      problems.push(`key ${budget.keyId}: more was admitted than the ${left} that were left: ${over.ended}`)
  }
  return problems
}

/** All attempts of the organisation, after what is under way has arrived. */
async function settledAttempts({ stack, upstream }: MoneyRun, { orgId }: Tenant): Promise<AttemptRow[]> {
  const wanted = new Set(upstream.served.map(({ requestId }) => requestId))
  const until = performance.now() + ROWS_WAIT_MS
  for (;;) {
    const rows = await stack.sql`
      SELECT request_id, key_id, kind, status, charge, usage_source, model_requested,
        input_uncached + input_cache_read AS input, output_text + output_reasoning AS output, cost_nanousd
      FROM usage_attempts WHERE org_id = ${orgId}`
    const found = rows.map(
      (row): AttemptRow => ({
        requestId: row.request_id,
        keyId: row.key_id,
        kind: row.kind,
        status: row.status,
        charge: row.charge,
        source: row.usage_source,
        model: row.model_requested,
        input: Number(row.input),
        output: Number(row.output),
        costNanoUsd: BigInt(row.cost_nanousd),
      }),
    )
    const known = new Set(found.map(({ requestId }) => requestId))
    if ([...wanted].every((id) => known.has(id)) || performance.now() > until) return found
    await sleep(POLL_MS)
  }
}

/** What a request used, over its attempt and what came late to it. */
function rowProblems(attempts: AttemptRow[], served: Map<string, Served>, whole: Set<string>): string[] {
  const problems: string[] = []
  for (const [requestId, rows] of Map.groupBy(attempts, (row) => row.requestId)) {
    const sum = { input: 0, output: 0, costNanoUsd: 0n }
    for (const row of rows) {
      if (row.charge !== 'customer') continue
      sum.input += row.input
      sum.output += row.output
      sum.costNanoUsd += row.costNanoUsd
    }
    const [first] = rows
    const truth = served.get(requestId)
    const firsts = rows.filter(({ kind }) => kind === 'attempt').length
    if (firsts !== 1) problems.push(`request ${requestId} has ${firsts} rows for one attempt`)
    if (truth === undefined) {
      if (sum.costNanoUsd !== 0n) problems.push(`request ${requestId} costs ${sum.costNanoUsd} and was never served`)
      continue
    }
    if (sum.input > truth.promptTokens || sum.output > truth.outputTokens)
      problems.push(`request ${requestId} is charged ${sum.input}+${sum.output} tokens, more than ${textOf(truth)}`)
    const price = first?.model === COUNTED_MODEL ? COUNTED_PRICE : { inputNanoUsd: 0n, outputNanoUsd: 1n }
    const costs = price.inputNanoUsd * BigInt(sum.input) + price.outputNanoUsd * BigInt(sum.output)
    if (costs !== sum.costNanoUsd)
      problems.push(`request ${requestId} costs ${costs} and is charged ${sum.costNanoUsd}`)
    const exact = sum.input === truth.promptTokens && sum.output === truth.outputTokens
    if (whole.has(requestId) && !(exact && truth.complete && first?.source === 'provider'))
      problems.push(
        `request ${requestId} was answered whole: ${sum.input}+${sum.output} tokens (${first?.source}) for ${textOf(truth)}`,
      )
  }
  return problems
}

const textOf = ({ promptTokens, outputTokens, complete }: Served): string =>
  `${promptTokens}+${outputTokens} served${complete ? '' : ' in part'}`

function chargedTo(attempts: AttemptRow[], keyId: string): bigint {
  return attempts
    .filter((row) => row.keyId === keyId && row.charge === 'customer')
    .reduce((sum, { costNanoUsd }) => sum + costNanoUsd, 0n)
}

function budgetProblems(attempts: AttemptRow[], budgets: Budget[]): string[] {
  return budgets.flatMap(({ keyId, budgetNanoUsd }) => {
    const charged = chargedTo(attempts, keyId)
    return charged > budgetNanoUsd ? [`key ${keyId}: ${charged} charged on a budget of ${budgetNanoUsd}`] : []
  })
}

async function ledgerProblems(run: MoneyRun, { orgId }: Tenant, attempts: AttemptRow[]): Promise<string[]> {
  const problems: string[] = []
  const transfers = await run.stack.sql`
    SELECT transfer_id, sum(amount_nanousd)::text AS sum FROM ledger_entries WHERE org_id = ${orgId}
    GROUP BY transfer_id HAVING sum(amount_nanousd) <> 0`
  for (const { transfer_id: id, sum } of transfers) problems.push(`transfer ${id} sums to ${sum}`)
  const [credit] = await run.stack.sql`
    SELECT coalesce(sum(e.amount_nanousd), 0)::text AS sum FROM ledger_entries e
    JOIN ledger_accounts a ON a.org_id = e.org_id AND a.account_id = e.account_id
    WHERE e.org_id = ${orgId} AND a.name = 'customer_credit'`
  const charged = attempts
    .filter(({ charge }) => charge === 'customer')
    .reduce((sum, { costNanoUsd }) => sum + costNanoUsd, 0n)
  const booked = BigInt(credit?.sum ?? 0)
  if (booked !== -charged) problems.push(`the ledger moved ${booked} of customer credit, the rows charge ${charged}`)
  return problems
}
