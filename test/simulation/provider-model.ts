// Models of the targets: each attempt follows a script of tokens, silences and ends. Owns what was really delivered to
// the gateway, which is what charges are held against.

import { NO_USAGE, type Usage } from '../../gateway/meter/usage.ts'
import type { ProviderEvent } from '../../gateway/providers/event.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Life, World } from './world.ts'

export type Script = {
  opening: 'accepts' | 'refuses' | 'silent'
  inputTokens: number
  cachedTokens: number
  /** Waits before each piece, and its tokens. */
  pieces: { delayMs: number; tokens: number }[]
  /** `no_usage`: complete, without the last count. `cut`: the connection ends. `stall`: nothing comes any more. */
  ending: 'usage' | 'no_usage' | 'error' | 'cut' | 'stall'
  usageDelayMs: number
  providerCostNanoUsd: bigint | undefined
}

/** What one attempt got, as the wire saw it. */
export type Delivery = {
  requestId: string
  attempt: number
  script: Script
  /** Proven by what arrived so far. */
  usage: Usage
  /** The target's own last count arrived. */
  isFinal: boolean
  /** Nothing that comes later reaches anybody. */
  closed: boolean
}

const refused: Failure = { code: 'overloaded', message: 'The target is full.' }
const broken: Failure = { code: 'upstream_error', message: 'The target failed.' }

/** Events of one attempt, batch by batch. */
export type Feed = { next(): Promise<ProviderEvent[] | undefined>; close(): void }

export class ProviderModel {
  readonly deliveries: Delivery[] = []
  readonly #world: World

  constructor(world: World) {
    this.#world = world
  }

  /** Sends an attempt. @returns undefined where the target refused it and computed nothing */
  async open(life: Life, of: { requestId: string; attempt: number }, script: Script): Promise<Feed | Failure> {
    const { requestId, attempt } = of
    const delivery: Delivery = { requestId, attempt, script, usage: NO_USAGE, isFinal: false, closed: false }
    this.deliveries.push(delivery)
    await this.#world.step(life, 'upstream: open', this.#world.random.below(200))
    if (script.opening === 'refuses') {
      delivery.closed = true
      return refused
    }
    const events = this.#events(delivery)
    return {
      next: async () => {
        const { value } = events.next()
        if (value === undefined) return undefined
        if (value.delayMs === undefined) return new Promise(() => {})
        await this.#world.step(life, `upstream: ${value.label}`, value.delayMs)
        if (!delivery.closed) value.arrives()
        return value.batch
      },
      close: () => {
        delivery.closed = true
      },
    }
  }

  *#events(delivery: Delivery): Generator<Arrival, undefined> {
    const { script } = delivery
    if (script.opening === 'silent') yield silence
    const input: Usage = { ...NO_USAGE, inputUncached: script.inputTokens }
    yield {
      label: 'accepted',
      delayMs: 10,
      batch: [{ type: 'accepted', usage: input }],
      arrives: () => {
        delivery.usage = input
      },
    }
    let output = 0
    for (const [index, { delayMs, tokens }] of script.pieces.entries()) {
      output += tokens
      const usage = { ...input, outputText: output }
      const isLast = index === script.pieces.length - 1 && (script.ending === 'usage' || script.ending === 'no_usage')
      const batch: ProviderEvent[] = [{ type: 'delta', choice: 0, text: 'x', outputTokens: output }]
      if (isLast) batch.push({ type: 'finish', choice: 0, reason: 'stop', outputTokens: output })
      yield {
        label: `${tokens} tokens`,
        delayMs,
        batch,
        arrives: () => {
          delivery.usage = usage
        },
      }
    }
    if (script.ending === 'stall') yield silence
    if (script.ending === 'error')
      yield { label: 'error', delayMs: 5, batch: [{ type: 'error', failure: broken }], arrives: () => {} }
    if (script.ending !== 'usage') return undefined
    const cached = Math.min(script.cachedTokens, script.inputTokens)
    const usage: Usage = {
      ...NO_USAGE,
      inputUncached: script.inputTokens - cached,
      inputCacheRead: cached,
      outputText: output,
    }
    const cost = script.providerCostNanoUsd
    yield {
      label: 'usage',
      delayMs: script.usageDelayMs,
      batch: [{ type: 'usage', usage, ...(cost === undefined ? {} : { providerCostNanoUsd: cost }) }],
      arrives: () => {
        delivery.usage = usage
        delivery.isFinal = true
      },
    }
    return undefined
  }
}

/** `delayMs` absent: never. */
type Arrival = { label: string; delayMs?: number; batch: ProviderEvent[]; arrives: () => void }
const silence: Arrival = { label: 'silence', batch: [], arrives: () => {} }
