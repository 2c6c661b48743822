// The journal of a run: what its next life goes on from, on its way to the storage. Owns what is written when and what is read back;
// what the entries mean is providers/answer-journal.ts.
import type { DispatchEvent } from '../../protocol/dispatch.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { packed, unpacked } from '../handover/packed.ts'
import type { Usage } from '../meter/usage.ts'
import type { Target } from '../policy/plan.ts'
import { FLEET } from '../policy/targets.ts'
import {
  type AnswerJournal,
  hasLast,
  hasSpoken,
  type JournalEntry,
  type KeptAnswer,
  measured,
  toldEvents,
} from '../providers/answer-journal.ts'
import { type Counted, Tally } from '../stream/tally.ts'

/** Beyond it the entries are given up: the run goes on, and ends with its process. */
const ENTRIES_CHARS_MAX = 32 * 1024 * 1024

/** The attempt under way. `counted`: of one whose answer no entries tell. */
type Head = {
  attempt: number
  numbered: number
  target: Target
  firstTokenAtMs?: number
  areLost?: boolean
  counted?: { usage: Usage; isFree: boolean; firstTokenAtMs: number }
}

/** A journal as the storage has it: what stands for the attempt, and lines of entries. */
export type Written = { head: string; entries: string }

/** What is to be written. `isAnew`: the entries before these are of no use. */
export type JournalNews = { head: string | undefined; entries: string; isAnew: boolean }

export class RunJournal implements AnswerJournal {
  readonly #nowMs: () => number
  readonly #changed: (isUrgent: boolean) => void
  #head: Head | undefined
  #isHeadNew = false
  #isAnew = false
  #entries = ''
  #chars = 0
  #numbered = 0

  /**
   * @param changed There is news; urgent: what follows must find it written.
   * @param before What earlier lives have left, which counts.
   */
  constructor(nowMs: () => number, changed: (isUrgent: boolean) => void, before?: Pick<KeptRun, 'kept' | 'chars'>) {
    this.#nowMs = nowMs
    this.#changed = changed
    if (before === undefined) return
    const { kept, chars } = before
    this.#chars = chars
    const { attempt, numbered, target, firstTokenAtMs } = kept
    this.#head = { attempt, numbered, target, ...(firstTokenAtMs === undefined ? {} : { firstTokenAtMs }) }
    this.#numbered = numbered
  }

  began(attempt: number, target: Target | undefined): void {
    this.#numbered = Math.max(this.#numbered, attempt)
    const head = this.#head
    if (target !== undefined && head?.attempt !== attempt) {
      this.#head = { attempt, numbered: this.#numbered, target }
      this.#anew()
    } else if (head !== undefined) {
      this.#head = { ...head, numbered: this.#numbered }
      // The same attempt once more counts from its beginning.
      if (target !== undefined) delete this.#head.counted
    }
    this.#isHeadNew = true
    this.#changed(true)
  }

  leg(attempt: number, by: { leg: string; seed: number }, isFirst: boolean): void {
    if (attempt !== this.#head?.attempt) return
    if (isFirst) this.#anew()
    this.#add(by)
    this.#changed(false)
  }

  told(attempt: number, events: readonly DispatchEvent[]): void {
    const head = this.#head
    if (head?.attempt !== attempt || events.length === 0) return
    if (head.firstTokenAtMs === undefined && hasSpoken(events)) {
      this.#head = { ...head, firstTokenAtMs: this.#nowMs() }
      this.#isHeadNew = true
    }
    this.#add({ told: [...events] })
    this.#changed(hasLast(events))
  }

  /** Of an own backend the entries say it, as far as there are any. */
  counted(attempt: number, usage: Usage, isFree: boolean): void {
    const head = this.#head
    if (head?.attempt !== attempt || (head.target.provider === FLEET && head.areLost !== true)) return
    const firstTokenAtMs = head.counted?.firstTokenAtMs ?? head.firstTokenAtMs ?? this.#nowMs()
    this.#head = { ...head, counted: { usage, isFree, firstTokenAtMs } }
    this.#isHeadNew = true
    this.#changed(false)
  }

  /** No more is kept of it. */
  lose(): void {
    const head = this.#head
    if (head === undefined || head.areLost === true) return
    this.#anew()
    this.#head = { ...head, areLost: true }
    this.#isHeadNew = true
  }

  /** What was not written yet. */
  take(): JournalNews | undefined {
    const entries = this.#entries
    const isAnew = this.#isAnew
    if (!this.#isHeadNew && entries === '' && !isAnew) return undefined
    const head = this.#isHeadNew ? packed(this.#head) : undefined
    this.#entries = ''
    this.#isHeadNew = false
    this.#isAnew = false
    return { head, entries, isAnew }
  }

  #anew(): void {
    this.#isAnew = true
    this.#entries = ''
    this.#chars = 0
  }

  #add(entry: JournalEntry): void {
    const head = this.#head
    if (head === undefined || head.areLost === true) return
    const line = `${JSON.stringify(entry)}\n`
    this.#chars += line.length
    if (this.#chars <= ENTRIES_CHARS_MAX) {
      this.#entries += line
      return
    }
    this.lose()
  }
}

/** @see keptOf. `tokens`: told by a backend; `chars`: of its entries. */
export type KeptRun = { kept: KeptAnswer; tokens: number; chars: number }

/** Both texts of a run's journal are this file's own. */
const entriesOf = (text: string): JournalEntry[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as JournalEntry)

/**
 * What the next life goes on from.
 * @returns undefined where no attempt had begun, or more was told than is kept.
 */
export function keptOf({ head, entries }: Written, request: InferenceRequest, wasShown: boolean): KeptRun | undefined {
  if (head === '') return undefined
  const { areLost, counted: _, ...rest } = unpacked(head) as Head
  if (areLost === true) return undefined
  const all = entriesOf(entries)
  const { tokens, isWhole } = measured(all, request)
  return {
    kept: { ...rest, entries: all, isWhole: all.length > 0 && isWhole, wasShown },
    tokens,
    chars: entries.length,
  }
}

/** An attempt that nobody goes on with. */
export type Left = {
  attempt: number
  counted: Counted
  firstTokenAtMs?: number
  /** Its target bills nothing for what is cut off. */
  isFree: boolean
  /** The last own machine that was at work on it. */
  backendId?: string
}

/** @returns undefined where none had begun, or what it has used is not known here. */
export function leftOf({ head, entries }: Written, request: InferenceRequest): Left | undefined {
  if (head === '') return undefined
  const { attempt, target, counted, areLost, firstTokenAtMs } = unpacked(head) as Head
  if (counted !== undefined) {
    const { usage, isFree, firstTokenAtMs } = counted
    return { attempt, counted: { usage, source: 'stream_partial' }, firstTokenAtMs, isFree }
  }
  if (areLost === true) return undefined
  const all = entriesOf(entries)
  const tally = new Tally()
  for (const event of toldEvents(all, request)) tally.see(event)
  const leg = target.provider === FLEET ? all.findLast((entry) => 'leg' in entry) : undefined
  return {
    attempt,
    counted: tally.counted(),
    ...(firstTokenAtMs === undefined ? {} : { firstTokenAtMs }),
    isFree: false,
    ...(leg !== undefined && 'leg' in leg ? { backendId: leg.leg } : {}),
  }
}
