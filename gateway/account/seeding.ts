// Where complete counters come from. Owns how the counts of a series that an account does not have are made of the
// record and the outbox, so that a limit added in mid-month knows the month, an account that lost its storage knows
// everything again, and nothing is counted on both sides.
//
// The caller sees to it that nothing is written to the record meanwhile, and that everything which may have been written
// before was confirmed: an ended attempt is then either in the record or in the outbox. What is open is in neither.
import type { AttemptRow } from '../ledger/outbox.ts'
import type { AccountRecord } from '../ledger/record.ts'
import { amountsOfRow } from './amounts.ts'
import type { Count } from './counts.ts'
import { EACH } from './limit.ts'
import { type Series, subjectAt } from './rule-index.ts'
import { type WindowSpan, windowAfter, windowBefore, windowOf } from './windows.ts'

export type Seed = { series: Series; coveredFrom: WindowSpan; counts: Count[] }

/**
 * Sums of the window of now and of its neighbours, which asks and late ends around its edges and clocks that differ can
 * still hit; windows further back stay unknown.
 * @throws DatabaseUnavailable, QueryFailed
 */
export async function readSeed(record: AccountRecord, orgId: string, series: Series, nowMs: number): Promise<Seed> {
  const { window, timeZone, scope, scopeId, model, meter } = series
  const now = windowOf(window, timeZone, nowMs)
  const before = windowBefore(window, timeZone, now)
  const spans = [before, now, windowAfter(window, timeZone, now)].filter((span) => span !== undefined)
  const counts: Count[] = []
  for (const span of spans) {
    const sums = await record.sum(orgId, { scope, scopeId, model, meter, fromMs: span.startMs, toMs: span.endMs })
    for (const { subject, value } of sums) counts.push({ subject, span, value })
  }
  return { series, coveredFrom: before ?? now, counts }
}

/** What a row that waits in the outbox adds to a series; nothing where the series does not count it. */
export function countOf(row: AttemptRow, series: Series): Count | undefined {
  const subject = subjectAt(series.scope, row)
  if (subject === undefined || (series.scopeId !== EACH && series.scopeId !== subject)) return undefined
  if (series.model !== undefined && series.model !== row.modelRequested) return undefined
  const value = amountsOfRow(row)[series.meter]
  return { subject, span: windowOf(series.window, series.timeZone, row.startedAtMs), value }
}
