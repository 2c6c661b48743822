// Tags of which there are too many. Owns how many values of a name one quarter hour tells apart, the SQL that brings the others together,
// the record of where that happened, and how a value is read from a text of tags; the roller is rollups.ts, readers are sources.ts
// and tags-used.ts.
//
// Tags stand in a row as `env=prod,run=r17`. A caller that files each request under an id of its own would make rollups as long as its
// rows, so values beyond what is told become `*`, each name by itself: `env=prod,run=*`. A name with few values keeps all of them,
// whatever stands beside it. Of names that are too many themselves a `*` alone is left: `*,env=prod`.
import { Params } from '../db/params.ts'
import type { Database } from '../db/port.ts'

/** In the place of a value, or of a whole tag. No tag reads like it. */
export const FOLDED = '*'
/**
 * A name with more values than this in a quarter hour keeps those of at least one in so many of its rows: a few large customers
 * among many are told, ids that come once or twice are not. So at most this many are kept either way.
 */
const VALUES_TOLD = 64
/** Names that a quarter hour tells, those of most rows: callers choose the values at run time, names mostly not. */
const NAMES_TOLD = 32

/** Under which name a fold of end users in a cube's units is on record: no tag's name reads like it. */
export const foldOf = (prefix: string, cube: string): string => `@${prefix}${cube}`

/**
 * Queries of a WITH: `folds` has a text of tags as rows have it and `folded` as rollups have it; `folded_names` what was folded.
 * @param inBucket condition on rows of attempts and requests
 */
export const foldsOf = (inBucket: string): string => `
  tag_texts AS MATERIALIZED (SELECT tags, sum(n) AS n FROM (
      SELECT tags, count(*) AS n FROM usage_attempts WHERE ${inBucket} AND tags IS NOT NULL GROUP BY tags
      UNION ALL SELECT tags, count(*) FROM usage_requests WHERE ${inBucket} AND tags IS NOT NULL GROUP BY tags) AS used GROUP BY tags),
  single_tags AS MATERIALIZED (SELECT x.tags, o.tag, split_part(o.tag, '=', 1) AS name, x.n
    FROM tag_texts x CROSS JOIN LATERAL unnest(string_to_array(x.tags, ',')) AS o(tag)),
  tag_values AS MATERIALIZED (SELECT name, tag, sum(n) AS n FROM single_tags GROUP BY name, tag),
  tag_names AS MATERIALIZED (SELECT name, count(*) AS of_values, sum(n) AS n,
    row_number() OVER (ORDER BY sum(n) DESC, name) AS place FROM tag_values GROUP BY name),
  words AS MATERIALIZED (SELECT v.tag, v.name, CASE WHEN m.place > ${NAMES_TOLD} THEN '${FOLDED}'
      WHEN m.of_values <= ${VALUES_TOLD} OR v.n * ${VALUES_TOLD} >= m.n THEN v.tag ELSE v.name || '=${FOLDED}' END AS word
    FROM tag_values v JOIN tag_names m ON m.name = v.name),
  folds AS MATERIALIZED (SELECT s.tags, string_agg(DISTINCT w.word, ',' ORDER BY w.word) AS folded
    FROM single_tags s JOIN words w ON w.tag = s.tag GROUP BY s.tags),
  folded_names AS (SELECT DISTINCT CASE WHEN word = '${FOLDED}' THEN word ELSE name END AS name FROM words WHERE word <> tag)`

/** SQL: the value of a tag in a text, '' without one, FOLDED where that is not known. */
export function valueIn(column: string, name: string, params: Params): string {
  const value = `split_part(split_part(',' || ${column}, ${params.add(`,${name}=`)}::text, 2), ',', 1)`
  return `coalesce(nullif(${value}, ''), CASE WHEN ${hasFoldedName(column)} THEN '${FOLDED}' END, '')`
}

/** SQL: whether a text of tags has `name=value`, or for `!name` none of that name. */
export function isTagged(column: string, wanted: string, params: Params): string {
  const place = (text: string) => `${params.add(text)}::text`
  if (!wanted.startsWith('!')) return `strpos(',' || ${column} || ',', ${place(`,${wanted},`)}) > 0`
  const isThere = `strpos(',' || ${column}, ${place(`,${wanted.slice(1)}=`)}) > 0 OR ${hasFoldedName(column)}`
  return `NOT coalesce(${isThere}, false)`
}

const hasFoldedName = (column: string): string => `strpos(',' || ${column} || ',', ',${FOLDED},') > 0`

/** Whether a unit of the range does not tell all values of one of the names. @throws DatabaseUnavailable, QueryFailed */
export async function wasFolded(
  database: Database,
  { orgId, fromMs, toMs }: { orgId: string; fromMs: number; toMs: number },
  names: readonly string[],
): Promise<boolean> {
  const params = new Params()
  const iso = (atMs: number) => params.add(new Date(atMs).toISOString())
  const asked = names.map((name) => params.add(name)).join(', ')
  const { rows } = await database.run({
    text: `SELECT 1 FROM rollup_folds WHERE org_id = ${params.add(orgId)} AND name IN (${asked})
      AND bucket_start >= ${iso(fromMs)}::timestamptz AND bucket_start < ${iso(toMs)}::timestamptz LIMIT 1`,
    params: params.values,
  })
  return rows.length > 0
}
