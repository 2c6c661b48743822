// `penstock sessions`: browsers that are signed in to the dashboard. Owns these commands; letting one in is people.ts (`sign-in`).
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Command, isSet, positional } from '../command.ts'
import { table } from '../output.ts'
import { ago } from '../time.ts'
import { unsent } from '../unsent.ts'

const Session = z.looseObject({
  id: z.string(),
  kind: z.string(),
  name: z.string().nullable(),
  email: z.string().nullable(),
  signed_in_by: z.string(),
  created_at: z.string(),
  last_seen_at: z.string(),
  expires_at: z.string(),
  address: z.string().nullable(),
})
const Ended = z.object({ ended: z.boolean() })

export const sessionCommands: readonly Command[] = [
  {
    path: ['sessions', 'list'],
    summary: 'Browsers that are signed in to the dashboard.',
    flags: { all: { type: 'boolean', help: 'of every organisation and of the operator; for the operator' } },
    examples: [{ line: 'penstock sessions list --all', what: 'who could look now' }],
    run: async (context, args) => {
      const query = isSet(args, 'all') ? {} : { org: (await context.organisation()).id }
      const sessions = await (await context.api()).list('/sessions', Session, query)
      const now = context.nowMs()
      const lines = table(
        sessions,
        [
          { title: 'WHO', of: (one) => one.email ?? one.name ?? one.kind, style: () => 'bold' },
          { title: 'BY', of: (one) => one.signed_in_by },
          { title: 'SIGNED IN', of: (one) => ago(one.created_at, now) },
          { title: 'SEEN', of: (one) => ago(one.last_seen_at, now) },
          { title: 'UNTIL', of: (one) => one.expires_at, style: () => 'dim' },
          { title: 'FROM', of: (one) => one.address ?? '-', style: () => 'dim' },
          { title: 'ID', of: (one) => one.id, style: () => 'dim' },
        ],
        context.paint,
        'No browser is signed in. Let one in: penstock sign-in',
      )
      return { data: sessions, lines }
    },
  },
  {
    path: ['sessions', 'end'],
    summary: 'Sign a browser out, from its next request on.',
    positionals: [{ name: 'SESSION', help: 'its id' }],
    examples: [
      { line: 'penstock sessions end 6b1c2a90-0000-4000-8000-000000000000 --yes', what: 'a laptop that was lost' },
    ],
    changes: true,
    destroys: true,
    run: async (context, args) => {
      const id = positional(args, 'SESSION').toLowerCase()
      await context.confirm('Sign this browser out?')
      const answer = await (await context.api()).change('DELETE', `/sessions/${encodeURIComponent(id)}`, Ended)
      if (isUnsent(answer)) return unsent(answer)
      return { data: answer, lines: ['It is signed out.'] }
    },
  },
]
