// When keys were last used, in the admin API. Owns the HTTP form; the instants come from rollups, so that nothing is written for it when
// a key is used, and trail what happened by as much as those do.
//
//   GET /organisations/:org/key-use      keys that were used in the last 90 days
import { Hono } from 'hono'
import { connect } from '../db/connect.ts'
import { backlog } from '../ledger/rollups.ts'
import type { AdminEnv } from './context.ts'
import { idParam } from './input.ts'
import { requireOrganisation } from './organisations.ts'
import { withinTimeLimit } from './usage-range.ts'

/** A key that was quiet for longer is one to ask about. */
const DAYS = 90

/** $1 organisation, $2 since when, $3 projects with commas between them, or empty for all. */
const LAST_USE = `
  SELECT d.key_id::text, max(r.last_ended_at) FROM (SELECT dimensions_id, max(last_ended_at) AS last_ended_at FROM usage_rollups
      WHERE org_id = $1::uuid AND bucket_start >= $2::timestamptz GROUP BY dimensions_id) AS r
    JOIN rollup_dimensions d ON d.org_id = $1::uuid AND d.dimensions_id = r.dimensions_id
    WHERE d.key_id IS NOT NULL AND ($3::text = '' OR d.project_id = ANY (string_to_array($3::text, ',')::uuid[]))
    GROUP BY d.key_id ORDER BY 2 DESC, 1`

export const keyUseRoutes = new Hono<AdminEnv>().get('/:org/key-use', async (c) => {
  const orgId = idParam(c, 'org', 'organisation')
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  const actor = c.get('actor')
  const projects = actor.kind === 'operator' ? undefined : actor.projects
  const nowMs = Date.now()
  const since = new Date(nowMs - DAYS * 86_400_000).toISOString()
  const { oldestStart } = await backlog(database, orgId)
  const bound = projects === undefined ? '' : projects.length === 0 ? crypto.randomUUID() : projects.join(',')
  const { rows } = await withinTimeLimit(
    database.run({ text: LAST_USE, params: [orgId, since, bound] }),
    'See /usage by key instead.',
  )
  const now = new Date(nowMs).toISOString()
  return c.json({
    data: rows.map(([key, at]) => ({ key_id: String(key), last_used_at: String(at) })),
    data_until: oldestStart !== undefined && oldestStart < now ? oldestStart : now,
  })
})
