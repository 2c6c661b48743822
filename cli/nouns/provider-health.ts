// `penstock providers health`: how upstreams did in the last minutes, from rows, and what the gateway's isolate that answers thinks of
// them. Owns the command. Another isolate may think otherwise: the answer says whose view it is.
import { z } from 'zod'
import type { Command } from '../command.ts'
import { type Column, table } from '../output.ts'

const Window = z.looseObject({
  attempts: z.number(),
  ok: z.number(),
  cancelled: z.number(),
  failed: z.number(),
  failures: z.record(z.string(), z.number()),
  output_tokens_per_second: z.number().nullable(),
})
const Target = z.looseObject({
  provider: z.string(),
  model_served: z.string(),
  key: z.string().nullable(),
})
const Breaker = z.looseObject({
  provider: z.string(),
  model: z.string().nullable(),
  standing: z.string(),
  until: z.string().nullable(),
})
const Health = z.looseObject({
  as_of: z.string(),
  windows_minutes: z.tuple([z.number(), z.number()]),
  data: z.array(Target),
  breakers: z.looseObject({ scope: z.string(), targets: z.array(Breaker), keys: z.array(Breaker) }),
})
type Row = { target: z.infer<typeof Target>; short: z.infer<typeof Window>; long: z.infer<typeof Window> }

export const providerHealthCommand: Command = {
  path: ['providers', 'health'],
  summary: 'How each target did in the last minutes, and which are passed over now.',
  examples: [{ line: 'penstock providers health', what: 'why answers come from the second choice' }],
  run: async (context) => {
    const answer = await (await context.api()).get('/providers/health', Health)
    const [shortMin, longMin] = answer.windows_minutes
    const windowOf = (target: Row['target'], minutes: number) => Window.parse(target[`last_${minutes}_minutes`])
    const rows = answer.data.map((target) => ({
      target,
      short: windowOf(target, shortMin),
      long: windowOf(target, longMin),
    }))
    const columns: Column<Row>[] = [
      { title: 'PROVIDER', of: ({ target }) => target.provider, style: () => 'bold' },
      { title: 'MODEL', of: ({ target }) => target.model_served },
      { title: 'KEY', of: ({ target }) => target.key ?? '-' },
      { title: `OK ${shortMin}m`, of: ({ short }) => `${short.ok}/${short.attempts}`, isRight: true, style: styleOf },
      { title: `OK ${longMin}m`, of: ({ long }) => `${long.ok}/${long.attempts}`, isRight: true },
      { title: 'TOKENS/S', of: ({ long }) => String(long.output_tokens_per_second ?? '-'), isRight: true },
      { title: `FAILURES ${longMin}m`, of: ({ long }) => failuresOf(long.failures) },
    ]
    // What answers as it should is no news.
    const barred = [...answer.breakers.targets, ...answer.breakers.keys].filter(({ until }) => until !== null)
    const lines = [
      ...table(rows, columns, context.paint, `Nothing was asked in the last ${longMin} minutes.`),
      ...(barred.length === 0
        ? []
        : [
            '',
            `Passed over (the view of ${answer.breakers.scope}):`,
            ...barred.map(({ provider, model, standing, until }) =>
              context.paint('yellow', `  ${provider}${model === null ? '' : `/${model}`}: ${standing} until ${until}`),
            ),
          ]),
    ]
    return { data: answer, lines }
  },
}

const styleOf = ({ short }: Row) => (short.failed === 0 ? undefined : short.ok === 0 ? 'red' : 'yellow')

const failuresOf = (failures: Record<string, number>): string =>
  Object.entries(failures)
    .map(([code, count]) => `${code} ${count}`)
    .join(', ') || '-'
