// The state machine of holds and the row of a request, without storage.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Amounts, amountsOfRow } from '../../../gateway/account/amounts.ts'
import type { SettleEnd } from '../../../gateway/account/contract.ts'
import {
  checkpointHold,
  closeHold,
  ENDED_HOLD_KEPT_MS,
  EXPIRY_GRACE_MS,
  expireHold,
  HOLD_LIFE_MAX_MS,
  type HoldRecord,
  type HoldTerms,
  openHold,
  parseHoldId,
  settleHold,
  type Transition,
} from '../../../gateway/account/holds.ts'
import { COUNTED_METERS } from '../../../gateway/account/limit.ts'
import { OpenHolds } from '../../../gateway/account/open-holds.ts'
import { canClose, requestRow } from '../../../gateway/account/requests.ts'
import { RuleIndex } from '../../../gateway/account/rule-index.ts'
import { decodeHold, encodeHold } from '../../../gateway/account/stored-hold.ts'
import { windowOf } from '../../../gateway/account/windows.ts'
import { NO_USAGE, type Usage } from '../../../gateway/meter/usage.ts'

const REQUEST = '00000000-0000-4000-8000-000000000001'
const NOW_MS = Date.UTC(2026, 10, 22, 12)

const terms = (change: Partial<HoldTerms> = {}): HoldTerms => ({
  requestId: REQUEST,
  attempt: 1,
  orgId: 'o',
  projectId: 'p',
  keyId: 'k',
  modelRequested: 'small',
  provider: 'fleet',
  modelServed: 'smollm2',
  estimate: { inputTokens: 10, outputTokens: 10, calls: 0 },
  price: { priceVersionId: 'v', perMillion: { inputUncached: 1_000_000n, outputText: 2_000_000n } },
  startedAtMs: NOW_MS,
  deadlineAtMs: NOW_MS + 10_000,
  stream: true,
  ...change,
})
const open = (change: Partial<HoldTerms> = {}): HoldRecord => {
  const made = terms(change)
  return openHold(made, { holdId: `${made.requestId}.${made.attempt}`, heldNanoUsd: 30n }, NOW_MS)
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

/** What the rows of a transition count for. */
function counted(transition: Transition | undefined): Amounts {
  const sum: Amounts = { requests: 0n, input_tokens: 0n, output_tokens: 0n, money: 0n }
  for (const row of transition?.rows ?? []) {
    const amounts = amountsOfRow(row)
    for (const meter of COUNTED_METERS) sum[meter] += amounts[meter]
  }
  return sum
}

describe('transitions', () => {
  test('held → settled leaves one attempt row and charges it', () => {
    const settled = settleHold(open(), end(used(3, 4)), NOW_MS)
    expect(settled?.hold.state).toBe('settled')
    expect(settled?.rows.map(({ kind, costNanoUsd }) => [kind, costNanoUsd])).toEqual([['attempt', 11n]])
    expect(counted(settled)).toEqual({ requests: 1n, input_tokens: 3n, output_tokens: 4n, money: 11n })
  })
  test.each([
    ['ok', 'settled'],
    ['upstream_error', 'released'],
    ['client_cancelled', 'released'],
  ] as const)('nothing used and %s → %s', (status, state) => {
    expect(settleHold(open(), end(NO_USAGE, { status }), NOW_MS)?.hold.state).toBe(state)
  })
  test('a failure that used something is settled', () => {
    expect(settleHold(open(), end(used(3, 0), { status: 'engine_lost' }), NOW_MS)?.hold.state).toBe('settled')
  })
  test('an absorbed attempt charges the customer nothing', () => {
    const settled = settleHold(open(), end(used(3, 4), { charge: 'absorbed' }), NOW_MS)
    expect(counted(settled)).toEqual({ requests: 1n, input_tokens: 0n, output_tokens: 0n, money: 0n })
    expect(settled?.rows[0]).toMatchObject({ charge: 'absorbed', costNanoUsd: 11n })
  })
  test('final states take no further end and do not expire', () => {
    const settled = settleHold(open(), end(used(1, 1)), NOW_MS)?.hold
    const released = settleHold(open(), end(NO_USAGE, { status: 'internal' }), NOW_MS)?.hold
    const expired = expireHold(open(), NOW_MS)?.hold
    const late = expired && settleHold(expired, end(used(1, 1)), NOW_MS)?.hold
    for (const hold of [settled, released, late]) {
      if (hold === undefined) throw new Error('no transition')
      expect(settleHold(hold, end(used(9, 9)), NOW_MS)).toBeUndefined()
      expect(expireHold(hold, NOW_MS)).toBeUndefined()
      expect(checkpointHold(hold, used(9, 9))).toBe(hold)
    }
    expect(late?.state).toBe('settled_late')
  })
  test('a proof of usage that was overtaken by a newer one changes nothing', () => {
    const newer = checkpointHold(open(), used(5, 9))
    expect(checkpointHold(newer, used(5, 8))).toBe(newer)
    expect(checkpointHold(newer, used(5, 10)).checkpoint).toEqual(used(5, 10))
  })
  test('an end of another hold is a bug', () => {
    expect(() => settleHold(open(), end(used(1, 1), { holdId: `${REQUEST}.2` }), NOW_MS)).toThrow(RangeError)
  })

  test('whatever was guessed and whatever turns out true, the rows sum to the truth and to who pays it', () => {
    const usage = fc.record({ input: fc.nat(1_000), output: fc.nat(1_000) })
    fc.assert(
      fc.property(usage, usage, fc.boolean(), (guess, truth, absorbed) => {
        const held = checkpointHold(open(), used(guess.input, guess.output))
        const expired = expireHold(held, NOW_MS)
        if (expired === undefined) throw new Error('did not expire')
        const charge = absorbed ? 'absorbed' : 'customer'
        const late = settleHold(expired.hold, end(used(truth.input, truth.output), { charge }), NOW_MS)
        if (late === undefined) throw new Error('did not settle')
        const rows = [...expired.rows, ...late.rows]
        const cost = BigInt(truth.input) + 2n * BigInt(truth.output)
        const sum = (who: string) =>
          rows.filter((row) => row.charge === who).reduce((total, row) => total + row.costNanoUsd, 0n)
        expect(sum('customer')).toBe(absorbed ? 0n : cost)
        expect(sum('absorbed')).toBe(absorbed ? cost : 0n)
        const [first, second] = [counted(expired), counted(late)]
        expect(first.money + second.money).toBe(absorbed ? 0n : cost)
        expect(first.output_tokens + second.output_tokens).toBe(absorbed ? 0n : BigInt(truth.output))
        expect([first.requests, second.requests]).toEqual([1n, 0n])
        expect(rows.reduce((total, row) => total + row.usage.outputText, 0)).toBe(truth.output)
        expect(new Set(rows.map(({ kind }) => kind)).size).toBe(rows.length)
      }),
    )
  })
})

describe('time', () => {
  test('a hold expires some grace after its deadline, and within a day whatever the deadline', () => {
    expect(open().dueAtMs).toBe(NOW_MS + 10_000 + EXPIRY_GRACE_MS)
    expect(open({ deadlineAtMs: NOW_MS * 2 }).dueAtMs).toBe(NOW_MS + HOLD_LIFE_MAX_MS + EXPIRY_GRACE_MS)
  })
  test('an ended hold of a closed request is forgotten on the hour after its time', () => {
    const settled = settleHold(open(), end(used(1, 1)), NOW_MS)?.hold ?? open()
    const closed = closeHold(settled, NOW_MS + 1)
    expect(closed.dueAtMs).toBe(NOW_MS + ENDED_HOLD_KEPT_MS + 3_600_000)
    expect(closeHold(open(), NOW_MS).dueAtMs).toBe(open().dueAtMs)
  })
})

test('a stored hold reads back as it was, to the nano-dollar', () => {
  const price = { priceVersionId: 'v', perMillion: { inputUncached: 9_007_199_254_740_993n } }
  const held = checkpointHold(open({ price }), used(1, 2))
  const settled = settleHold(open(), end(used(3, 4), { firstTokenAtMs: NOW_MS + 1 }), NOW_MS)?.hold ?? held
  const full = open({
    userId: 'u',
    teamId: 't',
    endUser: 'e',
    idempotency: { keyHash: 'k', bodyHash: 'b' },
    price: { ...price, contextTiers: [{ aboveInputTokens: 5, perMillion: { outputText: 2n } }], basisPoints: 12_000 },
  })
  full.granted.requests = { limit: 5, remaining: 4, resetAtMs: NOW_MS }
  full.granted.tokens = { limit: 5, remaining: 4 }
  full.granted.warnings = ['org money $5 per month']
  for (const hold of [open(), open({ price: undefined }), held, settled, full])
    expect(decodeHold(encodeHold(hold))).toEqual(hold)
  expect(() => decodeHold({ ...encodeHold(held), state: 'lost' })).toThrow('unknown state')
  expect(() => decodeHold({ ...encodeHold(held), body: '{}' })).toThrow('another shape')
})

test.each(['', 'x.1', `${REQUEST}`, `${REQUEST}.0`, `${REQUEST}.1.1`, `${REQUEST}.99999`])(
  '%j is no hold id',
  (holdId) => {
    expect(() => parseHoldId(holdId)).toThrow(RangeError)
  },
)

describe('the row of a request', () => {
  const settle = (attempt: number, usage: Usage, change: Partial<SettleEnd> = {}) =>
    settleHold(open({ attempt }), end(usage, { holdId: `${REQUEST}.${attempt}`, ...change }), NOW_MS)?.hold ?? open()
  test('sums what the customer pays and speaks with the final attempt', () => {
    const lost = settle(1, used(5, 5), { charge: 'absorbed', status: 'engine_lost' })
    const won = settle(2, used(5, 7))
    expect(requestRow([lost, won], 2, NOW_MS)).toMatchObject({
      attempts: 2,
      status: 'ok',
      costNanoUsd: 19n,
      usage: used(5, 7),
    })
    expect(requestRow([lost, won], undefined, NOW_MS)).toMatchObject({ status: 'ok' })
    expect(requestRow([lost], undefined, NOW_MS)).toMatchObject({ status: 'engine_lost', costNanoUsd: 0n })
  })
  test('is due when an attempt has ended, none runs and it is not there yet', () => {
    const ended = settle(1, used(1, 1))
    expect(canClose([])).toBe(false)
    expect(canClose([open()])).toBe(false)
    expect(canClose([ended, open({ attempt: 2 })])).toBe(false)
    expect(canClose([ended])).toBe(true)
    expect(canClose([closeHold(ended, NOW_MS)])).toBe(false)
    expect(() => requestRow([open()], undefined, NOW_MS)).toThrow()
  })
})

test('the sums of open holds equal those counted one by one, in any order of coming and going', () => {
  const where = { limitId: 'l', hard: true, timeZone: 'Asia/Kolkata' } as const
  const rules = new RuleIndex(
    {
      version: 1,
      limits: [
        { ...where, scope: 'org', scopeId: 'o', meter: 'money', window: 'day', maxNanoUsd: 0n },
        { ...where, scope: 'org', scopeId: 'o', meter: 'money', window: 'day', maxNanoUsd: 9n, hard: false },
        { ...where, scope: 'key', scopeId: '*', meter: 'money', window: 'month', maxNanoUsd: 0n },
        { ...where, scope: 'key', scopeId: 'k0', meter: 'requests', window: 'lifetime', max: 0 },
        { ...where, scope: 'key', scopeId: '*', meter: 'concurrency', max: 0, model: 'small' },
      ],
    },
    'o',
  )
  const holds = Array.from({ length: 12 }, (_, index) =>
    openHold(
      terms({
        requestId: `r${index % 5}`,
        attempt: index < 5 ? 1 : 2,
        keyId: `k${index % 2}`,
        modelRequested: index % 3 === 0 ? 'large' : 'small',
        startedAtMs: NOW_MS + (index % 3) * 86_400_000 * 10,
      }),
      { holdId: `h${index}`, heldNanoUsd: BigInt(index) },
      NOW_MS,
    ),
  )
  const moves = fc.array(fc.record({ add: fc.boolean(), index: fc.nat(holds.length - 1) }), { maxLength: 60 })
  const local = (atMs: number) => new Date(atMs + 5.5 * 3_600_000).toISOString()
  fc.assert(
    fc.property(moves, fc.boolean(), (steps, regroups) => {
      const fast = new OpenHolds()
      fast.rebuild(regroups ? undefined : rules, [])
      const slow = new Set<HoldRecord>()
      for (const { add, index } of steps) {
        const hold = holds[index]
        if (hold === undefined) continue
        if (add) {
          fast.add(hold)
          slow.add(hold)
        } else {
          fast.remove(hold.granted.holdId)
          slow.delete(hold)
        }
      }
      if (regroups) fast.regroup(rules)
      expect(fast.count).toBe(slow.size)
      expect(fast.heldNanoUsd).toBe([...slow].reduce((sum, { granted }) => sum + granted.heldNanoUsd, 0n))
      for (const keyId of ['k0', 'k1']) {
        const { gauges, places } = rules.applying(terms({ keyId }), 'small')
        for (const { series, subject } of gauges) {
          const own = [...slow].filter(({ terms: of }) => series.scope === 'org' || of.keyId === keyId)
          for (const atMs of [NOW_MS, NOW_MS + 86_400_000 * 10]) {
            const length = { minute: 16, hour: 13, day: 10, month: 7, lifetime: 0 }[series.window]
            const expected = own
              .filter(({ terms: of }) => local(of.startedAtMs).slice(0, length) === local(atMs).slice(0, length))
              .map(({ terms: of, granted }) => {
                if (series.meter === 'money') return granted.heldNanoUsd
                return of.attempt === 1 ? 1n : 0n
              })
              .reduce((total, amount) => total + amount, 0n)
            const span = windowOf(series.window, series.timeZone, atMs)
            expect(fast.held(series.name, subject, span.key)).toBe(expected)
          }
        }
        for (const { name, subject } of places) {
          const own = [...slow].filter(({ terms: of }) => of.keyId === keyId && of.modelRequested === 'small')
          const others = new Set(own.map((hold) => hold.terms.requestId))
          others.delete('r0')
          expect(fast.running(name, subject, 'r0')).toBe(others.size)
        }
      }
    }),
  )
})
