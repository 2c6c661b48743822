// Limits as rows of `limit_rules`. Owns the way there and back; the table's meaning is migrations/0006_limits.sql.
import type { limitRules } from '../db/schema/limits.ts'
import type { CountedMeter, LimitRule } from './limit.ts'

export type LimitRow = typeof limitRules.$inferSelect

/** A row as a rule. @throws Error for a row that the table's CHECKs exclude. */
export function limitRule(row: Omit<LimitRow, 'orgId' | 'createdAt'>): LimitRule {
  const { limitId, scope, scopeId, hard, meter, timeWindow: window, timeZone } = row
  const where = { limitId, scope, scopeId, hard, ...(row.model === '' ? {} : { model: row.model }) }
  if (meter === 'concurrency') return { ...where, meter, max: countOf(row) }
  if (window === 'none') throw new Error(`a row of limit_rules counts ${meter} over no window`)
  if (meter !== 'money') return { ...where, meter, window, timeZone, max: countOf(row) }
  if (row.maxNanoUsd === null) throw new Error('a row of limit_rules on money has no amount')
  return { ...where, meter, window, timeZone, maxNanoUsd: row.maxNanoUsd }
}

/** A rule as a row. @param createdAt ISO instant. */
export function limitRow(orgId: string, rule: LimitRule, createdAt: string): LimitRow {
  const { limitId, scope, scopeId, hard, model = '' } = rule
  const where = { orgId, limitId, scope, scopeId, hard, model, createdAt }
  if (rule.meter === 'concurrency') {
    const { meter, max } = rule
    return { ...where, meter, timeWindow: 'none', timeZone: 'UTC', maxCount: BigInt(max), maxNanoUsd: null }
  }
  const span = { timeWindow: rule.window, timeZone: rule.timeZone }
  const meter: CountedMeter = rule.meter
  if (rule.meter === 'money') return { ...where, ...span, meter, maxCount: null, maxNanoUsd: rule.maxNanoUsd }
  return { ...where, ...span, meter, maxCount: BigInt(rule.max), maxNanoUsd: null }
}

function countOf(row: Pick<LimitRow, 'meter' | 'maxCount'>): number {
  if (row.maxCount === null) throw new Error(`a row of limit_rules on ${row.meter} has no maximum`)
  return Number(row.maxCount)
}
