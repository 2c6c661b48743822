// One seed, one history: 100,000 of them, and for each rule a seeded fault that it must see. A failure prints the seed,
// the rule, and what happened with no more faults than it takes.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { MUTANTS } from './mutants.ts'
import { describeFailure, Pool } from './pool.ts'
import { INVARIANTS } from './world.ts'

const HISTORIES = 100_000
/** A rule that looks away for this many histories does not look. */
const MUTANT_HISTORIES_MAX = 12_000
/** What a generator must reach to prove anything, in at least one history of a thousand. */
const SITUATIONS = [
  'granted',
  'granted: fallback',
  'limit filled to the last unit',
  'hold expired',
  'hold expired with a checkpoint',
  'hold came after the client had gone',
  'settle repeated',
  'settle after expiry',
  'reserve repeated',
  'more used than estimated',
  'key used again after a failure',
  'rules changed',
  'refused: rate_limited',
  'refused: budget_exhausted',
  'refused: credit_exhausted',
  'refused: concurrency_limited',
  'refused: price_unknown',
  'refused: key_revoked',
  'refused: idempotency_conflict',
  'refused: idempotency_running',
  'refused: idempotency_answered',
  'refused: unavailable',
  'fault: crash',
  'fault: death',
  'fault: request_lost',
  'fault: reply_lost',
  'fault: duplicated',
  'fault: outage',
  'fault: write_unanswered',
  'fault: write_late',
  'fault: serialisation',
  'fault: clock_forward',
  'fault: clock_back',
  'fault: alarm_twice',
  'fault: alarm_late',
  'fault: eviction',
  'fault: storage_lost',
]

const pool = new Pool()
/** Rules that have seen something. */
const seen = new Set<string>()
afterAll(() => pool.close())

describe('a seeded fault is seen by the rule that it breaks', () => {
  for (const { name, seenBy } of MUTANTS) {
    test(name, async () => {
      const { failures } = await pool.job({
        seed: 1,
        histories: MUTANT_HISTORIES_MAX,
        stopsAtFailure: true,
        mutant: name,
      })
      expect(failures.map(({ invariant }) => invariant)).toHaveLength(1)
      expect(seenBy).toContain(failures[0]?.invariant)
      seen.add(failures[0]?.invariant ?? '')
    })
  }

  test('every rule has seen one', () => {
    expect(INVARIANTS.filter((invariant) => !seen.has(invariant))).toEqual([])
  })
})

describe(`${HISTORIES} histories`, () => {
  let summary: Awaited<ReturnType<Pool['run']>>
  beforeAll(async () => {
    summary = await pool.run({ seed: 1, histories: HISTORIES, untilMs: Number.POSITIVE_INFINITY })
  })

  test('break no rule', () => {
    expect(summary.failures.map(describeFailure)).toEqual([])
    expect(summary.histories).toBe(HISTORIES)
  })

  test('reach every situation that is hard to get right', () => {
    const rare = SITUATIONS.filter((situation) => (summary.reached.get(situation) ?? 0) < HISTORIES / 1_000)
    expect(rare).toEqual([])
  })

  test('are the same whenever they are repeated', async () => {
    const once = await pool.job({ seed: 7, histories: 50, stopsAtFailure: false, mutant: undefined })
    const again = await pool.job({ seed: 7, histories: 50, stopsAtFailure: false, mutant: undefined })
    expect(again).toEqual(once)
  })
})
