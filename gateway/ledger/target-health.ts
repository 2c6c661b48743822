// How targets did lately, by the rows of attempts that ended in the last minutes, of all organisations. Owns the statement and its two
// windows; the HTTP form is admin/provider-health.ts.
import type { Database } from '../db/port.ts'
import { PART_NAMES, USAGE_PARTS } from '../meter/usage.ts'
import type { Histogram } from './latency.ts'
import { LATENCY_MS, slotOfSql } from './usage-facts.ts'

export const HEALTH_WINDOWS_MIN = [5, 60] as const
/** The longest attempt began this long before its end: the default deadline, and room. */
const BEGAN_BEFORE_MS = 11 * 60_000
/** Lines of the statement: targets, keys and faults by slots of time. */
const LINES_MAX = 50_000

export type WindowHealth = {
  attempts: number
  ok: number
  cancelled: number
  failed: number
  /** By what went wrong: the fault between us and the target, or else the status. */
  failures: Map<string, number>
  outputTokens: bigint
  /** Of the answers those tokens are of, from the first token on. */
  streamedMs: bigint
  firstToken: Histogram
  end: Histogram
}
export type TargetHealth = {
  provider: string
  modelServed: string
  key: string | undefined
  /** In the order of HEALTH_WINDOWS_MIN. */
  windows: [WindowHealth, WindowHealth]
}

const OUTPUT = USAGE_PARTS.filter((part) => part.startsWith('output')).map((part) => PART_NAMES[part])
/** $1 and $2: since when attempts ended, of the longer and of the shorter window; $3 since when, and $4 since which day they began. */
const STATEMENT = `
  WITH recent AS (
    SELECT a.*, CASE WHEN a.status = 'ok' THEN 'ok' WHEN a.status = 'client_cancelled' THEN 'cancelled'
        ELSE coalesce(a.route::json ->> 'kind', a.status) END AS outcome,
      coalesce(a.route::json ->> 'key', '') AS key_name, a.ended_at >= $2::timestamptz AS is_short
    FROM organisations o JOIN LATERAL (SELECT provider, model_served, status, route, started_at, first_token_at, ended_at,
        ${OUTPUT.join(' + ')} AS output_tokens
      FROM usage_attempts u WHERE u.org_id = o.org_id AND u.usage_day >= $4::date AND u.started_at >= $3::timestamptz
        AND u.ended_at >= $1::timestamptz AND u.kind = 'attempt') AS a ON true)
  SELECT provider, model_served, key_name, is_short, outcome, 'end', ${slotOfSql(LATENCY_MS.end)}, count(*)::text,
    sum(CASE WHEN first_token_at IS NULL THEN 0 ELSE output_tokens END)::text,
    coalesce(sum(round(date_part('epoch', ended_at - first_token_at) * 1000)), 0)::bigint::text
    FROM recent GROUP BY 1, 2, 3, 4, 5, 6, 7
  UNION ALL
  SELECT provider, model_served, key_name, is_short, outcome, 'first', ${slotOfSql(LATENCY_MS.firstToken)}, count(*)::text, '0', '0'
    FROM recent WHERE first_token_at IS NOT NULL AND outcome = 'ok' GROUP BY 1, 2, 3, 4, 5, 6, 7
  LIMIT ${LINES_MAX}`

type Counting = WindowHealth & { firstToken: Map<number, bigint>; end: Map<number, bigint> }

/** @throws DatabaseUnavailable, QueryFailed */
export async function targetHealth(database: Database, nowMs: number): Promise<TargetHealth[]> {
  const [shortMin, longMin] = HEALTH_WINDOWS_MIN
  const before = (ms: number) => new Date(nowMs - ms).toISOString()
  const began = before(longMin * 60_000 + BEGAN_BEFORE_MS)
  const { rows } = await database.run({
    text: STATEMENT,
    params: [before(longMin * 60_000), before(shortMin * 60_000), began, began.slice(0, 10)],
  })
  const found = new Map<string, TargetHealth & { windows: [Counting, Counting] }>()
  for (const [provider, served, key, isShort, outcome, what, slot, counted, tokens, ms] of rows) {
    const id = JSON.stringify([provider, served, key])
    let target = found.get(id)
    if (target === undefined) {
      const name = String(key)
      const windows: [Counting, Counting] = [nothing(), nothing()]
      target = { provider: String(provider), modelServed: String(served), key: name === '' ? undefined : name, windows }
      found.set(id, target)
    }
    const count = BigInt(String(counted))
    for (const window of isShort === true ? target.windows : [target.windows[1]]) {
      if (what === 'first') add(window.firstToken, Number(slot), count)
      else {
        ended(window, String(outcome), Number(slot), count)
        window.outputTokens += BigInt(String(tokens))
        window.streamedMs += BigInt(String(ms))
      }
    }
  }
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, target]) => target)
}

const nothing = (): Counting => ({
  attempts: 0,
  ok: 0,
  cancelled: 0,
  failed: 0,
  failures: new Map(),
  outputTokens: 0n,
  streamedMs: 0n,
  firstToken: new Map(),
  end: new Map(),
})

function add(histogram: Map<number, bigint>, slot: number, count: bigint): void {
  histogram.set(slot, (histogram.get(slot) ?? 0n) + count)
}

function ended(window: Counting, outcome: string, slot: number, count: bigint): void {
  const attempts = Number(count)
  window.attempts += attempts
  if (outcome === 'ok') {
    window.ok += attempts
    add(window.end, slot, count)
  } else if (outcome === 'cancelled') window.cancelled += attempts
  else {
    window.failed += attempts
    window.failures.set(outcome, (window.failures.get(outcome) ?? 0) + attempts)
  }
}
