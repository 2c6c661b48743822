// What all calls of a client share: targets, bounds, breakers, the retry budget, hooks. Owns their making from the options; the
// clock, randomness and ids come from here, so that a test can replace them (testing.ts).
import { Breaker } from './breaker.ts'
import { type ClientOptions, DEFAULTS, type Hooks } from './options.ts'
import { RetryBudget } from './retry-budget.ts'
import { type Target, targetsOf } from './target.ts'
import { UsageQueue } from './usage-queue.ts'

/** What a test replaces. */
export type Surroundings = { nowMs: () => number; random: () => number; newId: () => string }

export type Core = Surroundings & {
  gateway: Target
  direct: readonly Target[]
  deadlineMs: number
  attemptsMax: number
  timeouts: { headTimeoutMs: number; idleTimeoutMs: number }
  afterContent: 'error' | 'restart'
  resume: boolean
  hedgeAfterMs: number | undefined
  budget: RetryBudget
  fetch: typeof fetch
  /** Usage of direct calls that the gateway has yet to learn of. */
  reports: UsageQueue
  breaker: (target: string) => Breaker
  /** Calls a hook, if there is one. */
  hook: <Name extends keyof Hooks>(name: Name, event: Parameters<NonNullable<Hooks[Name]>>[0]) => void
}

const REAL: Surroundings = {
  nowMs: () => Date.now(),
  random: () => Math.random(),
  newId: () => crypto.randomUUID(),
}

/** @throws PenstockError `invalid_request` for options that make no sense. */
export function coreOf(options: ClientOptions, surroundings: Surroundings = REAL): Core {
  const breakers = options.breakers ?? new Map<string, Breaker>()
  const shared = {
    ...surroundings,
    ...targetsOf(options),
    budget: new RetryBudget(),
    // Some hosts refuse a fetch that is called as a method of something else.
    fetch: options.fetch ?? ((...args: Parameters<typeof fetch>) => globalThis.fetch(...args)),
    hook: (name: keyof Hooks, event: unknown) => {
      try {
        ;(options.hooks?.[name] as ((event: unknown) => void) | undefined)?.(event)
      } catch {
        // A hook only watches.
      }
    },
  }
  return {
    ...shared,
    reports: new UsageQueue(shared, options.reportUsage ?? true, options.unreported ?? []),
    deadlineMs: options.deadlineMs ?? DEFAULTS.deadlineMs,
    attemptsMax: options.attemptsMax ?? DEFAULTS.attemptsMax,
    timeouts: {
      headTimeoutMs: options.headTimeoutMs ?? DEFAULTS.headTimeoutMs,
      idleTimeoutMs: options.idleTimeoutMs ?? DEFAULTS.idleTimeoutMs,
    },
    afterContent: options.afterContent ?? 'error',
    resume: options.resume ?? false,
    hedgeAfterMs: options.hedgeAfterMs,
    breaker: (target) => {
      const known = breakers.get(target) ?? new Breaker()
      breakers.set(target, known)
      return known
    },
  }
}
