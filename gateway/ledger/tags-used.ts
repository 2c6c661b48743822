// Which tags requests carried. Owns the list of their names and values over a range, for whoever wants to tell usage apart by one.
//
// Texts of tags are added up as they stand, over the cubes and rollups of any question, and taken apart after that.
import { Params } from '../db/params.ts'
import type { Database } from '../db/port.ts'
import { sumSources } from './sources.ts'
import { FOLDED } from './tag-folds.ts'

/** Values shown of one name: what a list to choose from can hold. */
const VALUES_MAX = 100
/** Names shown: a caller may make them up as it goes. */
const NAMES_MAX = 200

export type TagsUsed = {
  name: string
  values: { value: string; requests: number }[]
  /** Some of its values were too many to tell apart. */
  folded: boolean
}[]

/** Names by how many requests carried them, values likewise. @throws DatabaseUnavailable, QueryFailed */
export async function tagsUsed(
  database: Database,
  range: { orgId: string; project?: string | undefined; fromMs: number; toMs: number },
): Promise<TagsUsed> {
  const { orgId, fromMs, toMs, project } = range
  const params = new Params()
  const question = { orgId, fromMs, toMs, filters: { project }, dimensions: ['tag'] as const, top: 0, timeZone: 'UTC' }
  const facts = sumSources({ ...question, latency: 'none' }, params)
  const { rows } = await database.run({
    text: `WITH texts AS (SELECT g0, sum(requests) AS requests FROM (${facts}) AS facts WHERE g0 <> '' GROUP BY g0),
      used AS (SELECT split_part(o.tag, '=', 1) AS name, split_part(o.tag, '=', 2) AS value, sum(requests) AS requests
        FROM texts CROSS JOIN LATERAL unnest(string_to_array(g0, ',')) AS o(tag)
        WHERE o.tag <> '${FOLDED}' GROUP BY 1, 2 HAVING sum(requests) > 0),
      placed AS (SELECT *, sum(requests) OVER (PARTITION BY name) AS of_name, row_number() OVER (PARTITION BY name
        ORDER BY CASE WHEN value = '${FOLDED}' THEN 0 ELSE 1 END, requests DESC, value) AS place FROM used)
      SELECT name, value, requests::text FROM placed WHERE place <= ${VALUES_MAX}
      ORDER BY of_name DESC, name, place LIMIT ${NAMES_MAX * VALUES_MAX}`,
    params: params.values,
  })
  const byName = new Map<string, TagsUsed[number]>()
  for (const [name, value, requests] of rows) {
    const used = byName.get(String(name)) ?? { name: String(name), values: [], folded: false }
    if (value === FOLDED) used.folded = true
    else used.values.push({ value: String(value), requests: Number(requests) })
    byName.set(used.name, used)
  }
  return [...byName.values()].slice(0, NAMES_MAX)
}
