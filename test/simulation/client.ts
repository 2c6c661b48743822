// Models of clients: they ask, wait, hang up at any moment, and ask again under the same idempotency key. Owns what a
// client can have seen, which is what it may be charged for.
import type { Isolate, Order, Outcome } from './isolate.ts'
import { Life, type World } from './world.ts'

/** When a client hangs up. */
export type Leaving = 'never' | 'before_head' | 'at_first_content' | 'in_the_middle' | 'after_end'

export type Visit = {
  order: Order
  afterMs: number
  leaves: Leaving
  /** For `before_head`. */
  leavesAfterMs: number
  retriesMax: number
  /** Asks again although it was answered: it lost the answer, or its memory. */
  isForgetful: boolean
  /** Sends the same at the same time again, as proxies do. */
  twice: boolean
  /** Another order under the same key, sent after this one. */
  forged: Order | undefined
}

/** One HTTP exchange as the client remembers it. */
export class Exchange {
  requestId: string | undefined
  readonly order: Order
  /** Attempts it saw something of. */
  readonly seen = new Set<number>()
  outcome: Outcome | undefined
  gone = false
  onGone: (() => void) | undefined
  readonly #leaves: Leaving
  readonly #done: () => void
  #pieces = 0

  constructor(order: Order, leaves: Leaving, done: () => void) {
    this.order = order
    this.#leaves = leaves
    this.#done = done
  }

  began(requestId: string): void {
    this.requestId = requestId
  }

  content(attempt: number): void {
    if (this.gone) return
    this.seen.add(attempt)
    this.#pieces++
    if (this.#leaves === 'at_first_content' || (this.#leaves === 'in_the_middle' && this.#pieces > 1)) this.leave()
  }

  ended(outcome: Outcome): void {
    if (this.outcome !== undefined) return
    this.outcome = outcome
    if (this.#leaves === 'after_end') this.gone = true
    this.#done()
  }

  leave(): void {
    if (this.gone || this.outcome !== undefined) return
    this.gone = true
    this.onGone?.()
    this.#done()
  }
}

export type ClientPorts = { world: World; isolate: () => Isolate; exchanges: Exchange[] }

const REQUEST_DELAY_MS = 20
/** Long enough that a hold which was left behind has expired before some of the retries. */
const RETRY_DELAY_MS = 40_000

/** One client's whole visit. */
export async function visit(of: Visit, ports: ClientPorts): Promise<void> {
  const { world } = ports
  const life = new Life('client')
  await world.step(life, 'arrives', of.afterMs)
  const again = of.twice ? exchange(life, of.order, of.leaves, of, ports) : undefined
  let outcome = await exchange(life, of.order, of.leaves, of, ports)
  for (let retry = 0; retry < of.retriesMax && mayRetry(outcome, of.isForgetful); retry++) {
    await world.step(life, 'waits to try again', world.random.below(RETRY_DELAY_MS))
    world.note('client retries')
    outcome = await exchange(life, of.order, 'never', of, ports)
  }
  if (of.forged !== undefined) await exchange(life, of.forged, 'never', of, ports)
  await again
}

const mayRetry = (outcome: Outcome | 'left', isForgetful: boolean): boolean =>
  (outcome !== 'ok' || isForgetful) && outcome !== 'invalid_api_key'

function exchange(life: Life, order: Order, leaves: Leaving, of: Visit, ports: ClientPorts): Promise<Outcome | 'left'> {
  const { world, exchanges } = ports
  return new Promise((resolve) => {
    const one = new Exchange(order, leaves, () => {
      const outcome = one.outcome ?? 'left'
      world.note(`client sees: ${outcome}`)
      world.park(life, `sees ${outcome}`, 0, () => resolve(outcome))
    })
    exchanges.push(one)
    const delayMs = world.random.chance(0.5) ? 0 : world.random.below(REQUEST_DELAY_MS)
    world.park(world.network, 'gateway ← request', delayMs, () => ports.isolate().serve(order, one))
    if (leaves === 'before_head') world.park(life, 'hangs up', of.leavesAfterMs, () => one.leave())
  })
}
