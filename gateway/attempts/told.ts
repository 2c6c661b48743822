// What an earlier life of a request has told of an attempt, before its next life tells it again. Owns that nothing which was told is
// left out of what the attempt costs, wherever that next life ends. Pure.
import { toldEvents } from '../providers/answer-journal.ts'
import { Tally } from '../stream/tally.ts'
import type { Job } from './job.ts'

/** Seeing the same events again changes nothing of it. */
export function toldOf({ kept, request }: Pick<Job, 'kept' | 'request'>, attempt: number): Tally {
  const tally = new Tally()
  if (kept?.attempt !== attempt) return tally
  for (const event of toldEvents(kept.entries, request)) tally.see(event)
  return tally
}
