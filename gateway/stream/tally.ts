// Usage seen in passing. Owns what an attempt is known to have used at any moment of its stream. Pure.
import type { NanoUsd } from '../../protocol/units.ts'
import {
  addUsage,
  inputTokens,
  mapParts,
  NO_USAGE,
  outputTokens,
  sideOf,
  type Usage,
  type UsageSource,
} from '../meter/usage.ts'
import type { ProviderEvent, Reported } from '../providers/event.ts'

export type Counted = {
  usage: Usage
  source: UsageSource
  /** The target's own usage object as JSON text, the newest. */
  rawUsage?: string
  inconsistent?: boolean
}

/**
 * Follows a stream's events. The target's own final count wins; before it, the accepted prompt (or the target's count so
 * far) and the tokens counted in deltas are what can be proven.
 */
export class Tally {
  #base: Usage = NO_USAGE
  #final: Usage | undefined
  #reported: Partial<Reported> = {}
  readonly #finished = new Set<number>()
  readonly #outputByChoice = new Map<number, number>()

  see(event: ProviderEvent): void {
    switch (event.type) {
      case 'accepted':
        this.#base = event.usage
        return
      case 'delta':
      case 'thought':
      case 'refusal':
      case 'tool_call':
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
        // Some servers say 0 of the prompt until the last count: until then, what was taken on stands.
        if (event.isRunning === true) {
          this.#base = inputTokens(event.usage) === 0 ? addUsage(event.usage, promptOf(this.#base)) : event.usage
        } else this.#final = event.usage
        this.#reported = event
        return
      case 'error':
        if (event.usage === undefined) return
        this.#final = event.usage
        this.#reported = event
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
    return this.#reported.providerCostNanoUsd
  }

  counted(): Counted {
    const { rawUsage, inconsistent } = this.#reported
    const said = {
      ...(rawUsage === undefined ? {} : { rawUsage }),
      ...(inconsistent === true ? { inconsistent } : {}),
    }
    if (this.#final !== undefined) return { usage: this.#final, source: 'provider', ...said }
    let output = 0
    for (const tokens of this.#outputByChoice.values()) output += tokens
    const uncounted = Math.max(0, output - outputTokens(this.#base))
    const usage = { ...this.#base, outputText: this.#base.outputText + uncounted }
    return { usage, source: 'stream_partial', ...said }
  }
}

const promptOf = (usage: Usage): Usage => mapParts((part) => (sideOf(part) === 'input' ? usage[part] : 0))
