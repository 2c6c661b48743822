// Which of a provider's keys a request uses. Owns the choice; how each key has done lately is health.ts. Pure.
import type { ProviderKey } from '../policy/plan.ts'
import type { Standing } from './breaker.ts'

export type KeyStanding = {
  standing: Standing
  /** When it may be used again, where it is barred or rests. Epoch ms. */
  untilMs: number
}

/** `untilMs`: every key is barred, the first until then. */
export type KeyChoice = { key: ProviderKey } | { untilMs: number }

/**
 * By weight among the keys that are well; else the one whose rest ends first; a barred key is not used at all. Undefined
 * where every key was tried.
 * @param random In [0, 1).
 */
export function chooseKey(
  keys: readonly ProviderKey[],
  standingOf: (key: ProviderKey) => KeyStanding,
  tried: ReadonlySet<string>,
  random: number,
): KeyChoice | undefined {
  const untried = keys.filter(({ name }) => !tried.has(name)).map((key) => ({ key, ...standingOf(key) }))
  const well = untried.filter(({ standing }) => standing === 'closed' || standing === 'half_open')
  if (well.length > 0)
    return {
      key: byWeight(
        well.map(({ key }) => key),
        random,
      ),
    }
  const byTime = untried.toSorted((a, b) => a.untilMs - b.untilMs)
  const resting = byTime.find(({ standing }) => standing === 'resting')
  if (resting !== undefined) return { key: resting.key }
  const [barred] = byTime
  return barred === undefined ? undefined : { untilMs: barred.untilMs }
}

function byWeight(keys: readonly ProviderKey[], random: number): ProviderKey {
  const total = keys.reduce((sum, { weight }) => sum + weight, 0)
  let left = random * total
  for (const key of keys) {
    left -= key.weight
    if (left < 0) return key
  }
  const last = keys.at(-1)
  if (last === undefined) throw new Error('no keys to choose among')
  return last
}
