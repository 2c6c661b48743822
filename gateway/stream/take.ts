// How much of an upstream's answer is taken before the client hears of it. Owns the two ways: up to the first content
// (streams), and all of it (whole answers). Until then the attempt can still be given up for another target.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { ProviderEvent } from '../providers/event.ts'
import { type CollectedChoice, Collector } from './collect.ts'
import type { EventReader } from './reader.ts'
import type { Stop } from './stop.ts'
import type { Tally } from './tally.ts'

export type Taking = {
  reader: EventReader
  stop: Stop
  tally: Tally
  /** Sequences the request asked for. */
  choices: number
  idleMs: number
  /** Called for each batch after the first content, and once at it. */
  onProgress: () => void
}

/** Text, or an answer that ended without any: both are the answer. A role, a prompt taken on, held-back text are not. */
const isContent = (event: ProviderEvent): boolean =>
  event.type === 'finish' ||
  event.type === 'embedding' ||
  (event.type === 'delta' && (event.text !== '' || (event.logprobs?.length ?? 0) > 0))

const unfinished: Failure = {
  code: 'upstream_error',
  message: 'The target ended its answer before it was complete.',
}

/** The first batches up to the one with content. @throws Stopped */
export async function takeFirstContent(taking: Taking): Promise<Result<ProviderEvent[], Failure>> {
  const taken: ProviderEvent[] = []
  for (;;) {
    const batch = await taking.reader.next()
    if (batch === undefined) return err(unfinished)
    for (const event of batch) {
      if (event.type === 'error') return err(event.failure)
      if (isContent(event)) {
        taking.stop.disarm()
        taking.onProgress()
        return ok([...taken, ...batch])
      }
    }
    taken.push(...batch.filter((event) => event.type !== 'delta'))
  }
}

/** Every choice, finished. @throws Stopped */
export async function takeWhole(taking: Taking): Promise<Result<CollectedChoice[], Failure>> {
  const collector = new Collector()
  let hasContent = false
  for (;;) {
    const batch = await taking.reader.next()
    if (batch === undefined) break
    for (const event of batch) {
      if (event.type === 'error') return err(event.failure)
      hasContent ||= isContent(event)
      collector.see(event)
    }
    if (collector.isTooLarge) {
      // The caller's doing: every target would end here, each after computing it all again.
      return err({
        code: 'invalid_request',
        message: 'The answer is too large to be sent in one piece; stream it, or ask for less.',
      })
    }
    if (hasContent) {
      taking.onProgress()
      taking.stop.arm(taking.idleMs, 'idle')
    }
  }
  const choices = collector.complete(taking.choices)
  return choices === undefined ? err(unfinished) : ok(choices)
}

/**
 * The rest of a stream after the first content, batch by batch, into `write`.
 * @returns The failure that broke it off, in-band or by its absence of an end; undefined where it is complete.
 * @throws Stopped
 */
export async function takeRest(
  taking: Taking,
  first: ProviderEvent[],
  write: (batch: ProviderEvent[]) => Promise<void>,
): Promise<Failure | undefined> {
  for (let batch: ProviderEvent[] | undefined = first; batch !== undefined; batch = await taking.reader.next()) {
    // A slow client is not a slow upstream: only the wait for the next batch counts as idle.
    taking.stop.disarm()
    await write(batch)
    for (const event of batch) if (event.type === 'error') return event.failure
    taking.onProgress()
    taking.stop.arm(taking.idleMs, 'idle')
  }
  return taking.tally.finishedCount < taking.choices ? unfinished : undefined
}
