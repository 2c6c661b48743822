// Limits in words. Owns what a limit counts, whose it is and how much of it is used, as text and shares. ○ Pure.
import { count, shareOf, usd } from './format.ts'
import { labelOf } from './usage.ts'
import type { Names } from './wire.ts'
import type { LimitMeter, LimitScope, LimitState, LimitWindow } from './wire-admin.ts'

export const METER_WORDS: Readonly<Record<LimitMeter, string>> = {
  money: 'Budget',
  requests: 'Requests',
  input_tokens: 'Input tokens',
  output_tokens: 'Output tokens',
  concurrency: 'Requests at once',
}

export const SCOPE_WORDS: Readonly<Record<LimitScope, string>> = {
  org: 'organisation',
  project: 'project',
  team: 'team',
  user: 'user',
  key: 'key',
  end_user: 'end user',
}

export const windowText = (window: LimitWindow | null | undefined): string =>
  window === null || window === undefined ? 'at once' : window === 'lifetime' ? 'in all' : `per ${window}`

/** Whose counter it is: a name, `Organisation`, or `Each key` where nobody has counted yet. */
export function subjectText(scope: LimitScope, id: string, names: Names | undefined): string {
  if (scope === 'org') return 'Organisation'
  if (id === '*') return `Each ${SCOPE_WORDS[scope]}`
  return scope === 'end_user' ? id : labelOf(id, scope, names)
}

/** An amount of a meter: dollars, or a count. */
export const amountText = (meter: LimitMeter, value: bigint): string => (meter === 'money' ? usd(value) : count(value))

/** Settled and held together, of the most. A limit of nothing is full. */
export function fullness({ settled, held, max }: Pick<LimitState, 'settled' | 'held' | 'max'>): number {
  const used = BigInt(settled ?? '0') + BigInt(held)
  return BigInt(max) === 0n ? 1 : shareOf(used, BigInt(max))
}
