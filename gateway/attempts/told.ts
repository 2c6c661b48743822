// What an earlier life of a request has told of an attempt, before its next life tells it again. Owns that nothing which was told is
// left out of what the attempt costs, wherever that next life ends. Pure.
import { toldEvents } from '../providers/answer-journal.ts'
import { Tally } from '../stream/tally.ts'
import type { Job } from './job.ts'

/** `hasContent`: more than a prompt that was taken on. */
export type Told = { tally: Tally; hasContent: boolean }

/** Seeing the same events again changes nothing of it. */
export function toldOf({ kept, request }: Pick<Job, 'kept' | 'request'>, attempt: number): Told {
  const events = kept?.attempt === attempt ? toldEvents(kept.entries, request) : []
  const tally = new Tally()
  for (const event of events) tally.see(event)
  return { tally, hasContent: events.some(({ type }) => type !== 'accepted') }
}
