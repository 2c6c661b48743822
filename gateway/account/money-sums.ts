// What an organisation has been charged, from Postgres. Owns the query that a new or lost account object starts its
// money counters from.
import type { Database } from '../db/port.ts'
import { DAY_MS, utcDay } from './counters.ts'
import type { DaySum } from './store.ts'

/** Days per statement: a busy organisation's history stays below the pool's statement time limit. */
const DAYS_PER_QUERY = 31

/**
 * Charges by UTC day for the organisation, each project and each key. The days are those of `started_at`, as in the
 * account itself.
 * @throws DatabaseUnavailable, QueryFailed
 */
export async function readMoneySums(database: Database, orgId: string): Promise<DaySum[]> {
  const range = await database.run({
    text: 'SELECT min(usage_day)::text, max(usage_day)::text FROM usage_attempts WHERE org_id = $1',
    params: [orgId],
  })
  const [first, last] = range.rows[0] ?? []
  if (typeof first !== 'string' || typeof last !== 'string') return []
  const sums = new Map<string, DaySum>()
  const add = (scope: DaySum['scope'], scopeId: string, day: string, amountNanoUsd: bigint) => {
    const key = `${scope}/${scopeId}/${day}`
    const known = sums.get(key)
    if (known === undefined) sums.set(key, { scope, scopeId, day, amountNanoUsd })
    else known.amountNanoUsd += amountNanoUsd
  }
  const endMs = Date.parse(last)
  for (let fromMs = Date.parse(first); fromMs <= endMs; fromMs += DAYS_PER_QUERY * DAY_MS) {
    const { rows } = await database.run({
      text: `SELECT project_id, key_id, usage_day::text, sum(cost_nanousd)::text FROM usage_attempts
        WHERE org_id = $1 AND usage_day >= $2::date AND usage_day < $3::date AND charge = 'customer'
        GROUP BY project_id, key_id, usage_day`,
      params: [orgId, utcDay(fromMs), utcDay(fromMs + DAYS_PER_QUERY * DAY_MS)],
    })
    for (const [projectId, keyId, day, amount] of rows) {
      const amountNanoUsd = BigInt(String(amount))
      add('org', orgId, String(day), amountNanoUsd)
      add('project', String(projectId), String(day), amountNanoUsd)
      add('key', String(keyId), String(day), amountNanoUsd)
    }
  }
  return [...sums.values()]
}
