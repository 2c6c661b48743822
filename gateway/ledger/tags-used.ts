// Which tags requests carried. Owns the list of their names and values over a range, for whoever wants to tell usage apart by one.
//
// Texts of tags are added up as they stand, over the cubes and rollups of any question, and taken apart here.
import { Params } from '../db/params.ts'
import type { Database } from '../db/port.ts'
import { sumSources } from './sources.ts'
import { OTHER_TAGS } from './usage-facts.ts'

/** Different texts that are looked at, those of most requests. */
const TEXTS_MAX = 2_000
/** Values shown of one name: what a list to choose from can hold. */
const VALUES_MAX = 100

export type TagsUsed = { name: string; values: { value: string; requests: number }[] }[]

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
    text: `SELECT g0, sum(requests)::text FROM (${facts}) AS facts WHERE g0 <> '' AND g0 <> '${OTHER_TAGS}'
      GROUP BY g0 HAVING sum(requests) > 0 ORDER BY sum(requests) DESC, g0 LIMIT ${TEXTS_MAX}`,
    params: params.values,
  })
  const byName = new Map<string, Map<string, number>>()
  for (const [text, requests] of rows)
    for (const tag of String(text).split(',')) {
      const [name = '', value = ''] = tag.split('=', 2)
      const values = byName.get(name) ?? new Map<string, number>()
      values.set(value, (values.get(value) ?? 0) + Number(requests))
      byName.set(name, values)
    }
  return [...byName]
    .map(([name, values]) => ({
      name,
      values: [...values]
        .map(([value, requests]) => ({ value, requests }))
        .sort((a, b) => b.requests - a.requests || (a.value < b.value ? -1 : 1))
        .slice(0, VALUES_MAX),
    }))
    .sort((a, b) => total(b.values) - total(a.values) || (a.name < b.name ? -1 : 1))
}

const total = (values: readonly { requests: number }[]): number => values.reduce((sum, one) => sum + one.requests, 0)
