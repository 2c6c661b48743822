// Double entry: which accounts an attempt moves, and that nothing is made or lost.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DatabaseUnavailable, QueryFailed } from '../../../gateway/db/port.ts'
import { drain, type OutboxRow, type OutboxStorage } from '../../../gateway/ledger/drain.ts'
import { type AttemptRow, decodeEntry, encodeText, type OutboxEntry } from '../../../gateway/ledger/outbox.ts'
import { assertBalanced, grantEntries, type Transfer, transfersOf } from '../../../gateway/ledger/postings.ts'
import type { AccountRecord } from '../../../gateway/ledger/record.ts'
import { NO_USAGE } from '../../../gateway/meter/usage.ts'

const row = (change: Partial<AttemptRow> = {}): AttemptRow => ({
  orgId: 'o',
  requestId: 'r',
  attempt: 1,
  kind: 'attempt',
  projectId: 'p',
  keyId: 'k',
  provider: 'fleet',
  modelRequested: 'small',
  modelServed: 'smollm2',
  stream: false,
  status: 'ok',
  httpStatus: 200,
  charge: 'customer',
  usage: NO_USAGE,
  usageSource: 'provider',
  costNanoUsd: 10n,
  pricing: 'priced',
  startedAtMs: 1,
  endedAtMs: 2,
  recordedAtMs: 3,
  ...change,
})
const moves = (change: Partial<AttemptRow>) =>
  transfersOf(row(change)).map((transfer) =>
    transfer.entries.map(({ account, amountNanoUsd }) => [account, amountNanoUsd]),
  )

describe('postings', () => {
  test('usage leaves the customer and arrives as revenue', () => {
    expect(moves({})).toEqual([
      [
        ['customer_credit', -10n],
        ['usage_revenue', 10n],
      ],
    ])
  })
  test('what the gateway absorbs stands against revenue in an account of its own', () => {
    expect(moves({ charge: 'absorbed' })).toEqual([
      [
        ['gateway_absorbed', -10n],
        ['usage_revenue', 10n],
      ],
    ])
  })
  test('a known provider cost is owed to the provider', () => {
    expect(moves({ providerCostNanoUsd: 4n })[1]).toEqual([
      ['provider_cost', -4n],
      ['provider_payable', 4n],
    ])
  })
  test('a negative adjustment runs the other way', () => {
    expect(moves({ kind: 'adjustment', costNanoUsd: -3n })).toEqual([
      [
        ['customer_credit', 3n],
        ['usage_revenue', -3n],
      ],
    ])
  })
  test('a grant comes from where the money came from, and a correction goes back there', () => {
    expect(grantEntries('payment', 50n)).toEqual([
      { account: 'payment_clearing', amountNanoUsd: -50n },
      { account: 'customer_credit', amountNanoUsd: 50n },
    ])
    expect(grantEntries('promotion', -7n)).toEqual([
      { account: 'promotions', amountNanoUsd: 7n },
      { account: 'customer_credit', amountNanoUsd: -7n },
    ])
    expect(() => grantEntries('payment', 0n)).toThrow('empty entry')
  })
  test('no money, no transfer', () => {
    expect(moves({ costNanoUsd: 0n })).toEqual([])
  })
  test('every transfer of every row sums to zero', () => {
    const amount = fc.bigInt({ min: -(2n ** 62n), max: 2n ** 62n })
    fc.assert(
      fc.property(
        amount,
        fc.option(amount, { nil: undefined }),
        fc.boolean(),
        (costNanoUsd, providerCostNanoUsd, absorbed) => {
          for (const transfer of transfersOf(
            row({ costNanoUsd, providerCostNanoUsd, charge: absorbed ? 'absorbed' : 'customer' }),
          )) {
            expect(transfer.entries.reduce((sum, entry) => sum + entry.amountNanoUsd, 0n)).toBe(0n)
            expect(() => assertBalanced(transfer)).not.toThrow()
          }
        },
      ),
    )
  })
  test.each<[string, Transfer['entries']]>([
    [
      'off balance',
      [
        { account: 'customer_credit', amountNanoUsd: -1n },
        { account: 'usage_revenue', amountNanoUsd: 2n },
      ],
    ],
    ['empty', [{ account: 'customer_credit', amountNanoUsd: 0n }]],
    [
      'twice',
      [
        { account: 'usage_revenue', amountNanoUsd: -1n },
        { account: 'usage_revenue', amountNanoUsd: 1n },
      ],
    ],
  ])('a transfer that is wrong is refused: %s', (words, entries) => {
    const transfer: Transfer = {
      orgId: 'o',
      requestId: 'r',
      attempt: 1,
      kind: 'attempt',
      purpose: 'usage',
      occurredAtMs: 1,
      entries,
    }
    expect(() => assertBalanced(transfer)).toThrow(words)
  })
})

test('an outbox entry reads back as it was, to the nano-dollar', () => {
  const attempt = row({
    costNanoUsd: 9_007_199_254_740_993n,
    price: { priceVersionId: 'v', perMillion: { outputText: 2n ** 60n, inputUncached: 0n } },
  })
  const {
    attempt: _number,
    kind: _kind,
    charge: _charge,
    usageSource: _source,
    pricing: _pricing,
    price: _price,
    ...facts
  } = attempt
  const entry: OutboxEntry = {
    attempts: [attempt],
    transfers: transfersOf(attempt),
    request: { ...facts, attempts: 1 },
  }
  expect(decodeEntry(encodeText(entry))).toEqual(entry)
  expect(() => decodeEntry('{"attempts":[{}],"transfers":[]}')).toThrow('another shape')
})

describe('draining', () => {
  const entry = (requestId: string) => (): OutboxEntry => ({ attempts: [row({ requestId })], transfers: [] })
  function outboxOf(rows: OutboxRow[]) {
    const rejected = new Map<number, string>()
    const storage: OutboxStorage = {
      batch: (rowsMax) => rows.filter(({ id }) => !rejected.has(id)).slice(0, rowsMax),
      confirm: (ids) => {
        for (const id of ids)
          rows.splice(
            rows.findIndex((one) => one.id === id),
            1,
          )
      },
      reject: (id, reason) => rejected.set(id, reason),
    }
    return { storage, rejected, rows }
  }
  /** Refuses every transaction with a row of the request `bad one`. */
  const picky = (error: Error): Pick<AccountRecord, 'write'> => ({
    write: async (entries) => {
      if (entries.some(({ attempts }) => attempts.some(({ requestId }) => requestId === 'bad one'))) throw error
      return []
    },
  })

  test('finds the one bad entry among many, writes the rest, and sets unreadable ones aside', async () => {
    const rows = Array.from({ length: 250 }, (_, id) => ({ id, entry: entry(id === 137 ? 'bad one' : `r${id}`) }))
    rows.push({ id: 999, entry: () => decodeEntry('not JSON') })
    const { storage, rejected, rows: left } = outboxOf(rows)
    expect(await drain(picky(new QueryFailed('check violated', '23514')), storage, 10)).toBe(true)
    expect([...rejected.keys()]).toEqual([137, 999])
    expect(left.map(({ id }) => id)).toEqual([137, 999])
  })
  test.each([
    ['a dead database', new DatabaseUnavailable('down')],
    ['a missing table', new QueryFailed('no such table', '42P01')],
  ])('%s rejects nothing and keeps everything', async (_, error) => {
    const { storage, rejected, rows } = outboxOf([
      { id: 1, entry: entry('bad one') },
      { id: 2, entry: entry('r') },
    ])
    await expect(drain(picky(error), storage, 10)).rejects.toBe(error)
    expect(rejected.size).toBe(0)
    expect(rows).toHaveLength(2)
  })
  test('stops after its rounds and says that more is left', async () => {
    const { storage } = outboxOf(Array.from({ length: 250 }, (_, id) => ({ id, entry: entry(`r${id}`) })))
    expect(await drain(picky(new Error()), storage, 2)).toBe(false)
    expect(await drain(picky(new Error()), storage, 2)).toBe(true)
  })
})
