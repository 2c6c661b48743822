// How much of an upstream's answer is taken before the client hears of it. Owns the ways: up to the first content, or to what
// first passes the filters (streams), and all of it (whole answers). Until then the attempt can still be given up for
// another target; a filter that refuses ends the answer instead, since every target's would go the same way.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { ProviderEvent } from '../providers/event.ts'
import { type CollectedChoice, Collector } from './collect.ts'
import type { FilterChain } from './filter.ts'
import type { EventReader } from './reader.ts'
import type { Stop } from './stop.ts'
import type { Tally } from './tally.ts'

export type Taking = {
  reader: EventReader
  stop: Stop
  tally: Tally
  /** Sequences the request asked for. */
  choices: number
  firstContentMs: number
  idleMs: number
  /** Called for each batch after the first content, and once at it. */
  onProgress: () => void
}

/** Text, or an answer that ended without any: both are the answer. A role, a prompt taken on, held-back text are not. */
const isContent = (event: ProviderEvent): boolean =>
  event.type === 'finish' ||
  event.type === 'embedding' ||
  event.type === 'tool_call' ||
  (event.type === 'refusal' && event.text !== '') ||
  // A thought is content where it is shown, and whoever shows none still keeps the client waiting no longer by another try.
  (event.type === 'thought' && event.text !== '') ||
  (event.type === 'delta' && (event.text !== '' || (event.logprobs?.length ?? 0) > 0))

/** Whether every choice is over, withheld by its target's content rules before anything of it could be shown. */
export function isWithheld(events: readonly ProviderEvent[], choices: number): boolean {
  const contents = events.filter(isContent)
  return (
    contents.length === choices &&
    contents.every((event) => event.type === 'finish' && event.reason === 'content_filter')
  )
}

const unfinished: Failure = {
  code: 'upstream_error',
  message: 'The target ended its answer before it was complete.',
  kind: 'broken_off',
}

/**
 * Waiting for the first content. A target that counts tokens and holds their text back is at work: it is given the same time
 * again for each.
 */
class Patience {
  readonly #taking: Taking
  #tokens = 0

  constructor(taking: Taking) {
    this.#taking = taking
  }

  see(batch: ProviderEvent[]): void {
    const tokens = batch.reduce(
      (most, event) => ('outputTokens' in event ? Math.max(most, event.outputTokens) : most),
      0,
    )
    if (tokens <= this.#tokens) return
    this.#tokens = tokens
    this.#taking.stop.arm(this.#taking.firstContentMs, 'first_content')
  }
}

/** The first batches up to the one with content. @throws Stopped */
export async function takeFirstContent(taking: Taking): Promise<Result<ProviderEvent[], Failure>> {
  const taken: ProviderEvent[] = []
  const patience = new Patience(taking)
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
    patience.see(batch)
    taken.push(...batch.filter((event) => event.type !== 'delta'))
  }
}

/** What the filters made of the beginning of an answer: something passed, or all of it is over, or one of them refused it. */
export type Passed = { passed: ProviderEvent[]; isOver: boolean; refusal?: Failure }

/**
 * Goes on with a stream until something of it has passed the filters that stand before the client: until then a refusal is one,
 * and no break in the middle of an answer.
 * @returns `err` where the target failed before anything passed. @throws Stopped
 */
export async function takeFirstPassed(
  taking: Taking,
  first: ProviderEvent[],
  filters: FilterChain,
): Promise<Result<Passed, Failure>> {
  const passed: ProviderEvent[] = []
  for (let batch: ProviderEvent[] | undefined = first; batch !== undefined; batch = await taking.reader.next()) {
    taking.stop.disarm()
    const result = await filters.push(batch)
    if (!result.ok) return ok({ passed: [], isOver: true, refusal: result.error })
    passed.push(...result.value)
    for (const event of batch) if (event.type === 'error') return err(event.failure)
    if (passed.some(isContent)) return ok({ passed, isOver: false })
    taking.onProgress()
    taking.stop.arm(taking.idleMs, 'idle')
  }
  if (taking.tally.finishedCount < taking.choices) return err(unfinished)
  const last = await filters.end()
  if (!last.ok) return ok({ passed: [], isOver: true, refusal: last.error })
  return ok({ passed: [...passed, ...last.value], isOver: true })
}

/** Every choice, finished. @throws Stopped */
export async function takeWhole(taking: Taking): Promise<Result<CollectedChoice[], Failure>> {
  const collector = new Collector()
  const patience = new Patience(taking)
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
    } else patience.see(batch)
  }
  taking.stop.disarm()
  const choices = collector.complete(taking.choices)
  return choices === undefined ? err(unfinished) : ok(choices)
}

/**
 * The rest of a stream after the first content, batch by batch, into `write`.
 * @param write `err` ends the answer.
 * @returns The failure that broke it off, in-band or by its absence of an end; undefined where it is complete.
 * @throws Stopped
 */
export async function takeRest(
  taking: Taking,
  first: ProviderEvent[],
  write: (batch: ProviderEvent[]) => Promise<Failure | undefined>,
): Promise<Failure | undefined> {
  for (let batch: ProviderEvent[] | undefined = first; batch !== undefined; batch = await taking.reader.next()) {
    // A slow client is not a slow upstream: only the wait for the next batch counts as idle.
    taking.stop.disarm()
    if (batch.length === 0) {
      taking.stop.arm(taking.idleMs, 'idle')
      continue
    }
    const refused = await write(batch)
    if (refused !== undefined) return refused
    for (const event of batch) if (event.type === 'error') return event.failure
    taking.onProgress()
    taking.stop.arm(taking.idleMs, 'idle')
  }
  return taking.tally.finishedCount < taking.choices ? unfinished : undefined
}
