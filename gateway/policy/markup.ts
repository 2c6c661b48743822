// What an organisation pays of the list price. Owns the question for its rules and which of them wins: the one that names
// most, and of one kind the newest that has begun. Rules are appended by admin/markups.ts, multiplied in by meter/price.ts.
import { and, asc, eq, lte, or, sql } from 'drizzle-orm'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { priceMarkups } from '../db/schema/catalog.ts'

/** In a rule: every provider, every model. */
export const ANY = '*'

/** Kinds of rules that one organisation may have; each is a row or two in every isolate that serves it. */
export const MARKUP_KINDS_MAX = 500

export type Markup = {
  /** Name, or ANY. */
  provider: string
  /** The target's own model name, or ANY. */
  model: string
  /** Hundredths of a per cent of the list price; absent: the rule has ended, and a less specific one holds. */
  basisPoints?: number | undefined
  effectiveFromMs: number
}

/** The rules of an organisation that hold at `nowMs`, and those that begin within `horizonMs`, oldest first. */
export async function findMarkups(
  database: Database,
  orgId: string,
  nowMs: number,
  horizonMs: number,
): Promise<Markup[]> {
  const now = new Date(nowMs).toISOString()
  const until = new Date(nowMs + horizonMs).toISOString()
  const newest = sql`(select max(older.effective_from) from ${priceMarkups} as older
    where older.org_id = ${priceMarkups.orgId} and older.provider = ${priceMarkups.provider}
      and older.model = ${priceMarkups.model} and older.effective_from <= ${now})`
  const rows = await query(database, (db) =>
    db
      .select()
      .from(priceMarkups)
      .where(
        and(
          eq(priceMarkups.orgId, orgId),
          lte(priceMarkups.effectiveFrom, until),
          or(sql`${priceMarkups.effectiveFrom} > ${now}`, sql`${priceMarkups.effectiveFrom} = ${newest}`),
        ),
      )
      .orderBy(asc(priceMarkups.effectiveFrom), asc(priceMarkups.markupId)),
  )
  return rows.map(({ provider, model, basisPoints, effectiveFrom }) => ({
    provider,
    model,
    basisPoints: basisPoints ?? undefined,
    effectiveFromMs: Date.parse(effectiveFrom),
  }))
}

/**
 * Pure. What the organisation pays of the target's list price at `nowMs`; `undefined` where no rule says: all of it.
 * A rule for provider and model comes before one for the model, that before one for the provider, that before one for all.
 */
export function markupInForce(
  markups: readonly Markup[],
  target: { provider: string; model: string },
  nowMs: number,
): number | undefined {
  const kinds: [string, string][] = [
    [target.provider, target.model],
    [ANY, target.model],
    [target.provider, ANY],
    [ANY, ANY],
  ]
  for (const [provider, model] of kinds) {
    const rule = markups.findLast(
      (one) => one.provider === provider && one.model === model && one.effectiveFromMs <= nowMs,
    )
    if (rule?.basisPoints !== undefined) return rule.basisPoints
  }
  return undefined
}
