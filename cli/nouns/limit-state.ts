// `penstock limits state`: how full the limits are, as admission sees them: what has ended and what running requests hold stand
// apart. Owns the command; the numbers and the projection are the gateway's.
import { z } from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import type { Command } from '../command.ts'
import { type Column, type Style, table } from '../output.ts'

const Reading = z.looseObject({
  scope: z.string(),
  subject: z.string().nullable(),
  model: z.string().nullable(),
  meter: z.string(),
  hard: z.boolean(),
  window: z.string().nullable(),
  window_end: z.string().nullable(),
  max: z.string(),
  settled: z.string().nullable(),
  held: z.string(),
  projection: z.looseObject({ value: z.string(), exceeds: z.boolean() }).nullable(),
})
type Reading = z.infer<typeof Reading>
const State = z.looseObject({
  as_of: z.string(),
  truncated: z.boolean(),
  data: z.array(Reading),
  names: z.record(z.string(), z.record(z.string(), z.unknown())),
})

export const limitStateCommand: Command = {
  path: ['limits', 'state'],
  summary: 'How full every limit is: used, held by running requests, and where the window will end at this pace.',
  examples: [{ line: 'penstock limits state', what: 'what refuses requests, and until when' }],
  run: async (context) => {
    const { id } = await context.organisation()
    const answer = await (await context.api()).get(`/organisations/${id}/limits/state`, State)
    const nameOf = nameIn(answer.names)
    const columns: Column<Reading>[] = [
      { title: 'OF', of: (one) => (one.scope === 'org' ? 'organisation' : `${one.scope} ${nameOf(one)}`) },
      { title: 'LIMIT', of: limitOf, style: () => 'bold' },
      { title: 'USED', of: (one) => (one.settled === null ? '?' : amount(one, one.settled)), isRight: true },
      { title: 'HELD', of: (one) => amount(one, one.held), isRight: true },
      { title: 'MOST', of: (one) => amount(one, one.max), isRight: true },
      { title: 'FULL', of: fullness, isRight: true, style: (one) => fullStyle(one) },
      {
        title: 'PROJECTED',
        of: ({ projection, ...one }) => (projection === null ? '-' : amount(one, projection.value)),
        isRight: true,
        style: ({ projection }) => (projection?.exceeds === true ? 'yellow' : undefined),
      },
      { title: 'RENEWS', of: (one) => one.window_end ?? '-', style: () => 'dim' },
    ]
    const lines = [
      ...table(answer.data, columns, context.paint, 'No limit. Set one: penstock limits set money/month=25.00'),
      ...(answer.truncated ? ['There are more; these are the first that the account lists.'] : []),
    ]
    return { data: answer, lines }
  },
}

const amount = ({ meter }: Pick<Reading, 'meter'>, units: string): string =>
  meter === 'money' ? `$${formatUsd(BigInt(units))}` : BigInt(units).toLocaleString('en')

const limitOf = ({ meter, window, model, hard }: Reading): string =>
  `${meter}${window === null ? '' : `/${window}`}${model === null ? '' : ` of ${model}`}${hard ? '' : ' (soft)'}`

/** In thousandths, as whole numbers: nano-dollars of a month do not fit a float. */
const fullMille = ({ settled, held, max }: Reading): bigint | undefined =>
  settled === null || BigInt(max) === 0n ? undefined : (1000n * (BigInt(settled) + BigInt(held))) / BigInt(max)

function fullness(one: Reading): string {
  const mille = fullMille(one)
  return mille === undefined ? '-' : `${(Number(mille) / 10).toFixed(1)}%`
}

function fullStyle(one: Reading): Style | undefined {
  const mille = fullMille(one) ?? 0n
  return mille >= 1000n ? 'red' : mille >= 800n ? 'yellow' : undefined
}

const Named = z.union([z.string(), z.looseObject({ name: z.string() }).transform(({ name }) => name)])

function nameIn(names: z.infer<typeof State>['names']): (one: Reading) => string {
  return ({ scope, subject }) => {
    if (subject === null) return '(each)'
    const found = Named.safeParse(names[`${scope}s`]?.[subject])
    return found.success ? found.data : subject
  }
}
