// The range of time that a command asks about, and the filters on usage. Owns their flags. Pure.
import type { Query } from './api.ts'
import { type Arguments, type Flag, text } from './command.ts'
import { wrongUsage } from './failure.ts'
import { spanSeconds } from './time.ts'

export const RANGE_FLAGS = {
  last: { type: 'string', value: 'SPAN', help: 'the last 15m, 24h, 30d ...; default 30d' },
  from: {
    type: 'string',
    value: 'TIME',
    help: 'a day (2026-11-01) or a time (2026-11-01T08:00:00Z), in place of --last',
  },
  to: { type: 'string', value: 'TIME', help: 'end of --from, not included; default: now' },
} as const satisfies Record<string, Flag>

/** Names of the flag are those of the API's parameter. */
export const USAGE_FILTERS = {
  model: { type: 'string', value: 'MODEL', help: 'as it was asked for' },
  provider: { type: 'string', value: 'NAME', help: '`fleet` is your own machines' },
  status: { type: 'string', value: 'STATUS', help: '`ok`, `client_cancelled`, or an error code' },
  user: { type: 'string', value: 'ID', help: 'of a user' },
  team: { type: 'string', value: 'ID', help: 'of a team' },
} as const satisfies Record<string, Flag>

const LAST_DEFAULT = '30d'

/** @throws CliFailure `usage` */
export function rangeQuery(args: Arguments, nowMs: number): Query {
  const [last, from, to] = [text(args, 'last'), text(args, 'from'), text(args, 'to')]
  if (last !== undefined && (from !== undefined || to !== undefined))
    throw wrongUsage('--last goes without --from and --to.')
  if (to !== undefined && from === undefined) throw wrongUsage('--to needs --from.')
  if (from !== undefined) return { from, to }
  const seconds = spanSeconds(last ?? LAST_DEFAULT, '--last')
  return { from: new Date(nowMs - seconds * 1000).toISOString(), to: new Date(nowMs).toISOString() }
}

export const filterQuery = (args: Arguments): Query =>
  Object.fromEntries(Object.keys(USAGE_FILTERS).map((name) => [name, text(args, name)]))
