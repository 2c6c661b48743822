// An attempt that an earlier life of its request had: wherever its next life ends it costs at least what was told, and whoever has had some
// of it pays.
import { expect, test } from 'vitest'
import type { SettleEnd } from '../../../gateway/account/contract.ts'
import { settleFailed } from '../../../gateway/attempts/end.ts'
import type { Attempt, Candidate, Job, Progress } from '../../../gateway/attempts/job.ts'
import { newAttempt } from '../../../gateway/attempts/run.ts'
import type { KeptAnswer } from '../../../gateway/providers/answer-journal.ts'
import type { Settlement } from '../../../gateway/settlement.ts'
import { Stop } from '../../../gateway/stream/stop.ts'
import type { DispatchEvent } from '../../../protocol/dispatch.ts'
import type { ErrorCode } from '../../../protocol/errors.ts'

const TOLD: DispatchEvent[] = [
  { type: 'accepted', usage: { inputTokens: 7, cachedInputTokens: 0, outputTokens: 0 }, queueMs: 0 },
  { type: 'delta', choice: 0, text: 'Hi', outputTokens: 2 },
]

/** The end of an attempt that fails before anything of it was read again. */
async function ended(code: ErrorCode, over: Partial<KeptAnswer> = {}) {
  const target = { provider: 'fleet', model: 'm' }
  const kept = { attempt: 1, numbered: 1, target, entries: [{ told: TOLD }], isWhole: false, wasShown: true, ...over }
  const job = {
    requestId: 'r',
    request: { model: 'm', input: { kind: 'chat', messages: [] }, tools: [] },
    ports: { nowMs: () => 1000, health: { began: () => () => {} } },
    deadlineIsCallers: false,
    waitUntil: () => {},
    kept,
  } as unknown as Job
  const ends: Omit<SettleEnd, 'holdId'>[] = []
  const settlement = { end: async (end: Omit<SettleEnd, 'holdId'>) => ends.push(end) } as unknown as Settlement
  const step = { target, role: 'primary', waitedMs: 0 }
  const candidate = { target, provider: { cutoff: 'cancel' }, step, waitMs: 0 } as unknown as Candidate
  const attempt: Attempt = newAttempt(job, candidate, { settlement, number: 1 }, new Stop())
  const progress: Progress = { attempts: 1, numbered: 1, steps: [], headSent: true }
  await settleFailed(job, attempt, { code, message: '' }, progress, true)
  const [end] = ends
  return [end?.charge, end?.usage.inputUncached, end?.usage.outputText]
}

test('what was told is paid by a caller who ends its next life', async () => {
  expect(await ended('cancelled')).toEqual(['customer', 7, 2])
  expect(await ended('cancelled', { isWhole: true })).toEqual(['customer', 7, 2])
})

test('what a caller has had is paid whatever ends its next life, and what nobody has had by nobody', async () => {
  expect(await ended('deadline_exceeded')).toEqual(['customer', 7, 2])
  expect(await ended('backend_lost', { wasShown: false })).toEqual(['absorbed', 7, 2])
})

test('nothing of it counts for another attempt', async () => {
  expect(await ended('backend_lost', { attempt: 2 })).toEqual(['absorbed', 0, 0])
})
