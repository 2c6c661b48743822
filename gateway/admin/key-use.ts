// When keys were last used, in the admin API. Owns the HTTP form; the instants come from usage rows (ledger/keys-used.ts), so that nothing
// is written for it when a key is used.
//
//   GET /organisations/:org/key-use      keys that were used in the last 90 days
import { Hono } from 'hono'
import { connect } from '../db/connect.ts'
import { keysUsed } from '../ledger/keys-used.ts'
import type { AdminEnv } from './context.ts'
import { idParam } from './input.ts'
import { requireOrganisation } from './organisations.ts'
import { withinTimeLimit } from './usage-range.ts'

/** A key that was quiet for longer is one to ask about. */
const DAYS = 90

export const keyUseRoutes = new Hono<AdminEnv>().get('/:org/key-use', async (c) => {
  const orgId = idParam(c, 'org', 'organisation')
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  const actor = c.get('actor')
  const projects = actor.kind === 'operator' ? undefined : actor.projects
  const nowMs = Date.now()
  const used = await withinTimeLimit(
    keysUsed(database, orgId, nowMs - DAYS * 86_400_000, projects),
    'See /usage by key instead.',
  )
  return c.json({
    data: used.map(({ keyId, lastUsedAt }) => ({ key_id: keyId, last_used_at: lastUsedAt })),
    data_until: new Date(nowMs).toISOString(),
  })
})
