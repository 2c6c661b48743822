// Credit in the admin API: grants, the terms an organisation pays on, and what it has left. Owns their HTTP form; rows
// and transfers are ledger/grants.ts, what prepaid credit refuses is account/.
//
//   POST  /organisations/:org/credit/grants   {id, kind: payment|promotion, amount_usd, note?}
//         `id` is a uuid that the caller makes: repeated, it grants once (200); with other contents it is a conflict (409).
//         `amount_usd` below zero takes back; never zero.
//   GET   /organisations/:org/credit/grants   newest first, page by page
//   PATCH /organisations/:org/billing         {mode?: prepaid|postpaid, overdraft_usd?}
//   GET   /organisations/:org/credit          {balance, held, available, …}
//
// The balance is the ledger's and trails what was charged by the rows that still wait in the account (`outbox_rows`,
// mostly none). What running requests hold is the account's own knowledge and stands apart: a request that fails gives it
// back, and its money was never spent.
import { and, desc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { formatUsd, parseUsd } from '../../protocol/units.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { creditGrants } from '../db/schema/ledger.ts'
import { organisations } from '../db/schema/tenancy.ts'
import { type Grant, grantStatements, knownGrant, readCredit } from '../ledger/grants.ts'
import { announceRules, bumpRules } from './announce.ts'
import { audited } from './audit.ts'
import { type AdminEnv, conflict } from './context.ts'
import { idParam, readInput, readQuery, Usd } from './input.ts'
import { requireOrganisation } from './organisations.ts'
import { olderThan, PageQuery, pageOf } from './paging.ts'
import { moneyJson } from './usage-json.ts'

/** One thousand million dollars: some of these still fit 64 bits together. */
const AMOUNT_MAX_NANO_USD = 1_000_000_000n * 1_000_000_000n
const NOTE_CHARS_MAX = 500

const SignedUsd = z.string('must be a decimal string such as "25.50"').transform((text, context) => {
  const amount = parseUsd(text)
  if (amount !== undefined && amount !== 0n && amount <= AMOUNT_MAX_NANO_USD && -amount <= AMOUNT_MAX_NANO_USD)
    return amount
  const message = `must be a decimal dollar amount with at most 9 decimals, not zero and at most ${formatUsd(AMOUNT_MAX_NANO_USD)} either way`
  context.issues.push({ code: 'custom', message, input: undefined })
  return z.NEVER
})
const GrantInput = z.strictObject({
  id: z.uuid().toLowerCase(),
  kind: z.enum(['payment', 'promotion']),
  amount_usd: SignedUsd,
  note: z.string().max(NOTE_CHARS_MAX).default(''),
})
const BillingInput = z
  .strictObject({
    mode: z.enum(['prepaid', 'postpaid']).optional(),
    overdraft_usd: Usd(AMOUNT_MAX_NANO_USD).optional(),
  })
  .refine(({ mode, overdraft_usd }) => mode !== undefined || overdraft_usd !== undefined, 'name what is to change')

export const creditRoutes = new Hono<AdminEnv>()
  .post('/:org/credit/grants', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const { id, kind, amount_usd: amountNanoUsd, note } = await readInput(c, GrantInput)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const grant: Grant = { orgId, grantId: id, kind, amountNanoUsd, note, occurredAt: new Date().toISOString() }
    const details = { kind, amount_usd: formatUsd(amountNanoUsd), note }
    let known: Grant | undefined
    try {
      await database.batch([
        bumpRules(orgId),
        ...(await grantStatements(grant)),
        audited(c, { action: 'credit.grant', orgId, objectId: id, details }),
      ])
    } catch (error) {
      if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
      known = await knownGrant(database, orgId, id)
      if (known === undefined) throw conflict('`id` is the id of another transfer in the ledger: make a new one.')
      if (known.kind !== kind || known.amountNanoUsd !== amountNanoUsd || known.note !== note)
        throw conflict('This `id` has granted something else; a new grant needs a new id.')
    }
    // Also after a repeat: the call before may have ended between the commit and this.
    await announceRules(c.env, orgId)
    return c.json(grantView(known ?? grant), known === undefined ? 201 : 200)
  })
  .get('/:org/credit/grants', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const { limit, cursor } = readQuery(c, PageQuery)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const t = creditGrants
    const rows = await query(database, (db) =>
      db
        .select()
        .from(t)
        .where(and(eq(t.orgId, orgId), olderThan(cursor, t.occurredAt, t.grantId)))
        .orderBy(desc(t.occurredAt), desc(t.grantId))
        .limit(limit + 1),
    )
    return c.json(pageOf(rows, limit, (row) => [row.occurredAt, row.grantId], grantView))
  })
  .patch('/:org/billing', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const { mode, overdraft_usd: overdraftNanoUsd } = await readInput(c, BillingInput)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const change = {
      ...(mode === undefined ? {} : { billingMode: mode }),
      ...(overdraftNanoUsd === undefined ? {} : { overdraftNanoUsd }),
    }
    const details = {
      ...(mode === undefined ? {} : { mode }),
      ...(overdraftNanoUsd === undefined ? {} : { overdraft_usd: formatUsd(overdraftNanoUsd) }),
    }
    await database.batch([
      bumpRules(orgId),
      toStatement(builder.update(organisations).set(change).where(eq(organisations.orgId, orgId))),
      audited(c, { action: 'billing.change', orgId, objectId: orgId, details }),
    ])
    await announceRules(c.env, orgId)
    return c.json(billingView(await requireOrganisation(database, orgId)))
  })
  .get('/:org/credit', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const database = connect(c.env)
    // The account first: what it settles in between is taken off twice for this once, rather than not at all.
    const organisation = await requireOrganisation(database, orgId)
    const account = await c.env.ACCOUNT.getByName(orgId).inspect()
    const credit = await readCredit(database, orgId)
    const available = credit.balanceNanoUsd + organisation.overdraftNanoUsd - account.heldNanoUsd
    return c.json({
      ...billingView(organisation),
      ...moneyJson('paid', credit.paidNanoUsd),
      ...moneyJson('promoted', credit.promotedNanoUsd),
      ...moneyJson('balance', credit.balanceNanoUsd),
      ...moneyJson('held', account.heldNanoUsd),
      /** Post-paid: nothing bounds it but limits. */
      ...(organisation.billingMode === 'prepaid' ? moneyJson('available', available) : {}),
      outbox_rows: account.outboxRows,
    })
  })

export const grantView = (grant: Grant) => ({
  id: grant.grantId,
  org_id: grant.orgId,
  kind: grant.kind,
  ...moneyJson('amount', grant.amountNanoUsd),
  note: grant.note,
  occurred_at: grant.occurredAt,
})

const billingView = (row: typeof organisations.$inferSelect) => ({
  org_id: row.orgId,
  mode: row.billingMode,
  ...moneyJson('overdraft', row.overdraftNanoUsd),
})
