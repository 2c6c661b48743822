// Usage objects seen along one answer, as events. Owns when a count is what stands so far and when it is the last word. Pure.
import { RAW_USAGE_CHARS_MAX } from '../account/contract.ts'
import { rawUsageText, withOtherModels } from '../meter/normalise.ts'
import type { ProviderEvent, Reported } from './event.ts'
import type { SeenUsage, UsageReader } from './usage-dialect.ts'

export class ReportedUsage {
  readonly #reader: UsageReader
  #last: SeenUsage | undefined
  #isInconsistent = false

  constructor(reader: UsageReader) {
    this.#reader = reader
  }

  /** The counts contradicted each other: an operator may want to look. */
  get isInconsistent(): boolean {
    return this.#isInconsistent
  }

  /** What stands so far after this object; nothing where it holds no count. */
  running(raw: unknown): ProviderEvent[] {
    const seen = this.#reader.see(raw)
    if (seen === undefined) return []
    this.#last = seen
    return [this.#event(seen, true)]
  }

  /**
   * The last object once more, as the last word.
   * @param doubt The answer says something that makes the counts' price doubtful.
   */
  final(doubt = false): ProviderEvent[] {
    return this.#last === undefined ? [] : [this.#event(this.#last, false, doubt)]
  }

  #event(seen: SeenUsage, isRunning: boolean, doubt = false): ProviderEvent {
    return { type: 'usage', ...(isRunning ? { isRunning } : {}), ...this.#reported(seen, doubt) }
  }

  #reported(seen: SeenUsage, doubt: boolean): Reported {
    const { usage, inconsistent } = withOtherModels(seen)
    const rawUsage = rawUsageText(seen.raw, RAW_USAGE_CHARS_MAX)
    this.#isInconsistent ||= inconsistent || doubt
    return {
      usage,
      ...(rawUsage === undefined ? {} : { rawUsage }),
      ...(inconsistent || doubt ? { inconsistent: true } : {}),
    }
  }
}
