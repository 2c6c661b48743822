// A request that is stopped while its account is asked for the hold: a new hold is let go for nothing, and one that an earlier life of the
// request had is paid as far as that life has shown.
import { expect, test } from 'vitest'
import type { Denial, SettleEnd } from '../../../gateway/account/contract.ts'
import type { Job, Progress } from '../../../gateway/attempts/job.ts'
import { reserve } from '../../../gateway/attempts/reserve.ts'
import type { Target } from '../../../gateway/policy/plan.ts'
import type { KeptAnswer } from '../../../gateway/providers/answer-journal.ts'
import { Stop, type StopReason } from '../../../gateway/stream/stop.ts'
import type { DispatchEvent } from '../../../protocol/dispatch.ts'

const ACCEPTED: DispatchEvent = {
  type: 'accepted',
  usage: { inputTokens: 7, cachedInputTokens: 0, outputTokens: 0 },
  queueMs: 0,
}
const TOLD: DispatchEvent = { type: 'delta', choice: 0, text: 'Hi', outputTokens: 2 }

type How = { deadlineIsCallers?: boolean; wasShown?: boolean; denial?: Denial }

async function ended(reason: StopReason | undefined, events: DispatchEvent[] | undefined, how: How = {}) {
  const { deadlineIsCallers = false, wasShown = false, denial } = how
  const target = { provider: 'fleet', model: 'm' } as Target
  const entries = [{ leg: 'b', seed: 1 }, { told: events ?? [] }]
  const kept: KeptAnswer = { attempt: 2, numbered: 2, target, entries, isWhole: false, wasShown }
  const ends: SettleEnd[] = []
  const works: Promise<unknown>[] = []
  const account = {
    reserve: async () => (denial === undefined ? { ok: true, value: { holdId: 'h' } } : { ok: false, error: denial }),
    settle: async (end: SettleEnd) => ends.push(end),
  }
  const job = {
    requestId: 'r',
    principal: {},
    request: { model: 'm', input: { kind: 'chat', messages: [] }, tools: [] },
    deadlineIsCallers,
    ports: { lanes: { account: () => account }, nowMs: () => 0, sleep: async () => {} },
    waitUntil: (work: Promise<unknown>) => works.push(work),
    ...(events === undefined ? {} : { kept }),
  } as unknown as Job
  const stop = new Stop()
  if (reason !== undefined) stop.stop(reason)
  const progress: Progress = { attempts: 1, numbered: 1, steps: [], headSent: false }
  expect((await reserve(job, target, progress, stop)).ok).toBe(false)
  await Promise.all(works)
  const [end] = ends
  return [end?.status, end?.charge, end?.usage.inputUncached, end?.usage.outputText, end?.final]
}

test('a hold that comes too late is let go for nothing', async () => {
  expect(await ended('client_gone', undefined)).toEqual(['client_cancelled', 'absorbed', 0, 0, false])
})

test('what an earlier life has shown is paid, whoever ends its next one', async () => {
  const events = [ACCEPTED, TOLD]
  expect(await ended('client_gone', events, { wasShown: true })).toEqual(['client_cancelled', 'customer', 7, 2, true])
  expect(await ended('deadline', events, { wasShown: true })).toEqual(['deadline_exceeded', 'customer', 7, 2, true])
})

test('what was shown to nobody is paid by a caller who has ended it, and else by nobody', async () => {
  for (const [events, output] of [
    [[ACCEPTED], 0],
    [[ACCEPTED, TOLD], 2],
  ] as const) {
    expect(await ended('client_gone', [...events])).toEqual(['client_cancelled', 'customer', 7, output, true])
    expect(await ended('deadline', [...events], { deadlineIsCallers: true })).toEqual([
      'deadline_exceeded',
      'customer',
      7,
      output,
      true,
    ])
    expect(await ended('deadline', [...events])).toEqual(['deadline_exceeded', 'absorbed', 7, output, true])
  }
})

test('a hold that ended by its time is set right: by what was told, for whoever pays it', async () => {
  const denial: Denial = { reason: 'attempt_ended', status: 'deadline_exceeded', isClosed: true }
  const events = [ACCEPTED, TOLD]
  expect(await ended(undefined, events, { denial, wasShown: true })).toEqual([
    'deadline_exceeded',
    'customer',
    7,
    2,
    true,
  ])
  expect(await ended(undefined, events, { denial })).toEqual(['deadline_exceeded', 'absorbed', 7, 2, true])
})
