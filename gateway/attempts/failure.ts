// What stopped or broke an attempt, as a Failure. Owns the words and the kind of each; what follows from it is routing/verdict.ts.
import type { Failure, UpstreamFaultKind } from '../../protocol/errors.ts'
import { errorText, log } from '../observe/log.ts'
import { FLEET } from '../policy/targets.ts'
import { Stopped, type StopReason } from '../stream/stop.ts'
import type { Attempt, Job } from './job.ts'

/** An exception on the path as what the caller may know of it. */
export function thrownFailure(job: Job, error: unknown, attempt: Attempt): Failure {
  const { target, stop, reader, firstTokenAtMs } = attempt
  const reason = error instanceof Stopped ? error.reason : stop.reason
  const phase = reader === undefined ? 'waiting' : firstTokenAtMs === undefined ? 'head' : 'content'
  if (reason !== undefined) return stopFailure(reason, target.provider, phase)
  log('error', 'attempt_threw', { requestId: job.requestId, provider: target.provider, error: errorText(error) })
  return { code: 'internal', message: 'The gateway failed to serve this request.' }
}

const REPLACED =
  'The gateway was restarted, and this stream did not end within the time that open streams have for it. Send the request again; ' +
  'what may take longer than that is better asked for with "background": true and followed by its id.'

/** How far the answer had come: nothing yet, its head, its first content. */
type Phase = 'waiting' | 'head' | 'content'
const SILENCE: Record<Phase, UpstreamFaultKind> = {
  waiting: 'head_timeout',
  head: 'first_token_timeout',
  content: 'stall',
}

export function stopFailure(reason: StopReason, provider: string, phase: Phase): Failure {
  const silent = provider === FLEET ? 'backend_lost' : 'upstream_error'
  switch (reason) {
    case 'client_gone':
    case 'done':
      return { code: 'cancelled', message: 'The caller went away.' }
    case 'unwanted':
      return { code: 'cancelled', message: 'Nobody waits for this answer any more.' }
    case 'deadline':
      return { code: 'deadline_exceeded', message: 'The deadline passed before the answer was complete.' }
    case 'replaced':
      return { code: 'unavailable', message: REPLACED }
    case 'first_content':
      return { code: silent, message: 'The target did not begin its answer in time.', kind: SILENCE[phase] }
    case 'idle':
      return { code: silent, message: 'The target stopped sending in the middle of its answer.', kind: 'stall' }
    default:
      return reason satisfies never
  }
}
