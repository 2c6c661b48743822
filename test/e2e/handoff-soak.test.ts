// A few rounds of `npm run test:soak`: what dies or stops in the middle of a hand-over costs nobody an answer.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { HandoffSoak, type Round } from '../soak/handoff.ts'

const TEST_MS = 120_000

let soak: HandoffSoak

beforeAll(async () => {
  soak = await HandoffSoak.start()
})
afterAll(async () => {
  await soak?.stop()
})

const ROUNDS: Omit<Round, 'number' | 'after' | 'stoppedMs'>[] = [
  { phase: 'granted', victim: 'decode-0', signal: 'SIGKILL' },
  { phase: 'pushing', victim: 'prefill-0', signal: 'SIGSTOP' },
  { phase: 'committed', victim: 'agent', signal: 'SIGKILL' },
]

let rounds = 0

it.each(ROUNDS)('$signal of $victim at $phase', { timeout: TEST_MS }, async (struck) => {
  // How far a request comes before another one's agent is struck is nobody's to say.
  for (let hasStruck = false; !hasStruck; ) {
    const outcome = await soak.round({ number: rounds++, after: 0, stoppedMs: 500, ...struck })
    hasStruck = outcome.hasStruck
    expect(outcome.problems).toEqual([])
    // Another agent is there to go on.
    expect(outcome.lost).toEqual([])
  }
})

it('and the books agree', { timeout: TEST_MS }, async () => {
  expect(await soak.books()).toEqual([])
})
