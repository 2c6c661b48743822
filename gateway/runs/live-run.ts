// A run while it runs: its events on their way to the storage, and those who wait for them. Owns the batches, the waiting, and that a
// further life of a run says first what was said before, which is left out; what an event is and where it is kept is decided elsewhere.
import { TextDigest } from '../hash.ts'
import type { JournalNews, RunJournal } from './run-journal.ts'
import type { Runner } from './runner.ts'
import { EVENTS_CHARS_MAX, FOLLOWERS_MAX } from './stored-run.ts'

/** More than this is written at once. */
const BATCH_CHARS = 64 * 1024

export type LivePorts = {
  /** Makes events durable, and what the next life would need. */
  write: (text: string, journal: JournalNews | undefined) => void
  /** They are over their bound: those that are kept go, and no more come. */
  lose: () => void
  /** It says something else than its life before did. */
  diverged: () => void
}

/** The events of earlier lives: how many characters, and their digest. */
export type Said = { chars: number; digest: string }

export class LiveRun {
  /** Set once it has begun. */
  runner: Runner | undefined
  journal: RunJournal | undefined
  /** When somebody asked for its events last. Epoch ms. */
  attendedAtMs: number
  readonly #ports: LivePorts
  readonly #batchMs: number
  #before: (Said & { repeated: TextDigest }) | undefined
  #pending = ''
  #chars: number
  #areLost = false
  #flushedAtMs = 0
  #timer: ReturnType<typeof setTimeout> | undefined
  readonly #waiting = new Set<() => void>()

  /** @param batchMs Events that come within this travel to the storage together: a row written costs more than the wait. */
  constructor(ports: LivePorts, batchMs: number, nowMs: number, before: Said = { chars: 0, digest: '' }) {
    this.#ports = ports
    this.#batchMs = batchMs
    this.attendedAtMs = nowMs
    this.#chars = before.chars
    if (before.chars > 0) this.#before = { ...before, repeated: new TextDigest() }
  }

  /** It has not said yet all that its life before had. */
  get isBehind(): boolean {
    return this.#before !== undefined
  }

  /** They are given up: no more are kept. */
  loseEvents(): void {
    this.#areLost = true
    this.#before = undefined
  }

  append(text: string): void {
    const news = this.#before === undefined ? text : this.#unsaid(text, this.#before)
    if (news === '' || this.#areLost) return
    this.#pending += news
    if (this.#pending.length > BATCH_CHARS) this.flush()
    else this.changed(false)
  }

  /** The journal has news. @param isUrgent To be written before anything else happens. */
  changed(isUrgent: boolean): void {
    if (isUrgent) return this.flush()
    const waitMs = Math.max(0, this.#batchMs - (Date.now() - this.#flushedAtMs))
    this.#timer ??= setTimeout(() => this.flush(), Math.min(waitMs, this.#batchMs))
  }

  /** What a follower is shown is durable before: a number that it has seen means the same event ever after. */
  flush(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    this.#timer = undefined
    this.#flushedAtMs = Date.now()
    const text = this.#areLost ? '' : this.#pending
    this.#pending = ''
    const journal = this.journal?.take()
    if (text === '' && journal === undefined) return
    this.#chars += text.length
    if (this.#chars > EVENTS_CHARS_MAX && !this.#areLost) {
      this.#areLost = true
      this.#ports.lose()
      this.#ports.write('', journal)
    } else this.#ports.write(text, journal)
    if (text !== '') this.wake()
  }

  get isCrowded(): boolean {
    return this.#waiting.size >= FOLLOWERS_MAX
  }

  /** Resolves at the next batch, at the end, or after `waitMs`. */
  async news(waitMs: number): Promise<void> {
    const told = Promise.withResolvers<void>()
    this.#waiting.add(told.resolve)
    const timer = setTimeout(told.resolve, waitMs)
    await told.promise
    clearTimeout(timer)
    this.#waiting.delete(told.resolve)
  }

  wake(): void {
    for (const told of this.#waiting) told()
  }

  /** What is behind the last event of the life before. */
  #unsaid(text: string, before: Said & { repeated: TextDigest }): string {
    const said = text.slice(0, before.chars - before.repeated.chars)
    before.repeated.add(said)
    if (before.repeated.chars < before.chars) return ''
    this.#before = undefined
    if (before.repeated.hex() === before.digest) return text.slice(said.length)
    this.#areLost = true
    this.#ports.diverged()
    return ''
  }
}
