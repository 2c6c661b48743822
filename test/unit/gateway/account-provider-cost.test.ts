// What an attempt costs us: the provider's own figure where it gives one, its list price where it does not.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { SettleEnd } from '../../../gateway/account/contract.ts'
import {
  checkpointHold,
  expireHold,
  type HoldRecord,
  type HoldTerms,
  openHold,
  settleHold,
} from '../../../gateway/account/holds.ts'
import { listCost } from '../../../gateway/meter/price.ts'
import { NO_USAGE, type Usage } from '../../../gateway/meter/usage.ts'

const REQUEST = '00000000-0000-4000-8000-000000000001'
const NOW_MS = Date.UTC(2026, 10, 22, 12)
const price = {
  priceVersionId: 'v',
  perMillion: { inputUncached: 1_000_000n, outputText: 2_000_000n },
  basisPoints: 15_000,
}

const open = (change: Partial<HoldTerms> = {}): HoldRecord => {
  const terms: HoldTerms = {
    requestId: REQUEST,
    attempt: 1,
    orgId: 'o',
    projectId: 'p',
    keyId: 'k',
    modelRequested: 'small',
    provider: 'vendor',
    modelServed: 'small-1',
    estimate: { inputTokens: 10, outputTokens: 10, calls: 0 },
    price,
    startedAtMs: NOW_MS,
    deadlineAtMs: NOW_MS + 10_000,
    stream: true,
    ...change,
  }
  return openHold(terms, { holdId: `${REQUEST}.1`, heldNanoUsd: 30n }, NOW_MS)
}
const used = (input: number, output: number): Usage => ({ ...NO_USAGE, inputUncached: input, outputText: output })
const end = (usage: Usage, change: Partial<SettleEnd> = {}): SettleEnd => ({
  holdId: `${REQUEST}.1`,
  usage,
  usageSource: 'provider',
  status: 'ok',
  endedAtMs: NOW_MS + 500,
  charge: 'customer',
  final: true,
  httpStatus: 200,
  ...change,
})
const costsOf = (hold: HoldRecord, ending: SettleEnd) =>
  settleHold(hold, ending, NOW_MS)?.rows.map((row) => [row.costNanoUsd, row.providerCostNanoUsd])

test('a provider that names no cost is owed its list price, without the mark-up that the customer pays', () => {
  expect(costsOf(open(), end(used(4, 3)))).toEqual([[15n, 10n]])
})

test('a provider that names its cost is owed that', () => {
  expect(costsOf(open(), end(used(4, 3), { providerCostNanoUsd: 7n }))).toEqual([[15n, 7n]])
})

test('an attempt that the customer does not pay is owed all the same', () => {
  expect(costsOf(open(), end(used(4, 3), { charge: 'absorbed', status: 'upstream_error' }))).toEqual([[15n, 10n]])
})

test('own machines and unknown prices owe nothing', () => {
  expect(costsOf(open({ provider: 'fleet' }), end(used(4, 3)))).toEqual([[15n, undefined]])
  expect(costsOf(open({ price: undefined }), end(used(4, 3)))).toEqual([[0n, undefined]])
})

test('after an expiry the rows together owe what was really used, whoever pays and whatever was guessed', () => {
  const count = fc.nat(1000)
  const cost = fc.option(fc.bigInt({ min: 0n, max: 5000n }), { nil: undefined })
  fc.assert(
    fc.property(count, count, count, count, cost, fc.boolean(), (guessIn, guessOut, input, output, said, isFree) => {
      const expired = expireHold(checkpointHold(open(), used(guessIn, guessOut)), NOW_MS + 99_000)
      if (expired === undefined) throw new Error('a held hold did not expire')
      const ending = end(used(input, output), {
        charge: isFree ? 'absorbed' : 'customer',
        ...(said === undefined ? {} : { providerCostNanoUsd: said }),
      })
      const late = settleHold(expired.hold, ending, NOW_MS + 100_000)
      const rows = [...expired.rows, ...(late?.rows ?? [])]
      const owed = rows.reduce((sum, row) => sum + (row.providerCostNanoUsd ?? 0n), 0n)
      expect(owed).toBe(said ?? listCost(used(input, output), price))
    }),
  )
})
