// What this isolate knows of the targets it calls: breakers of targets and keys, speeds, open attempts, repeats. Owns the memory
// and its bounds; what each of them means is breaker.ts, speed.ts, dispatches.ts, retry-budget.ts and verdict.ts. Pure: the
// clock is an argument. Nothing here is shared between isolates or outlives one: each finds out for itself within a few
// requests, and none can be misled by another's bad network.
import type { ProviderKey, Target } from '../policy/plan.ts'
import { type Breaker, beginProbe, CLOSED, failed, rest, type Standing, standingOf, succeeded } from './breaker.ts'
import { Dispatches } from './dispatches.ts'
import { targetName } from './hints.ts'
import type { KeyStanding } from './keys.ts'
import { RetryBudget } from './retry-budget.ts'
import { expectedMs, measuredFirstContent, measuredRate, SPEED_FORGOTTEN_MS, type Speed } from './speed.ts'
import type { Verdict } from './verdict.ts'

/** More than any deployment has targets and keys; the one that was noted first is forgotten first. */
const ENTRIES_MAX = 10_000
/** An operator who renews a key does it within minutes, and a renewed one is another key here. */
export const KEY_REFUSED_MS = 300_000
/** A model that is missing was mistyped or retired; either is mended in the catalog, which is as old as this at most. */
export const UNKNOWN_MODEL_MS = 60_000
/** Where a limit names no time: most are counted by the minute and let something through each second. */
const LIMITED_MS = 2_000

type Known = {
  provider: string
  standing: Standing /** Of a rest. */
  untilMs: number | undefined
  failuresInRow: number
}
export type KnownTarget = Known & { model: string; inFlight: number; firstContentMs: number | undefined }
/** `model` absent: the key is refused for every one. */
export type KnownKey = Known & { key: string; model: string | undefined }

/** Begins the ids of keys; targets have a slash before any space. */
const KEY = 'key '

export class Health {
  readonly #breakers = new Map<string, Breaker>()
  readonly #speeds = new Map<string, Speed>()
  readonly #budgets = new Map<string, RetryBudget>()
  readonly #inFlight = new Dispatches()
  /** Shadow attempts that run now. */
  shadows = 0

  targetStanding(target: Target, nowMs: number): Standing {
    return standingOf(this.#breaker(targetName(target)), nowMs)
  }

  /** The worse of what is known of the key, and of the key with this model. */
  keyStanding(provider: string, key: ProviderKey, model: string, nowMs: number): KeyStanding {
    const [refused, limited] = keyIds(provider, key, model).map((id) => this.#breaker(id))
    const [a, b] = [refused ?? CLOSED, limited ?? CLOSED]
    const standings = [standingOf(a, nowMs), standingOf(b, nowMs)]
    const worst = (['barred', 'resting', 'half_open'] as const).find((one) => standings.includes(one)) ?? 'closed'
    return { standing: worst, untilMs: Math.max(a.rest?.untilMs ?? 0, b.rest?.untilMs ?? 0) }
  }

  /** An attempt is sent. Returns what ends it, for the count of open ones; calling that again does nothing. */
  began(target: Target, key: ProviderKey | undefined, isRepeat: boolean, nowMs: number): () => void {
    const name = targetName(target)
    this.#change(name, (breaker) => beginProbe(breaker, nowMs))
    if (key !== undefined)
      for (const id of keyIds(target.provider, key, target.model))
        this.#change(id, (breaker) => beginProbe(breaker, nowMs))
    if (!isRepeat) this.#budget(name).noteRequest(nowMs)
    return this.#inFlight.begin(name)
  }

  succeeded(target: Target, key: ProviderKey | undefined, nowMs: number): void {
    this.#change(targetName(target), (breaker) => succeeded(breaker, nowMs))
    if (key === undefined) return
    // Keys do not fail by themselves: nothing is counted for one, only its rest ends.
    for (const id of keyIds(target.provider, key, target.model)) this.#breakers.delete(id)
  }

  /** @param retryAfterMs What the target named. */
  failed(
    target: Target,
    key: ProviderKey | undefined,
    verdict: Verdict,
    retryAfterMs: number | undefined,
    nowMs: number,
  ) {
    const name = targetName(target)
    if (verdict.target === 'failed') {
      this.#change(name, (breaker) => failed(breaker, nowMs))
      if (retryAfterMs !== undefined) this.#change(name, (breaker) => rest(breaker, nowMs, retryAfterMs, false))
    }
    if (verdict.target === 'rest') this.#change(name, (breaker) => rest(breaker, nowMs, UNKNOWN_MODEL_MS, false))
    if (key === undefined) return
    const [refused, limited] = keyIds(target.provider, key, target.model)
    if (verdict.key === 'refused') this.#change(refused, (breaker) => rest(breaker, nowMs, KEY_REFUSED_MS, false))
    if (verdict.key === 'limited')
      this.#change(limited, (breaker) => rest(breaker, nowMs, retryAfterMs ?? LIMITED_MS, retryAfterMs !== undefined))
  }

  /** A repeat of the same target, where its budget has one left. */
  takeRetry(target: Target, nowMs: number): boolean {
    return this.#budget(targetName(target)).takeRetry(nowMs)
  }

  inFlight(target: Pick<Target, 'provider' | 'model'>): number {
    return this.#inFlight.inFlight.get(targetName(target)) ?? 0
  }

  /** First content after `ms`, or none for so long. */
  firstContent(target: Target, ms: number, nowMs: number): void {
    const name = targetName(target)
    keep(this.#speeds, name, measuredFirstContent(this.#speeds.get(name), ms, nowMs))
  }

  tokenRate(target: Target, tokensPerSecond: number, nowMs: number): void {
    const name = targetName(target)
    const speed = this.#speeds.get(name)
    if (speed !== undefined) keep(this.#speeds, name, measuredRate(speed, tokensPerSecond, nowMs))
  }

  expectedMs(target: Target, nowMs: number): number | undefined {
    return expectedMs(this.#speeds.get(targetName(target)), nowMs)
  }

  firstContentMs(target: Pick<Target, 'provider' | 'model'>, nowMs: number): number | undefined {
    const speed = this.#speeds.get(targetName(target))
    return speed === undefined || nowMs - speed.measuredAtMs > SPEED_FORGOTTEN_MS ? undefined : speed.firstContentMs
  }

  /** What is known of targets that were called lately, and of keys that rest. For whoever looks, and no part of a decision. */
  known(nowMs: number): { targets: KnownTarget[]; keys: KnownKey[] } {
    const ids = [...new Set([...this.#breakers.keys(), ...this.#speeds.keys(), ...this.#inFlight.inFlight.keys()])]
    const standing = (id: string) => {
      const breaker = this.#breaker(id)
      const { failuresInRow, rest: resting } = breaker
      return { standing: standingOf(breaker, nowMs), untilMs: resting?.untilMs, failuresInRow }
    }
    const isKey = (id: string) => id.startsWith(KEY)
    return {
      targets: ids
        .filter((id) => !isKey(id))
        .map((id) => {
          const slash = id.indexOf('/')
          const target = { provider: id.slice(0, slash), model: id.slice(slash + 1) }
          const firstContentMs = this.firstContentMs(target, nowMs)
          return { ...target, ...standing(id), inFlight: this.inFlight(target), firstContentMs }
        }),
      keys: ids.filter(isKey).map((id) => {
        const [provider = '', key = '', _mark, model] = id.slice(KEY.length).split(' ')
        return { provider, key, model, ...standing(id) }
      }),
    }
  }

  #breaker(id: string): Breaker {
    return this.#breakers.get(id) ?? CLOSED
  }

  #change(id: string, change: (breaker: Breaker) => Breaker): void {
    const before = this.#breaker(id)
    const after = change(before)
    if (after !== before) keep(this.#breakers, id, after)
  }

  #budget(name: string): RetryBudget {
    const known = this.#budgets.get(name)
    if (known !== undefined) return known
    const budget = new RetryBudget()
    keep(this.#budgets, name, budget)
    return budget
  }
}

/**
 * Where a key's refusals and its limits stand: a refused key is refused for every model, a limit is often the model's. With a
 * mark of the secret, so that a renewed key starts anew under its old name.
 */
function keyIds(provider: string, { name, secret }: ProviderKey, model: string): [string, string] {
  let mark = 0
  for (let index = 0; index < secret.length; index++) mark = Math.imul(mark ^ secret.charCodeAt(index), 0x01000193)
  const id = `${KEY}${provider} ${name} ${mark}`
  return [id, `${id} ${model}`]
}

function keep<T>(map: Map<string, T>, id: string, value: T): void {
  if (!map.has(id) && map.size >= ENTRIES_MAX) {
    const oldest = map.keys().next().value
    if (oldest !== undefined) map.delete(oldest)
  }
  map.set(id, value)
}
