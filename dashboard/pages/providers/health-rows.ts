// How targets do, one row each: what the record says of the last minutes, beside what the isolate that answered knows of their breakers.
// Owns putting both together, with the targets that models name and nobody has called. ○ Pure.
import type {
  BreakerStanding,
  HealthWindow,
  KeyBreaker,
  Model,
  Provider,
  ProvidersHealth,
  TargetBreaker,
} from '../../app/wire-admin.ts'

export type HealthRow = {
  id: string
  provider: string
  model: string
  /** Absent: own machines, stored answers, or nobody called it. */
  key: string | undefined
  /** Absent: no attempt in an hour. */
  window: HealthWindow | undefined
  breaker: TargetBreaker | undefined
  /** Of the row's key: for this model, or for all. */
  keyBreaker: KeyBreaker | undefined
}

export function healthRows(health: ProvidersHealth, models: readonly Model[], minutes: 5 | 60): HealthRow[] {
  const { targets, keys } = health.breakers
  const breakerOf = (provider: string, model: string) =>
    targets.find((one) => one.provider === provider && one.model === model)
  const rows = health.data.map((one): HealthRow => {
    const { provider, model_served: model, key } = one
    const window = minutes === 5 ? one.last_5_minutes : one.last_60_minutes
    return {
      id: `${provider}\n${model}\n${key ?? ''}`,
      provider,
      model,
      key: key ?? undefined,
      window: window.attempts === 0 ? undefined : window,
      breaker: breakerOf(provider, model),
      keyBreaker: keys.find(
        (known) => known.provider === provider && known.key === key && (known.model === null || known.model === model),
      ),
    }
  })
  const seen = new Set(rows.map(({ provider, model }) => `${provider}\n${model}`))
  const quiet = [...models.flatMap(({ targets: all }) => all), ...targets].flatMap(
    ({ provider, model }): HealthRow[] => {
      const id = `${provider}\n${model}`
      if (seen.has(id)) return []
      seen.add(id)
      const breaker = breakerOf(provider, model)
      return [{ id, provider, model, key: undefined, window: undefined, breaker, keyBreaker: undefined }]
    },
  )
  return [...rows, ...quiet]
}

/** Attempts that somebody waited for: of them the share that answered. */
export function successOf({ ok, failed }: HealthWindow): number | undefined {
  return ok + failed === 0 ? undefined : ok / (ok + failed)
}

/** Most first. */
export const failuresOf = ({ failures }: HealthWindow): [string, number][] =>
  Object.entries(failures).sort(([, a], [, b]) => b - a)

export const STANDING_WORDS: Readonly<Record<BreakerStanding, string>> = {
  closed: 'Closed',
  half_open: 'Half open',
  resting: 'Resting',
  barred: 'Barred',
}
export const STANDING_KINDS = { closed: 'good', half_open: 'warning', resting: 'danger', barred: 'danger' } as const
export const STANDING_ABOUT: Readonly<Record<BreakerStanding, string>> = {
  closed: 'Asked in its turn',
  half_open: 'The next request probes it',
  resting: 'Asked after all others until its rest is over',
  barred: 'Not asked until its rest is over',
}

export type KeyRow = {
  id: string
  provider: string
  name: string
  weight: number
  disabled: boolean
  /** Of the requests among the provider's keys; 0 where it is disabled. */
  share: number
  breakers: KeyBreaker[]
}

export function keyRows(providers: readonly Provider[], health: ProvidersHealth): KeyRow[] {
  return providers.flatMap(({ name: provider, keys }) => {
    const weights = keys.reduce((sum, { disabled, weight }) => sum + (disabled ? 0 : weight), 0)
    return keys.map(({ name, weight, disabled }) => ({
      id: `${provider}\n${name}`,
      provider,
      name,
      weight,
      disabled,
      share: disabled || weights === 0 ? 0 : weight / weights,
      breakers: health.breakers.keys.filter((one) => one.provider === provider && one.key === name),
    }))
  })
}

/** Sums over rows that have a window. */
export function totals(rows: readonly HealthRow[]) {
  const sums = { attempts: 0, ok: 0, failed: 0, cancelled: 0, perMinute: 0 }
  for (const { window } of rows) {
    if (window === undefined) continue
    sums.attempts += window.attempts
    sums.ok += window.ok
    sums.failed += window.failed
    sums.cancelled += window.cancelled
    sums.perMinute += window.attempts_per_minute
  }
  return sums
}
