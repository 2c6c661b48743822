// Limits in words. Owns what a limit counts, whose it is and how much of it is used, as text and shares, and how two sets
// differ. ○ Pure.
import { count, shareOf, usd } from './format.ts'
import { labelOf } from './usage.ts'
import type { Names } from './wire.ts'
import type { Limit, LimitMeter, LimitScope, LimitState, LimitWindow } from './wire-admin.ts'

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

/** `Budget per month, Europe/Berlin: $25` */
function limitText({ meter, window, time_zone: zone, max, max_usd: maxUsd, model, hard }: Limit): string {
  const span =
    window === undefined ? '' : ` ${windowText(window)}${zone === undefined || zone === 'UTC' ? '' : `, ${zone}`}`
  const most = maxUsd === undefined ? count(max ?? 0) : `$${maxUsd}`
  const of = model === undefined ? '' : `, of ${model} alone`
  return `${METER_WORDS[meter]}${span}: ${most}${of}${hard ? '' : ', tells and refuses nothing'}`
}

/** What somebody else took out of a set and put in. A limit that says something else is another one. */
export function limitChanges(before: readonly Limit[], after: readonly Limit[]): { gone: string[]; come: string[] } {
  const [old, now] = [before.map(limitText), after.map(limitText)]
  return { gone: old.filter((text) => !now.includes(text)), come: now.filter((text) => !old.includes(text)) }
}
