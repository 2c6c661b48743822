// What others may read of an object's runs. Owns who may know of one, and how a follower is given its events: a page at a time, those that
// are there and then those that come. The runs themselves are runs.ts.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { LiveRun } from './live-run.ts'
import type { RunHead, RunStore } from './run-store.ts'
import { type Conversation, type Followed, mayFollow, mayRead, NO_SUCH_EVENT, type Owner } from './stored-run.ts'

/** A follower's longest wait in one call; then it asks again. */
const WAIT_MAX_MS = 10_000
/** Between two looks whether what waits can begin; whoever follows it waits as long. */
export const WAITING_LOOK_MS = 1_000

/** As what a run is asked for. */
export type Form = 'response' | 'stream'

/** What a follower asks for. `isLook`: whether there is something to follow, and nothing of it. */
export type Asked = { after: number; waitMs: number; form?: Form; isLook?: boolean }

export const noSuch = (form: Form): Failure => ({
  code: 'not_found',
  message: form === 'stream' ? 'There is no such stream, or it is not kept any more.' : 'There is no such response.',
})
const crowded: Failure = {
  code: 'concurrency_limited',
  message: 'Too many clients follow this response already.',
  retryAfterMs: 1000,
}

/** The runs as their reader needs them. */
export type ReadPorts = {
  nowMs: () => number
  live: (name: string) => LiveRun | undefined
  isWaiting: (name: string) => boolean
}

export class RunReader {
  readonly #store: RunStore
  readonly #ports: ReadPorts

  constructor(store: RunStore, ports: ReadPorts) {
    this.#store = store
    this.#ports = ports
  }

  /** The run, for those who may know of it. */
  find(name: string, asking: Owner, form: Form = 'response'): RunHead | undefined {
    const head = this.#store.head(name)
    if (head === undefined || this.#ports.nowMs() >= head.expiresAtMs) return undefined
    const isFound =
      form === 'stream'
        ? head.stream !== undefined && mayFollow(head.owner, asking)
        : head.stream !== 'only' && mayRead(head.owner, asking)
    return isFound ? head : undefined
  }

  state(name: string, asking: Owner): Result<RunHead['state'], Failure> {
    const head = this.find(name, asking)
    return head === undefined ? err(noSuch('response')) : ok(head.state)
  }

  /** As JSON. */
  text(name: string, asking: Owner, kind: 'response' | 'items'): Result<string, Failure> {
    return this.find(name, asking) === undefined ? err(noSuch('response')) : ok(this.#store.text(name, kind))
  }

  conversation(name: string, asking: Owner): Result<Conversation, Failure> {
    const head = this.find(name, asking)
    if (head === undefined) return err(noSuch('response'))
    if (head.state === 'running') {
      return err({ code: 'conflict', message: 'That response is still in progress; wait for its end to continue it.' })
    }
    return ok({ response: this.#store.text(name, 'response'), items: this.#store.text(name, 'items') })
  }

  async follow(name: string, asking: Owner, asked: Asked): Promise<Result<Followed, Failure>> {
    const { after, waitMs, form = 'response', isLook = false } = asked
    const before = this.find(name, asking, form)
    if (before === undefined) return err(noSuch(form))
    if (form === 'response' && !before.isBackground) {
      const message = 'Only a response that was created with "background": true can be streamed again.'
      return err({ code: 'invalid_request', message, param: 'stream' })
    }
    if (form === 'stream' && !before.areEventsLost && after > this.#store.lastEvent(name)) return err(NO_SUCH_EVENT)
    if (isLook) return before.areEventsLost ? err(lost(before, form)) : ok({ text: '', last: after, isOver: false })
    if (this.#ports.isWaiting(name) && waitMs > 0) await new Promise((resolve) => setTimeout(resolve, WAITING_LOOK_MS))
    const live = this.#ports.live(name)
    if (live !== undefined) live.attendedAtMs = this.#ports.nowMs()
    if (live !== undefined && after >= this.#store.lastEvent(name)) {
      // Told to one that has just come by its status, before it has a stream that would only break off.
      if (live.isCrowded) return err(crowded)
      if (waitMs > 0) await live.news(Math.min(waitMs, WAIT_MAX_MS))
      live.attendedAtMs = this.#ports.nowMs()
    }
    const head = this.find(name, asking, form)
    if (head === undefined) return err(noSuch(form))
    if (head.areEventsLost === true) return err(lost(head, form))
    const page = this.#store.page(name, after)
    const last = page?.last ?? after
    // What is not live ends here, whatever its state says: nobody asks in a loop for events that will never come.
    const isOver =
      this.#ports.live(name) === undefined && !this.#ports.isWaiting(name) && last >= this.#store.lastEvent(name)
    return ok({ text: page?.text ?? '', last, isOver })
  }
}

/** Why there are no events: they were too many, or are too old. */
function lost({ state, eventsUntilMs }: RunHead, form: Form): Failure {
  const isOld = state === 'ended' && eventsUntilMs === undefined
  if (form === 'stream' && isOld) return noSuch(form)
  const message =
    form === 'stream'
      ? 'This stream is longer than what is kept of one.'
      : 'The events of this response are not kept any more; get it without "stream".'
  return { code: 'invalid_request', message, param: 'stream' }
}
