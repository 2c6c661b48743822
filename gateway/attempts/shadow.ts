// A request sent to a target on trial as well. Owns that it costs the caller nothing: no time, no money, no room in a limit. Its
// answer is read and thrown away; the usage row says how it did.
import type { Failure } from '../../protocol/errors.ts'
import { errorText, log } from '../observe/log.ts'
import type { Plan, Target } from '../policy/plan.ts'
import { withinHints } from '../routing/hints.ts'
import type { Step } from '../routing/trace.ts'
import { Stop } from '../stream/stop.ts'
import { takeWhole } from '../stream/take.ts'
import { endAttempt } from './end.ts'
import { Itinerary } from './itinerary.ts'
import type { Attempt, Job, Progress } from './job.ts'
import { noteFailure } from './learned.ts'
import { reserve } from './reserve.ts'
import { newAttempt, openContext, runAttempt } from './run.ts'

/** Below the 30 s that the platform leaves to work after a response: the hold has to be ended within them as well. */
const SHADOW_MAX_MS = 25_000
/** Trials of one isolate at a time: they hold whole answers in memory, and none is worth a caller's. */
const SHADOWS_MAX = 16
const TOO_LONG: Failure = { code: 'deadline_exceeded', message: 'The trial took too long.' }

/** Sends the request to its policy's shadow target too, where the draw says so. Returns at once. */
export function castShadow(job: Job, plan: Plan, progress: Progress): void {
  const { health, random } = job.ports
  const { shadow } = plan.policy
  const target = shadow === undefined ? undefined : plan.targets[shadow.target]
  if (shadow === undefined || target === undefined || plan.targets.length < 2) return
  if (!isAllowed(target, job)) return
  if (random() * 100 >= shadow.percent || health.shadows >= SHADOWS_MAX) return
  health.shadows++
  const work = trial(job, plan, progress, {
    target,
    index: shadow.target,
    reason: plan.policy.strategy,
    standing: 'closed',
  })
    .catch((error: unknown) => log('error', 'shadow_threw', { requestId: job.requestId, error: errorText(error) }))
    .finally(() => {
      health.shadows--
    })
  job.waitUntil(work)
}

/** Where a caller's text may go holds for trials as well; what a trial costs and how long it takes is no matter of the caller's. */
function isAllowed(target: Target, { hints, request }: Job): boolean {
  const { maxPrice: _price, maxLatencyMs: _latency, ...where } = hints
  return withinHints([{ target }], where, () => undefined, request.input.kind !== 'embedding').left.length > 0
}

async function trial(job: Job, plan: Plan, progress: Progress, place: NonNullable<Step['place']>): Promise<void> {
  const { ports } = job
  // Its own attempts and names: nothing of it shows in what the caller is told.
  const own: Progress = { attempts: 0, numbered: progress.numbered, steps: [], headSent: true }
  const way = await new Itinerary(unnoticed(job), plan, [place], own).first()
  if (!way.ok) return
  const candidate = { ...way.value, step: { ...way.value.step, role: 'shadow' as const } }
  const stop = new Stop()
  stop.arm(SHADOW_MAX_MS, 'unwanted')
  const deadlineAtMs = ports.nowMs() + SHADOW_MAX_MS
  const held = await reserve({ ...job, deadlineAtMs }, candidate.target, progress, stop, { deadlineAtMs })
  if (!held.ok) {
    stop.stop('done')
    log('warn', 'shadow_not_held', { requestId: job.requestId, code: held.error.code })
    return
  }
  const attempt: Attempt = newAttempt(job, candidate, held.value, stop)
  const { journal: _journal, ...unkept } = job
  const context = openContext({ ...unkept, deadlineAtMs }, attempt, new Set())
  const outcome = await runAttempt(job, plan, attempt, context, takeWhole)
  const failure = stop.reason === 'unwanted' ? TOO_LONG : outcome.ok ? undefined : outcome.error
  if (failure !== undefined) noteFailure(job, plan, attempt, failure)
  const status = failure?.code ?? 'ok'
  await endAttempt(job, attempt, { status, charge: 'absorbed', final: false, httpStatus: 200 })
  stop.stop('done')
}

/** Neither the caller's stored answer nor the caller's hints are a trial's. */
function unnoticed(job: Job): Job {
  const { cached: _cached, ...rest } = job
  return { ...rest, hints: {} }
}
