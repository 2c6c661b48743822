// Statements of a month in the admin API. Owns their HTTP form, as JSON and as a table for spreadsheets; what stands in one is
// ledger/statement.ts.
//
//   GET /organisations/:org/statements?time_zone=             months there are, newest first
//   GET /organisations/:org/statements/:month?time_zone=&format=json|csv     `month` is YYYY-MM
//
// Adding up `amount` over the table's rows of usage and corrections gives the month's `usage`, which is what the ledger took;
// `attempts` and `units` add up over them likewise.
import { and, asc, eq, gte, lt } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { creditGrants } from '../db/schema/ledger.ts'
import {
  type Month,
  monthSpan,
  monthsOf,
  readStatement,
  type Statement,
  type StatementLine,
} from '../ledger/statement.ts'
import { PART_NAMES } from '../meter/usage.ts'
import { type AdminContext, type AdminEnv, invalid, notFound } from './context.ts'
import { grantView } from './credit.ts'
import type { Cell, Decimal } from './csv.ts'
import { download, EXPORT_PAGE_ROWS } from './export-stream.ts'
import { idParam, readQuery } from './input.ts'
import { type Names, namesOf } from './names.ts'
import { requireOrganisation } from './organisations.ts'
import { moneyJson, partsJson } from './usage-json.ts'
import { TimeZone, withinTimeLimit } from './usage-range.ts'

const MonthsQuery = z.strictObject({ time_zone: TimeZone })
const StatementQuery = z.strictObject({ time_zone: TimeZone, format: z.enum(['json', 'csv']).default('json') })
const MONTH = /^(19[7-9]\d|2\d{3})-(0[1-9]|1[0-2])$/

const iso = (atMs: number): string => new Date(atMs).toISOString()

export const statementRoutes = new Hono<AdminEnv>()
  .get('/:org/statements', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const { time_zone: timeZone } = readQuery(c, MonthsQuery)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const nowMs = Date.now()
    const months = await monthsOf(database, orgId, timeZone, nowMs)
    // The zone's clock shows its middle in the month it is called by.
    const name = ({ fromMs, toMs }: Month) => iso((fromMs + toMs) / 2).slice(0, 7)
    return c.json({
      time_zone: timeZone,
      data: months.map((month) => ({ month: name(month), ...spanJson(month), over: month.toMs <= nowMs })),
    })
  })
  .get('/:org/statements/:month', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const month = MONTH.exec(c.req.param('month'))?.[0]
    if (month === undefined) throw notFound('month: they are named like 2026-11')
    const { time_zone: timeZone, format } = readQuery(c, StatementQuery)
    const database = connect(c.env)
    const organisation = await requireOrganisation(database, orgId)
    const span = monthSpan(month, timeZone)
    if (span === undefined) throw notFound('month')
    const [statement, grants] = await withinTimeLimit(
      Promise.all([readStatement(database, orgId, span), grantsOf(c, orgId, span)]),
      'Take the rows of /usage/export instead.',
    )
    if (statement.truncated)
      throw invalid('month', 'has more lines than a statement can: take the rows of /usage/export')
    const names = await namesOf(c, orgId, {
      projects: statement.lines.map(({ projectId }) => projectId),
      keys: statement.lines.map(({ keyId }) => keyId),
    })
    if (format === 'csv') return table(c, `statement-${orgId}-${month}`, statement, grants, names)
    return c.json({
      org_id: orgId,
      organisation: organisation.name,
      month,
      time_zone: timeZone,
      ...spanJson(span),
      over: span.toMs <= Date.now(),
      created_at: iso(Date.now()),
      ...totalsJson(statement),
      lines: statement.lines.map(lineJson),
      credits: grants.map(grantView),
      names,
    })
  })

const spanJson = ({ fromMs, toMs }: Month) => ({ from: iso(fromMs), to: iso(toMs) })

const grantsOf = (c: AdminContext, orgId: string, { fromMs, toMs }: Month) =>
  query(connect(c.env), (db) =>
    db
      .select()
      .from(creditGrants)
      .where(
        and(
          eq(creditGrants.orgId, orgId),
          gte(creditGrants.occurredAt, iso(fromMs)),
          lt(creditGrants.occurredAt, iso(toMs)),
        ),
      )
      .orderBy(asc(creditGrants.occurredAt), asc(creditGrants.grantId)),
  )
type GrantRow = Awaited<ReturnType<typeof grantsOf>>[number]

const sumOf = (lines: readonly StatementLine[]): bigint => lines.reduce((sum, line) => sum + line.amountNanoUsd, 0n)

function totalsJson({ lines, ledger }: Statement) {
  const { openingNanoUsd, usageNanoUsd, creditNanoUsd } = ledger
  return {
    ...moneyJson('opening_balance', openingNanoUsd),
    ...moneyJson('usage', sumOf(lines)),
    /** Of the usage: what put estimates right. */
    ...moneyJson('corrections', sumOf(lines.filter(({ kind }) => kind === 'correction'))),
    ...moneyJson('credit', creditNanoUsd),
    ...moneyJson('closing_balance', openingNanoUsd - usageNanoUsd + creditNanoUsd),
    matches_ledger: sumOf(lines) === usageNanoUsd,
  }
}

const lineJson = (line: StatementLine) => ({
  kind: line.kind,
  project_id: line.projectId,
  key_id: line.keyId,
  model: line.model,
  provider: line.provider,
  model_served: line.modelServed,
  price_version_id: line.priceVersionId ?? null,
  basis_points: line.basisPoints ?? null,
  attempts: line.attempts,
  estimated_attempts: line.guessedAttempts,
  usage: partsJson(line.units).usage,
  ...moneyJson('amount', line.amountNanoUsd),
  parts: line.parts.map(({ part, units, unitPrice, amountNanoUsd }) => ({
    part: PART_NAMES[part],
    units: Number(units),
    unit_price_nanousd_per_million: unitPrice ?? null,
    amount_nanousd: amountNanoUsd?.toString() ?? null,
  })),
  rounding_nanousd: line.roundingNanoUsd?.toString() ?? null,
})

const COLUMNS = [
  'kind',
  'project_id',
  'project',
  'key_id',
  'key',
  'model',
  'provider',
  'model_served',
  'price_version_id',
  'basis_points',
  'attempts',
  'part',
  'units',
  'unit_price_nanousd_per_million',
  'amount_nanousd',
  'amount_usd',
  'note',
  'occurred_at',
] as const
type Row = Partial<Record<(typeof COLUMNS)[number], Cell>>

const decimal = (text: string | undefined): Decimal | null => (text === undefined ? null : { decimal: text })
const amounts = (amountNanoUsd: bigint | undefined): Row =>
  amountNanoUsd === undefined
    ? {}
    : { amount_nanousd: decimal(amountNanoUsd.toString()), amount_usd: decimal(formatUsd(amountNanoUsd)) }

/** Rows whose amounts add up to the line's: a row for each part and one for the rounding, or one for all parts together. */
function rowsOf(line: StatementLine, names: Names): Row[] {
  const { kind, projectId, keyId, model, provider, modelServed: served, attempts, roundingNanoUsd: rounding } = line
  const shared: Row = {
    kind,
    project_id: projectId,
    project: names.projects?.[projectId] ?? null,
    key_id: keyId,
    key: names.keys?.[keyId]?.name ?? null,
    model,
    provider,
    model_served: served,
    price_version_id: line.priceVersionId ?? null,
    basis_points: line.basisPoints ?? null,
  }
  const parts = line.parts.map(
    ({ part, units, unitPrice, amountNanoUsd }): Row => ({
      ...shared,
      part: PART_NAMES[part],
      units: Number(units),
      unit_price_nanousd_per_million: decimal(unitPrice),
      ...(rounding === undefined ? {} : amounts(amountNanoUsd)),
    }),
  )
  const rows =
    rounding === undefined
      ? [...parts, { ...shared, part: 'all', ...amounts(line.amountNanoUsd) }]
      : rounding === 0n && parts.length > 0
        ? parts
        : [...parts, { ...shared, part: 'rounding', ...amounts(rounding) }]
  // In the first row alone, so that this column too adds up to the month.
  return rows.map((row, place) => (place === 0 ? { ...row, attempts } : row))
}

function table(c: AdminContext, fileName: string, statement: Statement, grants: readonly GrantRow[], names: Names) {
  const { openingNanoUsd, usageNanoUsd, creditNanoUsd } = statement.ledger
  const rows: Row[] = [
    ...statement.lines.flatMap((line) => rowsOf(line, names)),
    ...grants.map(
      ({ kind, amountNanoUsd, note, occurredAt }): Row => ({
        kind,
        ...amounts(amountNanoUsd),
        note,
        occurred_at: occurredAt,
      }),
    ),
    { kind: 'opening_balance', ...amounts(openingNanoUsd) },
    { kind: 'closing_balance', ...amounts(openingNanoUsd - usageNanoUsd + creditNanoUsd) },
  ]
  return download(c, 'csv', {
    fileName,
    columns: COLUMNS,
    page: async (after: { row: Row; place: number } | undefined) => {
      const from = after === undefined ? 0 : after.place + 1
      return rows.slice(from, from + EXPORT_PAGE_ROWS).map((row, index) => ({ row, place: from + index }))
    },
    cells: ({ row }) => COLUMNS.map((column) => row[column] ?? null),
  })
}
