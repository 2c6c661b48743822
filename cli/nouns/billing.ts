// `penstock ledger`, `penstock credit` and `penstock audit`: the books, what an organisation has left, and who did what. Owns these
// commands; a grant has an id made here, so that a repeated command grants once.
import { randomUUID } from 'node:crypto'
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, isSet, positional, text } from '../command.ts'
import type { Context } from '../context.ts'
import { CliFailure, EXIT, wrongUsage } from '../failure.ts'
import { fields, table } from '../output.ts'
import { RANGE_FLAGS, rangeQuery } from '../range.ts'
import { unsent } from '../unsent.ts'

const Check = z.looseObject({
  ok: z.boolean(),
  balanced: z.boolean(),
  complete: z.boolean(),
  matches_usage: z.boolean().optional(),
  wrong_days: z.array(z.looseObject({ id: z.string() })).optional(),
  accounts: z.array(z.looseObject({ name: z.string(), balance_usd: z.string() })),
})
const Entry = z.looseObject({
  occurred_at: z.string(),
  account: z.string(),
  amount_usd: z.string(),
  purpose: z.string(),
  request_id: z.string().nullable(),
})
const Credit = z.looseObject({
  mode: z.string(),
  balance_usd: z.string(),
  held_usd: z.string(),
  available_usd: z.string().optional(),
  overdraft_usd: z.string(),
})
const Grant = z.looseObject({
  id: z.string(),
  kind: z.string(),
  amount_usd: z.string(),
  note: z.string(),
  occurred_at: z.string(),
})
const Act = z.looseObject({
  occurred_at: z.string(),
  actor: z.string(),
  user_id: z.string().nullable(),
  action: z.string(),
  object_id: z.string(),
  address: z.string().nullable(),
})

/** Of lists that go on for ever: the newest. */
const SHOWN = '50'
const page = <T extends z.ZodType>(item: T) => z.object({ data: z.array(item), next_cursor: z.string().optional() })
const cursor = { type: 'string', value: 'CURSOR', help: 'of the page before: its `next_cursor`' } as const

export const billingCommands: readonly Command[] = [
  {
    path: ['ledger', 'check'],
    summary: 'Whether the books agree: every transfer sums to zero, every row has its entries. Exit code 1 where not.',
    flags: { from: RANGE_FLAGS.from, to: RANGE_FLAGS.to },
    examples: [{ line: 'penstock ledger check --json', what: 'every night, for every organisation' }],
    run: async (context, args) => {
      const { id: org } = await context.organisation()
      const query = text(args, 'from') === undefined ? {} : rangeQuery(args, context.nowMs())
      const answer = await (await context.api()).get('/ledger/check', Check, { org, ...query })
      const says = (holds: boolean | undefined) => (holds === undefined ? undefined : holds ? 'yes' : 'NO')
      const lines = [
        ...fields(
          [
            ['agrees', says(answer.ok)],
            ['balanced', says(answer.balanced)],
            ['complete', says(answer.complete)],
            ['matches usage', says(answer.matches_usage)],
            ['wrong days', answer.wrong_days?.map(({ id }) => id).join(', ') || undefined],
          ],
          context.paint,
        ),
        '',
        ...table(
          answer.accounts,
          [
            { title: 'ACCOUNT', of: ({ name }) => name },
            { title: 'BALANCE $', of: ({ balance_usd: usd }) => usd, isRight: true },
          ],
          context.paint,
          'No account yet.',
        ),
      ]
      return { data: answer, lines, exitCode: answer.ok ? EXIT.done : EXIT.failed }
    },
  },
  {
    path: ['ledger', 'list'],
    summary: 'Entries of the ledger, the newest first.',
    flags: { ...RANGE_FLAGS, account: { type: 'string', value: 'NAME', help: 'of one account' }, cursor },
    examples: [{ line: 'penstock ledger list --last 1d', what: 'what was booked today' }],
    run: async (context, args) => {
      const { id: org } = await context.organisation()
      const query = {
        org,
        ...rangeQuery(args, context.nowMs()),
        account: text(args, 'account'),
        cursor: text(args, 'cursor'),
        limit: SHOWN,
      }
      const answer = await (await context.api()).get('/ledger/entries', page(Entry), query)
      const lines = table(
        answer.data,
        [
          { title: 'TIME', of: (one) => one.occurred_at, style: () => 'dim' },
          { title: 'ACCOUNT', of: (one) => one.account },
          { title: 'AMOUNT $', of: (one) => one.amount_usd, isRight: true },
          { title: 'FOR', of: (one) => one.purpose },
          { title: 'REQUEST', of: (one) => one.request_id ?? '-', style: () => 'dim' },
        ],
        context.paint,
        'No entry.',
      )
      return { data: answer.data, lines, nextCursor: answer.next_cursor }
    },
  },
  {
    path: ['credit', 'show'],
    summary: 'What the organisation has paid, what running requests hold, and what is left.',
    examples: [{ line: 'penstock credit show', what: 'holds stand apart from what was spent' }],
    run: async (context) => {
      const { id } = await context.organisation()
      const answer = await (await context.api()).get(`/organisations/${id}/credit`, Credit)
      const lines = fields(
        [
          ['pays', answer.mode],
          ['balance', `$${answer.balance_usd}`],
          ['held', `$${answer.held_usd}`],
          ['overdraft', `$${answer.overdraft_usd}`],
          ['available', answer.available_usd === undefined ? undefined : `$${answer.available_usd}`],
        ],
        context.paint,
      )
      return { data: answer, lines }
    },
  },
  {
    path: ['credit', 'grant'],
    summary: 'Book a payment or a promotion; below zero takes back.',
    positionals: [{ name: 'USD', help: 'dollars, e.g. 25.00; after `--` also -5.00' }],
    flags: {
      kind: { type: 'string', choices: ['payment', 'promotion'], help: 'default payment' },
      note: { type: 'string', value: 'TEXT', help: 'stands on the statement' },
      id: { type: 'string', value: 'UUID', help: 'of the grant: the same id again grants nothing; default: a new one' },
    },
    examples: [
      {
        line: 'penstock credit grant 25.00 --id 2f0c7a52-7d5c-4f5e-9a35-0a4f2f0d6d11 --note "invoice 17"',
        what: 'safe to repeat in a script',
      },
    ],
    changes: true,
    run: grant,
  },
  {
    path: ['audit', 'list'],
    summary: 'Who changed what, the newest first.',
    flags: {
      action: { type: 'string', value: 'ACTION', help: 'e.g. key.create' },
      actor: { type: 'string', value: 'WHO', help: '`operator`, or the id of a user' },
      all: { type: 'boolean', help: 'of every organisation, and what belongs to none; for the operator' },
      cursor,
    },
    examples: [{ line: 'penstock audit list --action key.create', what: 'every key that was made' }],
    run: async (context, args) => {
      const query = {
        org_id: isSet(args, 'all') ? undefined : (await context.organisation()).id,
        action: text(args, 'action'),
        actor: text(args, 'actor'),
        cursor: text(args, 'cursor'),
        limit: SHOWN,
      }
      const answer = await (await context.api()).get('/audit', page(Act), query)
      const lines = table(
        answer.data,
        [
          { title: 'TIME', of: (one) => one.occurred_at, style: () => 'dim' },
          { title: 'WHO', of: (one) => one.user_id ?? one.actor },
          { title: 'ACTION', of: (one) => one.action, style: () => 'bold' },
          { title: 'OBJECT', of: (one) => one.object_id },
          { title: 'FROM', of: (one) => one.address ?? '-', style: () => 'dim' },
        ],
        context.paint,
        'Nothing was changed.',
      )
      return { data: answer.data, lines, nextCursor: answer.next_cursor }
    },
  },
]

async function grant(context: Context, args: Arguments) {
  const amount = positional(args, 'USD')
  if (!/^-?\d+(\.\d{1,9})?$/.test(amount)) throw wrongUsage(`${amount} is no amount of dollars, such as 25.00.`)
  const { id: org } = await context.organisation()
  const body = {
    id: text(args, 'id') ?? randomUUID(),
    kind: text(args, 'kind') ?? 'payment',
    amount_usd: amount,
    note: text(args, 'note'),
  }
  const answer = await (await context.api())
    .change('POST', `/organisations/${org}/credit/grants`, Grant, body)
    .catch((error: unknown) => {
      if (!(error instanceof CliFailure) || error.exitCode !== EXIT.unavailable) throw error
      // It may be booked already: under another id it would be booked twice.
      const { exitCode, message, code, requestId } = error
      throw new CliFailure(exitCode, message, { code, requestId, hint: `Repeat it with --id ${body.id}.` })
    })
  if (isUnsent(answer)) return unsent(answer)
  return { data: answer, lines: [`Booked $${answer.amount_usd} as ${answer.kind}, ${answer.id}.`] }
}
