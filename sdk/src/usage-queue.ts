// Usage of direct calls on its way to the gateway. Owns the queue, its bound, and how it is posted: in batches, beside calls and never
// in their way, each record until the gateway has it. What a record says is report.ts.
import { within } from './deadline.ts'
import type { Hooks } from './options.ts'
import { pauseMs, readRetryAfter } from './retry-after.ts'
import type { RetryBudget } from './retry-budget.ts'
import { requestFor, type Target } from './target.ts'

/**
 * One call of a direct provider, as it is posted to `/v1/usage/import` of the gateway. It is shown there, marked as reported by a
 * client, and never billed. Plain JSON: it can be stored and given to another client as its option `unreported`.
 *
 * @example
 * ```ts
 * const onUsageRecord = (record: UsageRecord) => localStorage.setItem(`usage-${record.id}`, JSON.stringify(record))
 * ```
 */
export type UsageRecord = {
  /** By which the gateway stores it once, however often it is posted. */
  id: string
  /** The gateway's name of the model. */
  model: string
  /** The direct provider's name. */
  provider: string
  /** ISO 8601. */
  started_at: string
  ended_at: string
  /** `interrupted`: it broke off, or was left, before its end. */
  status: 'answered' | 'failed' | 'interrupted'
  /** Tokens in disjoint parts, as the provider told them; empty where it told none. */
  usage: Partial<
    Record<'input_uncached' | 'input_cache_read' | 'input_cache_write_5m' | 'output_text' | 'output_reasoning', number>
  >
  /** Which try of its call it was, from 1. */
  attempts?: number
  /** Why the gateway was passed: the code of its failure, `breaker_open`, `slow` (a hedge) or `interrupted`. */
  reason?: string
  /** Those of the header `x-penstock-tags`. */
  tags?: Record<string, string>
}

/**
 * How the reports of a client stand.
 *
 * @example
 * ```ts
 * const { pending, dropped }: UsageReport = await penstock.flushUsage()
 * if (pending > 0) console.warn(`${pending} records still wait for the gateway`)
 * ```
 */
export type UsageReport = {
  /** Records that the gateway does not have yet. */
  pending: number
  /** Records given up so far, because more waited than are kept. */
  dropped: number
  /** Records that the gateway refused so far. */
  refused: number
}

/**
 * What became of a record that was posted.
 *
 * @example
 * ```ts
 * const onUsageReported = ({ id }: UsageOutcome) => localStorage.removeItem(`usage-${id}`)
 * ```
 */
export type UsageOutcome = {
  id: string
  /** `duplicate`: the gateway had it already. */
  outcome: 'accepted' | 'duplicate' | 'refused'
  /** Of a refused one. */
  why?: string
}

/** Half a megabyte at most; an outage of some minutes for a busy client. */
const WAITING_MAX = 1_000
/** Browsers send at most 64 KiB past the end of a page, and no record takes more than 2 KiB. */
const BATCH_RECORDS = 25
const POST_MS = 10_000
/** Where the gateway does not know the route or the key, asking soon again changes nothing. */
const REFUSED_REST_MS = 60_000

export type QueueNeeds = {
  gateway: Target
  fetch: typeof fetch
  budget: RetryBudget
  nowMs: () => number
  random: () => number
  hook: <Name extends keyof Hooks>(name: Name, event: Parameters<NonNullable<Hooks[Name]>>[0]) => void
}

export class UsageQueue {
  readonly #needs: QueueNeeds
  readonly #isOn: boolean
  #waiting: UsageRecord[] = []
  #dropped = 0
  #refused = 0
  #failures = 0
  #notBeforeMs = 0
  #posting: Promise<void> | undefined

  constructor(needs: QueueNeeds, isOn: boolean, waiting: readonly UsageRecord[]) {
    this.#needs = needs
    this.#isOn = isOn
    for (const record of waiting) this.#keep(record)
  }

  get waiting(): readonly UsageRecord[] {
    return [...this.#waiting]
  }

  add(record: UsageRecord): void {
    if (!this.#isOn) return
    this.#keep(record)
    this.#needs.hook('onUsageRecord', record)
  }

  #keep(record: UsageRecord): void {
    this.#waiting.push(record)
    if (this.#waiting.length <= WAITING_MAX) return
    // What used nothing that is known goes first, then what is oldest.
    const empty = this.#waiting.findIndex(({ status }) => status === 'failed')
    this.#waiting.splice(Math.max(0, empty), 1)
    this.#dropped++
  }

  /** The gateway has just answered a call. Posts in the background. */
  wake(): void {
    const isLate = this.#needs.nowMs() >= this.#notBeforeMs
    if (this.#waiting.length > 0 && this.#posting === undefined && isLate && this.#mayTry()) void this.flush()
  }

  /** A further try is a retry like any other. */
  #mayTry(): boolean {
    return this.#failures === 0 || this.#needs.budget.spend()
  }

  /** Posts what waits, until it is through or a post fails. Never throws. */
  async flush(): Promise<UsageReport> {
    this.#posting ??= this.#postAll().finally(() => {
      this.#posting = undefined
    })
    await this.#posting
    return { pending: this.#waiting.length, dropped: this.#dropped, refused: this.#refused }
  }

  async #postAll(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, BATCH_RECORDS)
      const outcomes = await this.#post(batch).catch(() => undefined)
      if (outcomes === undefined) {
        const { nowMs, random } = this.#needs
        const waitMs = pauseMs(Math.min(this.#failures++, 10), undefined, random())
        this.#notBeforeMs = Math.max(this.#notBeforeMs, nowMs() + waitMs)
        return
      }
      this.#failures = 0
      const posted = new Set(batch.map(({ id }) => id))
      this.#waiting = this.#waiting.filter(({ id }) => !posted.has(id))
      for (const outcome of outcomes) {
        if (outcome.outcome === 'refused') this.#refused++
        this.#needs.hook('onUsageReported', outcome)
      }
    }
  }

  /** @returns undefined where the gateway does not have them for sure. */
  async #post(batch: readonly UsageRecord[]): Promise<UsageOutcome[] | undefined> {
    const { gateway, nowMs } = this.#needs
    const controller = new AbortController()
    const posting = (async () => {
      const wire = {
        method: 'POST',
        path: '/usage/import',
        body: { records: batch },
        headers: {},
        isStream: false,
      } as const
      const request = await requestFor(gateway, wire, {})
      // A page that is being left still sends it.
      const response = await this.#needs.fetch(request, { signal: controller.signal, keepalive: true })
      const text = await response.text()
      if (response.ok) return outcomesOf(text, batch)
      const { status, headers } = response
      if (status < 500 && status !== 429) this.#notBeforeMs = nowMs() + REFUSED_REST_MS
      else this.#notBeforeMs = nowMs() + (readRetryAfter(headers, nowMs()) ?? 0)
      // The gateway has read it and it is wrong as a whole: it never gets better.
      const isWrong = [400, 413, 422].includes(status) && headers.has('x-penstock-request-id')
      return isWrong
        ? batch.map(({ id }): UsageOutcome => ({ id, outcome: 'refused', why: text.slice(0, 500) }))
        : undefined
    })()
    try {
      return await within(posting, POST_MS, 'the usage was not taken in time', controller.signal)
    } finally {
      controller.abort()
    }
  }
}

/** An answer of somebody else with a status of 200 is none. */
function outcomesOf(text: string, batch: readonly UsageRecord[]): UsageOutcome[] | undefined {
  const { results } = JSON.parse(text) as { results?: (Omit<UsageOutcome, 'id'> | undefined)[] }
  if (!Array.isArray(results) || results.length !== batch.length) return undefined
  return batch.map(({ id }, index) => {
    const { outcome, why } = results[index] ?? { outcome: 'accepted' }
    return { id, outcome, ...(why === undefined ? {} : { why }) }
  })
}
