// Credit: grants that happen once, terms of payment, and what is left, down to what a prepaid account refuses.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { QueryFailed } from '../../gateway/db/port.ts'
import { type Grant, grantStatements, knownGrant } from '../../gateway/ledger/grants.ts'
import { endOf, PRICE, used } from './support/account.ts'
import { admin, type Json, newTenant } from './support/admin.ts'
import { serialisationFailureAt } from './support/failures.ts'
import { simpleEntry, write } from './support/usage-rows.ts'

const grant = (orgId: string, amount_usd: string, more: Record<string, unknown> = {}) =>
  admin('POST', `/organisations/${orgId}/credit/grants`, {
    id: crypto.randomUUID(),
    kind: 'payment',
    amount_usd,
    ...more,
  })
const credit = async (orgId: string): Promise<Json> => (await admin('GET', `/organisations/${orgId}/credit`)).body
const check = async (orgId: string): Promise<Json> => (await admin('GET', `/ledger/check?org=${orgId}`)).body
const balances = async (orgId: string) =>
  Object.fromEntries((await check(orgId)).accounts.map((one: Json) => [one.name, one.balance_usd]))

describe('a grant', () => {
  test('moves money from where it came from to the customer, and is in the audit log', async () => {
    const { orgId } = await newTenant()
    const paid = await grant(orgId, '25.50', { note: 'invoice 7' })
    expect([paid.status, paid.body]).toMatchObject([201, { kind: 'payment', amount_usd: '25.5', note: 'invoice 7' }])
    expect((await grant(orgId, '4.5', { kind: 'promotion' })).status).toBe(201)
    expect((await grant(orgId, '-0.000000001')).status).toBe(201)
    expect(await balances(orgId)).toEqual({
      customer_credit: '29.999999999',
      payment_clearing: '-25.499999999',
      promotions: '-4.5',
    })
    expect(await check(orgId)).toMatchObject({
      ok: true,
      balanced: true,
      complete: true,
      matches_usage: true,
      sum_usd: '0',
    })
    const acts = (await admin('GET', `/audit?org_id=${orgId}`)).body.data.filter(
      (act: Json) => act.action === 'credit.grant',
    )
    expect(acts.map((act: Json) => act.details.amount_usd)).toEqual(['-0.000000001', '4.5', '25.5'])
    const list = (await admin('GET', `/organisations/${orgId}/credit/grants?limit=2`)).body
    expect(list.data.map((one: Json) => one.amount_usd)).toEqual(['-0.000000001', '4.5'])
    const rest = (await admin('GET', `/organisations/${orgId}/credit/grants?limit=2&cursor=${list.next_cursor}`)).body
    expect(rest.data.map((one: Json) => one.amount_usd)).toEqual(['25.5'])
  })

  test('under the same id happens once, also when it is asked for many times at once', async () => {
    const { orgId } = await newTenant()
    const id = crypto.randomUUID()
    const answers = await Promise.all(Array.from({ length: 8 }, () => grant(orgId, '10', { id })))
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 200, 200, 200, 200, 200, 201])
    expect(new Set(answers.map(({ body }) => body.occurred_at)).size).toBe(1)
    expect((await credit(orgId)).balance_usd).toBe('10')
  })

  test.each([
    ['another amount', { amount_usd: '11' }],
    ['another kind', { kind: 'promotion' }],
    ['another note', { note: 'else' }],
  ])('under the same id with %s is a conflict and changes nothing', async (_, change) => {
    const { orgId } = await newTenant()
    const id = crypto.randomUUID()
    await grant(orgId, '10', { id })
    const answer = await grant(orgId, '10', { id, ...change })
    expect([answer.status, answer.body.error.code]).toEqual([409, 'conflict'])
    expect(await balances(orgId)).toEqual({ customer_credit: '10', payment_clearing: '-10' })
  })

  test.each([
    ['zero', { amount_usd: '0' }, 'amount_usd'],
    ['a number', { amount_usd: 5 }, 'amount_usd'],
    ['more than nine decimals', { amount_usd: '0.0000000001' }, 'amount_usd'],
    ['an exponent', { amount_usd: '1e3' }, 'amount_usd'],
    ['beyond the bound', { amount_usd: '-1000000001' }, 'amount_usd'],
    ['no id', { id: undefined }, 'id'],
    ['an unknown kind', { kind: 'gift' }, 'kind'],
    ['another currency', { currency: 'EUR' }, 'currency'],
    ['a long note', { note: 'x'.repeat(501) }, 'note'],
  ])('of %s is refused with the name of the field', async (_, change, param) => {
    const { orgId } = await newTenant()
    const answer = await grant(orgId, '1', change)
    expect([answer.status, answer.body.error.param]).toEqual([400, param])
  })

  test('to nobody is not found', async () => {
    expect((await grant(crypto.randomUUID(), '1')).status).toBe(404)
  })

  test('comes right after a serialisation failure at any of its statements', async () => {
    const { orgId } = await newTenant()
    for (let at = 0; at <= 3; at++) {
      const made: Grant = {
        orgId,
        grantId: crypto.randomUUID(),
        kind: at % 2 === 0 ? 'payment' : 'promotion',
        amountNanoUsd: 10n ** BigInt(at),
        note: '',
        occurredAt: new Date().toISOString(),
      }
      await serialisationFailureAt(at).batch(await grantStatements(made))
      expect(await knownGrant(connect(env), orgId, made.grantId)).toEqual(made)
      await expect(connect(env).batch(await grantStatements(made))).rejects.toThrow(QueryFailed)
    }
    expect(await check(orgId)).toMatchObject({ ok: true })
    expect((await credit(orgId)).balance_nanousd).toBe('1111')
  })
})

describe('what is left', () => {
  test('is grants less usage in the ledger, with what running requests hold beside it', async () => {
    const { orgId, projectId, keyId } = await newTenant()
    await grant(orgId, '0.00001')
    await admin('PATCH', `/organisations/${orgId}/billing`, { mode: 'prepaid', overdraft_usd: '0.000001' })
    const account = env.ACCOUNT.getByName(orgId)
    const startedAtMs = Date.now()
    const ask = () => ({
      requestId: crypto.randomUUID(),
      attempt: 1,
      orgId,
      projectId,
      keyId,
      modelRequested: 'small',
      provider: 'fleet',
      modelServed: 'smollm2',
      estimate: { inputTokens: 100, outputTokens: 450, calls: 0 },
      price: PRICE,
      startedAtMs,
      deadlineAtMs: startedAtMs + 600_000,
      stream: true,
    })
    const first = await account.reserve(ask())
    const second = await account.reserve(ask())
    if (!first.ok || !second.ok) throw new Error('nothing was admitted')
    await account.settle(endOf(first.value.holdId, used(100, 50)))
    await account.flush()
    expect(await credit(orgId)).toEqual({
      org_id: orgId,
      mode: 'prepaid',
      overdraft_nanousd: '1000',
      overdraft_usd: '0.000001',
      paid_nanousd: '10000',
      paid_usd: '0.00001',
      promoted_nanousd: '0',
      promoted_usd: '0',
      balance_nanousd: '9800',
      balance_usd: '0.0000098',
      held_nanousd: '1000',
      held_usd: '0.000001',
      available_nanousd: '9800',
      available_usd: '0.0000098',
      outbox_rows: 0,
    })
    // Nine more fit into what is available; the tenth does not.
    const asked = await Promise.all(Array.from({ length: 12 }, () => account.reserve(ask())))
    expect(asked.filter(({ ok }) => ok)).toHaveLength(9)
    const refused = asked.find(({ ok }) => !ok)
    expect(refused).toMatchObject({ error: { reason: 'credit_exhausted' } })
    await grant(orgId, '0.000001')
    expect((await account.reserve(ask())).ok).toBe(true)
  })

  test('has no bound of its own where the customer pays afterwards', async () => {
    const { orgId } = await newTenant()
    await write([simpleEntry(orgId, { costNanoUsd: 77n })])
    const shown = await credit(orgId)
    expect(shown).toMatchObject({ mode: 'postpaid', balance_nanousd: '-77' })
    expect(shown).not.toHaveProperty('available_usd')
  })
})

test.each([
  ['nothing', {}, null],
  ['an unknown mode', { mode: 'free' }, 'mode'],
  ['a negative overdraft', { overdraft_usd: '-1' }, 'overdraft_usd'],
])('terms of %s are refused', async (_, change, param) => {
  const { orgId } = await newTenant()
  const answer = await admin('PATCH', `/organisations/${orgId}/billing`, change)
  expect([answer.status, answer.body.error.param]).toEqual([400, param])
})
