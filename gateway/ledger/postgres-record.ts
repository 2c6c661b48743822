// The system of record in Postgres, as one account sees it. Owns the questions an account asks: the rules in force and
// what a limit has counted before. Writing is flush.ts.
import * as z from 'zod'
import { EACH, LIMIT_SCOPES, type LimitRule, type LimitScope, type RuleBook } from '../account/limit.ts'
import { limitRule } from '../account/limit-rows.ts'
import { RULES_MAX } from '../account/rule-book.ts'
import { utcDay } from '../account/windows.ts'
import { type Database, DatabaseUnavailable, type SqlResult, type SqlValue } from '../db/port.ts'
import { LIMIT_METERS, LIMIT_SPANS } from '../db/schema/limits.ts'
import { PART_NAMES, type Side, sideOf, USAGE_PARTS } from '../meter/usage.ts'
import { writeEntries } from './flush.ts'
import type { OutboxEntry } from './outbox.ts'
import type { AccountRecord, Conflict, RecordedSum, SumQuestion } from './record.ts'

const DAY_MS = 24 * 3_600_000
/**
 * Days per statement at first, where a scope's rows are found by the day alone and where an index leads to them. What
 * takes longer than a statement may is asked for in halves, down to the minute.
 */
const DAYS_PER_QUERY = { wide: 31, narrow: 366 }
const RANGE_MIN_MS = 60_000
/** SQLSTATE of a statement over its time limit, as the port's error names it. */
const TOO_SLOW = '(57014)'
/** Ids that one limit on EACH can start from: what an account can hold in memory while it stores them. */
const SUBJECTS_MAX = 200_000

const SCOPE_COLUMNS: Record<LimitScope, { name: string; type: 'uuid' | 'text' }> = {
  org: { name: 'org_id', type: 'uuid' },
  project: { name: 'project_id', type: 'uuid' },
  team: { name: 'team_id', type: 'uuid' },
  user: { name: 'user_id', type: 'uuid' },
  key: { name: 'key_line_id', type: 'uuid' },
  end_user: { name: 'end_user', type: 'text' },
}

const columnsOf = (side: Side): string =>
  USAGE_PARTS.filter((part) => sideOf(part) === side)
    .map((part) => PART_NAMES[part])
    .join(' + ')

const PAID = "charge = 'customer'"
const METERS: Record<SumQuestion['meter'], { sum: string; where: string }> = {
  requests: { sum: 'count(*)', where: "kind = 'attempt' AND attempt = 1" },
  input_tokens: { sum: `sum(${columnsOf('input')})`, where: PAID },
  output_tokens: { sum: `sum(${columnsOf('output')})`, where: PAID },
  money: { sum: 'sum(cost_nanousd)', where: PAID },
}

export class PostgresRecord implements AccountRecord {
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  write(entries: OutboxEntry[]): Promise<Conflict[]> {
    return writeEntries(this.#database, entries)
  }

  async readRules(orgId: string): Promise<RuleBook> {
    // The version first: rules that change in between then stand under the older number, and the newer one follows.
    const [versions, rules, credits] = await this.#database.batch([
      { text: 'SELECT version FROM rule_books WHERE org_id = $1', params: [orgId] },
      {
        text: `SELECT limit_id, scope, scope_id, model, meter, time_window, time_zone, hard, max_count, max_nanousd
          FROM limit_rules WHERE org_id = $1 ORDER BY scope, scope_id, limit_id LIMIT $2`,
        params: [orgId, RULES_MAX + 1],
      },
      {
        text: `SELECT overdraft_nanousd, (SELECT coalesce(sum(amount_nanousd), 0)::text FROM credit_grants
            WHERE org_id = $1) FROM organisations WHERE org_id = $1 AND billing_mode = 'prepaid'`,
        params: [orgId],
      },
    ])
    const rows = rowsOf(rules)
    if (rows.length > RULES_MAX) throw new Error(`organisation ${orgId} has more than ${RULES_MAX} limits`)
    const [credit] = rowsOf(credits)
    return {
      version: Number(rowsOf(versions)[0]?.[0] ?? 0),
      limits: rows.map(ruleOf),
      ...(credit === undefined
        ? {}
        : { credit: { overdraftNanoUsd: BigInt(String(credit[0])), grantedNanoUsd: BigInt(String(credit[1])) } }),
    }
  }

  async sum(orgId: string, question: SumQuestion): Promise<RecordedSum[]> {
    const sums = new Map<string, bigint>()
    for (const range of await this.#ranges(orgId, question)) await this.#add(sums, orgId, question, range)
    return [...sums].map(([subject, value]) => ({ subject, value }))
  }

  async #add(sums: Map<string, bigint>, orgId: string, question: SumQuestion, range: Range): Promise<void> {
    let rows: unknown[][]
    try {
      rows = (await this.#database.run(statementOf(orgId, question, range))).rows
    } catch (error) {
      const lengthMs = range.toMs - range.fromMs
      const isTooSlow = error instanceof DatabaseUnavailable && error.message.includes(TOO_SLOW)
      if (!isTooSlow || lengthMs <= RANGE_MIN_MS) throw error
      const middleMs = range.fromMs + Math.floor(lengthMs / 2)
      await this.#add(sums, orgId, question, { ...range, toMs: middleMs })
      await this.#add(sums, orgId, question, { ...range, fromMs: middleMs })
      return
    }
    for (const [subject, value] of rows) {
      const key = String(subject)
      sums.set(key, (sums.get(key) ?? 0n) + BigInt(String(value)))
    }
    if (sums.size > SUBJECTS_MAX)
      throw new Error(`a limit on each ${question.scope} would count more than ${SUBJECTS_MAX} of them`)
  }

  /** The question's span; where it has no ends, those of what is recorded, in pieces. */
  async #ranges(orgId: string, { scope, fromMs, toMs }: SumQuestion): Promise<Range[]> {
    if (fromMs !== undefined && toMs !== undefined) return [{ fromMs, toMs }]
    const { rows } = await this.#database.run({
      text: 'SELECT min(usage_day)::text, max(usage_day)::text FROM usage_attempts WHERE org_id = $1',
      params: [orgId],
    })
    const [first, last] = rows[0] ?? []
    if (typeof first !== 'string' || typeof last !== 'string') return []
    const ranges: Range[] = []
    const lengthMs = DAY_MS * (scope === 'org' || scope === 'project' ? DAYS_PER_QUERY.wide : DAYS_PER_QUERY.narrow)
    const endMs = Math.min(toMs ?? Number.POSITIVE_INFINITY, Date.parse(last) + DAY_MS)
    for (let at = Math.max(fromMs ?? Number.NEGATIVE_INFINITY, Date.parse(first)); at < endMs; ) {
      const next = Math.min(endMs, at + lengthMs)
      ranges.push({ fromMs: at, toMs: next })
      at = next
    }
    return ranges
  }
}

/** Until: exclusive. */
type Range = { fromMs: number; toMs: number }

function statementOf(orgId: string, { scope, scopeId, model, meter }: SumQuestion, { fromMs, toMs }: Range) {
  const column = SCOPE_COLUMNS[scope]
  const { sum, where } = METERS[meter]
  const params: SqlValue[] = [orgId]
  const place = (value: SqlValue, type: string): string => `$${params.push(value)}::${type}`
  const conditions = [
    'org_id = $1::uuid',
    // The day leads the index that serves whole organisations; the instants cut exactly.
    `usage_day >= ${place(utcDay(fromMs), 'date')}`,
    `usage_day <= ${place(utcDay(toMs), 'date')}`,
    `started_at >= ${place(new Date(fromMs).toISOString(), 'timestamptz')}`,
    `started_at < ${place(new Date(toMs).toISOString(), 'timestamptz')}`,
    where,
    scopeId === EACH ? `${column.name} IS NOT NULL` : `${column.name} = ${place(scopeId, column.type)}`,
    ...(model === undefined ? [] : [`model_requested = ${place(model, 'text')}`]),
  ]
  const text = `SELECT ${column.name}::text, (${sum})::text FROM usage_attempts
    WHERE ${conditions.join(' AND ')} GROUP BY ${column.name} LIMIT ${SUBJECTS_MAX + 1}`
  return { text, params }
}

const int8 = z.union([z.string(), z.number()]).transform(BigInt).nullable()
/** The columns in the order in which they are asked for. */
const Row = z.tuple([
  z.string(),
  z.enum(LIMIT_SCOPES),
  z.string(),
  z.string(),
  z.enum(LIMIT_METERS),
  z.enum(LIMIT_SPANS),
  z.string(),
  z.boolean(),
  int8,
  int8,
])

function ruleOf(values: unknown[]): LimitRule {
  const row = Row.safeParse(values)
  if (!row.success) throw new Error('a row of limit_rules has an unknown shape')
  const [limitId, scope, scopeId, model, meter, timeWindow, timeZone, hard, maxCount, maxNanoUsd] = row.data
  return limitRule({ limitId, scope, scopeId, model, meter, timeWindow, timeZone, hard, maxCount, maxNanoUsd })
}

const rowsOf = (result: SqlResult | undefined): unknown[][] => result?.rows ?? []
