// Usage seen in passing. Owns what an attempt is known to have used at any moment of its stream. Pure.
import type { NanoUsd } from '../../protocol/units.ts'
import { NO_USAGE, type Usage, type UsageSource } from '../meter/usage.ts'
import type { ProviderEvent } from '../providers/provider.ts'

export type Counted = { usage: Usage; source: UsageSource }

/**
 * Follows a stream's events. The target's own final count wins; before it, the accepted prompt and the tokens counted
 * in deltas are what can be proven.
 */
export class Tally {
  #accepted: Usage = NO_USAGE
  #final: Usage | undefined
  #providerCostNanoUsd: NanoUsd | undefined
  readonly #finished = new Set<number>()
  readonly #outputByChoice = new Map<number, number>()

  see(event: ProviderEvent): void {
    switch (event.type) {
      case 'accepted':
        this.#accepted = event.usage
        return
      case 'delta':
      case 'finish': {
        const before = this.#outputByChoice.get(event.choice) ?? 0
        this.#outputByChoice.set(event.choice, Math.max(before, event.outputTokens))
        if (event.type === 'finish') this.#finished.add(event.choice)
        return
      }
      case 'embedding':
        this.#finished.add(event.choice)
        return
      case 'usage':
        this.#final = event.usage
        this.#providerCostNanoUsd = event.providerCostNanoUsd
        return
      case 'error':
        if (event.usage !== undefined) this.#final = event.usage
        return
      default:
        return event satisfies never
    }
  }

  /** Choices that ended as the target meant them to. */
  get finishedCount(): number {
    return this.#finished.size
  }

  /** What the target says the attempt cost, where it does. */
  get providerCostNanoUsd(): NanoUsd | undefined {
    return this.#providerCostNanoUsd
  }

  counted(): Counted {
    if (this.#final !== undefined) return { usage: this.#final, source: 'provider' }
    let output = 0
    for (const tokens of this.#outputByChoice.values()) output += tokens
    const known = this.#accepted.outputText + this.#accepted.outputReasoning
    return {
      usage: { ...this.#accepted, outputText: this.#accepted.outputText + Math.max(0, output - known) },
      source: 'stream_partial',
    }
  }
}
