// What may stand between a target's answer and the client: content rules, the response cache. Owns the interface and the chain
// of several; the lifecycle puts every batch through it, whole answers and streams alike.
import type { Failure } from '../../protocol/errors.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { ProviderEvent } from '../providers/event.ts'

/** One per answer, asked in its order. Never throws. */
export interface AnswerFilter {
  /** What of this batch goes on, perhaps with what was held back before; `err` ends the answer. */
  push(batch: ProviderEvent[]): Promise<Result<ProviderEvent[], Failure>>
  /** The answer is complete: what was held back goes on. */
  end(): Promise<Result<ProviderEvent[], Failure>>
}

/** Makes a filter for one more answer: one that broke off leaves nothing behind in the next. */
export type FilterMaker = () => AnswerFilter

/** Several in a row: what one lets through comes to the next. */
export class FilterChain {
  readonly #filters: readonly AnswerFilter[]

  constructor(makers: readonly FilterMaker[]) {
    this.#filters = makers.map((make) => make())
  }

  push(batch: ProviderEvent[]): Promise<Result<ProviderEvent[], Failure>> {
    return this.#through(batch, 0)
  }

  /** Each ends after what the ones before it held back has come through. */
  async end(): Promise<Result<ProviderEvent[], Failure>> {
    const released: ProviderEvent[] = []
    for (const [index, filter] of this.#filters.entries()) {
      const held = await filter.end()
      if (!held.ok) return held
      const passed = await this.#through(held.value, index + 1)
      if (!passed.ok) return passed
      released.push(...passed.value)
    }
    return ok(released)
  }

  async #through(batch: ProviderEvent[], from: number): Promise<Result<ProviderEvent[], Failure>> {
    let passed = batch
    for (const filter of this.#filters.slice(from)) {
      if (passed.length === 0) break
      const result = await filter.push(passed)
      if (!result.ok) return result
      passed = result.value
    }
    return ok(passed)
  }
}
