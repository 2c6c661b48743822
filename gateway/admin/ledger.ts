// The ledger in the admin API. Owns the HTTP form of its check, its entries and its export; what is compared is
// ledger/check.ts.
//
//   GET /ledger/check?org=&from=&to=                       the whole, or with a range what happened in it
//   GET /ledger/entries?org=&account=&from=&to=&limit=     newest first, page by page
//   GET /ledger/export                                     export.ts
//
// The check is what an operator runs every night, for every organisation: `ok` false is an alarm. It reads every row and
// entry of the organisation (or of the range) in one statement.
import { and, desc, eq, gte, lt } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { ledgerEntries } from '../db/schema/ledger.ts'
import { type Checked, checkLedger, FAULTS_SHOWN_MAX, type Fault } from '../ledger/check.ts'
import { LEDGER_ACCOUNTS } from '../ledger/postings.ts'
import { type AdminEnv, invalid } from './context.ts'
import { ledgerExport } from './export.ts'
import { readQuery } from './input.ts'
import { accountNames, nameOf, ofAccount } from './ledger-accounts.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { moneyJson } from './usage-json.ts'
import { Moment, rangeOf, withinTimeLimit } from './usage-range.ts'

const CheckQuery = z.strictObject({ org: z.uuid().toLowerCase(), from: Moment.optional(), to: Moment.optional() })
const EntriesQuery = z.strictObject({
  org: z.uuid().toLowerCase(),
  account: z.enum(LEDGER_ACCOUNTS).optional(),
  from: Moment.optional(),
  to: Moment.optional(),
  ...pageParameters,
})

export const ledgerRoutes = new Hono<AdminEnv>()
  .get('/check', async (c) => {
    const { org, from, to } = readQuery(c, CheckQuery)
    if ((from === undefined) !== (to === undefined))
      throw invalid(from === undefined ? 'from' : 'to', 'is missing: a range has two ends')
    const range = from === undefined ? undefined : rangeOf({ from, to }, 'UTC', Date.now())
    const checked = await withinTimeLimit(
      checkLedger(connect(c.env), org, range),
      'Check piece by piece, with `from` and `to`.',
    )
    return c.json({ org_id: org, ...(range === undefined ? {} : rangeJson(range)), ...checkJson(checked) })
  })
  .get('/entries', async (c) => {
    const asked = readQuery(c, EntriesQuery)
    const range = rangeOf(asked, 'UTC', Date.now())
    const database = connect(c.env)
    const names = await accountNames(database, asked.org)
    const t = ledgerEntries
    const rows = await query(database, (db) =>
      db
        .select()
        .from(t)
        .where(
          and(
            eq(t.orgId, asked.org),
            gte(t.occurredAt, new Date(range.fromMs).toISOString()),
            lt(t.occurredAt, new Date(range.toMs).toISOString()),
            ofAccount(names, asked.account),
            olderThan(asked.cursor, t.occurredAt, t.transferId, t.accountId),
          ),
        )
        .orderBy(desc(t.occurredAt), desc(t.transferId), desc(t.accountId))
        .limit(asked.limit + 1),
    )
    return c.json(
      pageOf(
        rows,
        asked.limit,
        (row) => [row.occurredAt, row.transferId, row.accountId],
        (row) => ({
          transfer_id: row.transferId,
          account: nameOf(names, row.accountId),
          ...moneyJson('amount', row.amountNanoUsd),
          purpose: row.purpose,
          request_id: row.requestId,
          attempt: row.attempt,
          kind: row.kind,
          occurred_at: row.occurredAt,
        }),
      ),
    )
  })
  .get('/export', ledgerExport)

const rangeJson = ({ fromMs, toMs }: { fromMs: number; toMs: number }) => ({
  from: new Date(fromMs).toISOString(),
  to: new Date(toMs).toISOString(),
})

/**
 * `balanced`: every transfer, and so the whole, sums to zero. `matches_usage`: every account has the balance that usage rows
 * and grants give it; absent for a range. `complete`: no entry without its row, no row without its entry.
 */
function checkJson({ balances, expected, faults }: Checked) {
  const sum = [...balances.values()].reduce((total, balance) => total + balance, 0n)
  const differences = [...(expected ?? [])].filter(([name, balance]) => (balances.get(name) ?? 0n) !== balance)
  const of = (kind: Fault['kind']) =>
    faults
      .filter((fault) => fault.kind === kind)
      .map(({ id, amountNanoUsd }) => ({ id, ...moneyJson('sum', amountNanoUsd) }))
  const unbalanced = of('unbalanced_transfer')
  const [orphans, missing, wrongDays] = [of('orphan_entry'), of('missing_entry'), of('wrong_day')]
  const balanced = sum === 0n && unbalanced.length === 0
  const complete = orphans.length === 0 && missing.length === 0
  const accounts = [...balances].sort(([a], [b]) => (a < b ? -1 : 1))
  return {
    ok: balanced && complete && differences.length === 0 && wrongDays.length === 0,
    balanced,
    complete,
    ...(expected === undefined ? {} : { matches_usage: differences.length === 0 }),
    ...moneyJson('sum', sum),
    accounts: accounts.map(([name, balance]) => ({ name, ...moneyJson('balance', balance) })),
    differences: differences.map(([name, balance]) => ({
      account: name,
      ...moneyJson('balance', balances.get(name) ?? 0n),
      ...moneyJson('expected', balance),
    })),
    unbalanced_transfers: unbalanced,
    orphan_entries: orphans,
    missing_entries: missing,
    /** Day and account whose stored sums are off by this: what reads them, balances and statements, is wrong until they are made anew. */
    wrong_days: wrongDays,
    faults_shown_max: FAULTS_SHOWN_MAX,
  }
}
