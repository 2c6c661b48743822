// The journal of a run: what its next life goes on from, on its way to the storage. Owns what is written when and what is read back;
// what the entries mean is providers/answer-journal.ts.
import type { DispatchEvent } from '../../protocol/dispatch.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { packed, unpacked } from '../handover/packed.ts'
import type { Target } from '../policy/plan.ts'
import {
  type AnswerJournal,
  hasLast,
  hasSpoken,
  type JournalEntry,
  type KeptAnswer,
  measured,
} from '../providers/answer-journal.ts'

/** Beyond it the entries are given up: the run goes on, and ends with its process. */
const ENTRIES_CHARS_MAX = 32 * 1024 * 1024

/** The attempt under way. */
type Head = { attempt: number; numbered: number; target: Target; firstTokenAtMs?: number; areLost?: boolean }

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

  /** @param changed There is news; urgent: what follows must find it written. */
  constructor(nowMs: () => number, changed: (isUrgent: boolean) => void, kept?: KeptAnswer) {
    this.#nowMs = nowMs
    this.#changed = changed
    if (kept === undefined) return
    const { attempt, numbered, target, firstTokenAtMs } = kept
    this.#head = { attempt, numbered, target, ...(firstTokenAtMs === undefined ? {} : { firstTokenAtMs }) }
    this.#numbered = numbered
  }

  began(attempt: number, target: Target | undefined): void {
    this.#numbered = Math.max(this.#numbered, attempt)
    if (target !== undefined && this.#head?.attempt !== attempt) {
      this.#head = { attempt, numbered: this.#numbered, target }
      this.#anew()
    } else if (this.#head !== undefined) this.#head = { ...this.#head, numbered: this.#numbered }
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
    this.#anew()
    this.#head = { ...head, areLost: true }
    this.#isHeadNew = true
  }
}

/**
 * What was written. Both texts are this class's own.
 * @returns undefined where no attempt had begun, or more was told than is kept.
 */
export function keptOf(
  head: string,
  entries: string,
  request: InferenceRequest,
): { kept: KeptAnswer; tokens: number } | undefined {
  if (head === '') return undefined
  const { areLost, ...rest } = unpacked(head) as Head
  if (areLost === true) return undefined
  const lines = entries.split('\n').filter((line) => line !== '')
  const all = lines.map((line) => JSON.parse(line) as JournalEntry)
  const { tokens, isWhole } = measured(all, request)
  return { kept: { ...rest, entries: all, isWhole: all.length > 0 && isWhole }, tokens }
}
