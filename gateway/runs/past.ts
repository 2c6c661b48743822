// What the lives of a run before this one have left in the storage. Owns reading it back; whether the run goes on from it is lives.ts.
import type { Failure } from '../../protocol/errors.ts'
import type { Result } from '../../protocol/result.ts'
import { TextDigest } from '../hash.ts'
import type { Said } from './live-run.ts'
import { firstLife, type Lives, lastBeforeOutput, nextLife } from './lives.ts'
import { type KeptRun, keptOf } from './run-journal.ts'
import type { RunStore } from './run-store.ts'
import type { RunJob } from './runner.ts'

export type Past = {
  said: Said
  /** What was heard of its last attempt; absent where there was none, or it is not kept. */
  found: KeptRun | undefined
  /** How often it has been begun. */
  lives: number
  lastEvent: number
  areEventsLost: boolean
  next: Result<Lives, Failure>
}

/** Its caller has had some of the answer. */
export const hasOutput = (store: RunStore, job: RunJob): boolean =>
  store.head(job.name)?.areEventsLost === true || store.lastEvent(job.name) > lastBeforeOutput(job)

/** @param isDeferred It has never been begun. */
export function pastOf(store: RunStore, job: RunJob, isDeferred: boolean): Past {
  const { name, carried } = job
  const wasShown = hasOutput(store, job)
  const found = keptOf(store.journal(name), carried.request, wasShown)
  const text = store.text(name, 'lives')
  const before: Lives = text === '' ? firstLife(isDeferred ? 0 : 1) : JSON.parse(text)
  const events = store.lastEvent(name)
  const said = new TextDigest()
  for (const piece of store.pieces(name)) said.add(piece)
  return {
    said: { chars: said.chars, digest: said.hex() },
    found,
    lives: before.lives,
    lastEvent: events,
    areEventsLost: store.head(name)?.areEventsLost === true,
    next: nextLife({ before, events, tokens: found?.tokens ?? 0, hasOutput: wasShown, kept: found?.kept }),
  }
}
