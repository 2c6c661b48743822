// When keys were last used. Owns the statement: of each key the attempt that began last, one look into an index for each, so that nothing
// is written for it when a key is used and the number of requests does not matter.
import type { Database } from '../db/port.ts'

/**
 * $1 organisation, $2 since when, $3 projects with commas between them, or empty for all. Attempts are found by the line of rotations;
 * a key that a newer one of its line replaced was not used after it ended, give or take what was under way.
 */
const LAST_USE = `
  SELECT k.key_id::text, u.ended_at FROM api_keys k CROSS JOIN LATERAL (SELECT a.ended_at FROM usage_attempts a
      WHERE a.org_id = k.org_id AND a.key_line_id = coalesce(k.line_id, k.key_id) AND a.key_id = k.key_id
        AND a.started_at >= $2::timestamptz
        AND a.started_at < coalesce(least(k.revoked_at, k.expires_at), 'infinity'::timestamptz) + interval '1 hour'
      ORDER BY a.started_at DESC LIMIT 1) AS u
    WHERE k.org_id = $1::uuid AND ($3::text = '' OR k.project_id = ANY (string_to_array($3::text, ',')::uuid[]))
    ORDER BY u.ended_at DESC, 1`

export type KeyUse = { keyId: string; lastUsedAt: string }

/** @param projects absent: all. @throws DatabaseUnavailable, QueryFailed */
export async function keysUsed(
  database: Database,
  orgId: string,
  sinceMs: number,
  projects?: readonly string[],
): Promise<KeyUse[]> {
  if (projects?.length === 0) return []
  const { rows } = await database.run({
    text: LAST_USE,
    params: [orgId, new Date(sinceMs).toISOString(), projects?.join(',') ?? ''],
  })
  return rows.map(([keyId, at]) => ({ keyId: String(keyId), lastUsedAt: String(at) }))
}
