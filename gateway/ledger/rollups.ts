// Rollups made of usage rows. Owns the marks on quarter hours whose rows changed and the rebuilding of those; what is
// counted is usage-facts.ts, when it is time roll-pace.ts, reading them breakdown.ts.
//
// A rollup is never added to: a bucket is deleted and made anew from its rows, in one transaction with its mark. So a crash
// at any point leaves either the mark or the right rollup, and repeating is free.
//
// Writers and rollers meet in the mark's row, and only there; both begin to hold it by an upsert, which cannot miss. A writer
// upserts the mark in the transaction that inserts usage rows; a roller upserts it first, then reads the rows, and deletes it
// last.
// - Under READ COMMITTED whoever comes second waits, and each statement after that sees what the first one committed. So a
//   roller counts every row of the writers before it, and a writer behind it finds the mark gone and makes a new one: its
//   rows are counted by the next roll. A row that is in no rollup always has a mark.
// - Two rollers of one bucket follow each other; the second makes the same rollup again.
// - On serialisable databases the same writes to one row end in 40001 for one of them, and its whole transaction is run
//   again (db/retry.ts).
// An UPDATE alone would not do for the roller: where it waits for a transaction that deletes the mark it holds nothing
// afterwards, and a writer that makes a new one in between would lose it.
import { and, asc, eq, sql } from 'drizzle-orm'
import { builder, query, toStatement } from '../db/orm.ts'
import { type Database, QueryFailed, type Statement } from '../db/port.ts'
import { rollupDirty } from '../db/schema/rollups.ts'
import { errorText, log } from '../observe/log.ts'
import { makeLedgerDays } from './ledger-days.ts'
import { makeCubes, unmade } from './make-cubes.ts'
import type { OutboxEntry } from './outbox.ts'
import { foldsOf } from './tag-folds.ts'
import { BUCKET_MS, bucketStartMs, DIMENSION_COLUMNS, factsByColumns, ROLLED_DIMENSIONS, SUMS } from './usage-facts.ts'

const iso = (atMs: number): string => new Date(atMs).toISOString()

/** An update and no DO NOTHING, which would not hold the row: a roller could delete the mark under rows it did not see. */
const MARK = `INSERT INTO rollup_dirty (org_id, bucket_start, marked_at) VALUES ($1, $2, $3)
  ON CONFLICT (org_id, bucket_start) DO UPDATE SET marked_at = excluded.marked_at`

/**
 * The mark on every bucket that the entries' rows lie in, for the transaction that writes them: one statement per bucket,
 * mostly one or two. Sorted, so that two writers wait for each other in one direction.
 */
export function dirtyBuckets(entries: readonly OutboxEntry[]): Statement[] {
  const marks = new Map<string, [orgId: string, bucketStart: string, markedAt: string]>()
  for (const { attempts, request } of entries)
    for (const { orgId, startedAtMs, recordedAtMs } of request === undefined ? attempts : [...attempts, request]) {
      const bucketStart = iso(bucketStartMs(startedAtMs))
      marks.set(`${orgId} ${bucketStart}`, [orgId, bucketStart, iso(recordedAtMs)])
    }
  return [...marks].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, params]) => ({ text: MARK, params }))
}

export type Rolled = {
  buckets: number
  /** Buckets that were tried and stayed dirty. */
  failed: number
  /** More are dirty than were tried, or hours, days or spans wait to be made. */
  left: boolean
}

/**
 * Rebuilds dirty buckets of an organisation, those that wait longest first, each in a transaction of its own. One that
 * cannot be rebuilt stays dirty and goes behind the others, so that it holds up none.
 * @throws DatabaseUnavailable what was done before stays done
 */
export async function rollUp(database: Database, orgId: string, bucketsMax: number, nowMs: number): Promise<Rolled> {
  const marks = await query(database, (db) =>
    db
      .select({ bucketStart: rollupDirty.bucketStart })
      .from(rollupDirty)
      .where(eq(rollupDirty.orgId, orgId))
      .orderBy(asc(rollupDirty.markedAt), asc(rollupDirty.bucketStart))
      .limit(bucketsMax + 1),
  )
  let failed = 0
  const due = marks.slice(0, bucketsMax)
  for (const { bucketStart } of due) {
    try {
      await database.batch(rebuildStatements(orgId, bucketStart, nowMs))
    } catch (error) {
      failed++
      await postpone(database, orgId, bucketStart, nowMs)
      log('error', 'rollup_failed', { orgId, bucketStart, error: errorText(error) })
      // A bucket that runs into the time limit says the same as a database that is away.
      if (!(error instanceof QueryFailed)) throw error
    }
  }
  const cubesLeft = await makeCubes(database, orgId, nowMs)
  const daysLeft = await makeLedgerDays(database, orgId, nowMs)
  return { buckets: due.length - failed, failed, left: marks.length > bucketsMax || cubesLeft || daysLeft }
}

/** Puts the mark behind the others; where even that fails, the order stays as it was. */
async function postpone(database: Database, orgId: string, bucketStart: string, nowMs: number): Promise<void> {
  const text = `UPDATE rollup_dirty SET marked_at = $3 WHERE org_id = $1 AND bucket_start = $2`
  await database.run({ text, params: [orgId, bucketStart, iso(nowMs)] }).catch(() => {})
}

/** Organisations with dirty buckets, those that wait longest first. */
export async function dirtyOrganisations(database: Database, organisationsMax: number): Promise<string[]> {
  const oldest = sql<string>`min(${rollupDirty.markedAt})`
  const rows = await query(database, (db) =>
    db
      .select({ orgId: rollupDirty.orgId, oldest })
      .from(rollupDirty)
      .groupBy(rollupDirty.orgId)
      .orderBy(oldest, asc(rollupDirty.orgId))
      .limit(organisationsMax),
  )
  return rows.map(({ orgId }) => orgId)
}

export type Backlog = { buckets: number; oldestStart: string | undefined; markedAt: string | undefined }

/** What of an organisation still has to be rolled: how many buckets, the start of the oldest, and the oldest mark. */
export async function backlog(database: Database, orgId: string): Promise<Backlog> {
  const [row] = await query(database, (db) =>
    db
      .select({
        buckets: sql<string>`count(*)::text`,
        oldestStart: sql<string | null>`min(${rollupDirty.bucketStart})`,
        markedAt: sql<string | null>`min(${rollupDirty.markedAt})`,
      })
      .from(rollupDirty)
      .where(eq(rollupDirty.orgId, orgId)),
  )
  return {
    buckets: Number(row?.buckets ?? 0),
    oldestStart: row?.oldestStart ?? undefined,
    markedAt: row?.markedAt ?? undefined,
  }
}

/** Marks every bucket of a range that has usage rows or a rollup: they are made anew. For repairs by hand. */
export async function markRange(
  database: Database,
  orgId: string,
  { fromMs, toMs }: { fromMs: number; toMs: number },
  nowMs: number,
): Promise<number> {
  const start = `to_timestamp(floor(date_part('epoch', started_at) / 900) * 900)`
  const range = (column: string) => `org_id = $1 AND ${column} >= $2::timestamptz AND ${column} < $3::timestamptz`
  const { count } = await database.run({
    text: `INSERT INTO rollup_dirty (org_id, bucket_start, marked_at)
      SELECT $1::uuid, b.bucket_start, $4::timestamptz FROM (
        SELECT ${start} AS bucket_start FROM usage_attempts WHERE ${range('started_at')}
        UNION SELECT ${start} FROM usage_requests WHERE ${range('started_at')}
        UNION SELECT bucket_start FROM usage_rollups WHERE ${range('bucket_start')}) AS b
      ORDER BY b.bucket_start
      ON CONFLICT (org_id, bucket_start) DO UPDATE SET marked_at = excluded.marked_at`,
    params: [orgId, iso(bucketStartMs(fromMs)), iso(bucketStartMs(toMs - 1) + BUCKET_MS), iso(nowMs)],
  })
  return count
}

const COLUMNS = ROLLED_DIMENSIONS.map((dimension) => DIMENSION_COLUMNS[dimension]).join(', ')
const SUM_COLUMNS = SUMS.map(({ column }) => column)
/** $1 organisation, $2 start, $3 end of the bucket, $4 its UTC day, which leads an index of the attempts. */
const IN_BUCKET =
  'org_id = $1::uuid AND started_at >= $2::timestamptz AND started_at < $3::timestamptz AND usage_day = $4::date'
const TEXTS = ['model_requested', 'model_served', 'provider', 'status'].map(
  // Lengths stand before texts, so that no two combinations can be written the same.
  (text) => `length(${text})::text || ':' || ${text}`,
)
/** Added where they are there: combinations without them keep the id they had before there were any. */
const LATER_TEXTS = ['backend_id', 'tags'].map(
  (text) => `coalesce('/${text}' || length(${text})::text || ':' || ${text}, '')`,
)
const UUIDS = ['project_id', 'key_id', 'user_id', 'team_id'].map((uuid) => `coalesce(${uuid}::text, '-')`)
const DIMENSIONS_ID = `md5(${[[...UUIDS, ...TEXTS].join(` || '/' || `), ...LATER_TEXTS].join(' || ')})::uuid`

/** Keeps the time of a mark that is there: where the roll fails it is undone, and where not the mark goes. */
const HOLD = `INSERT INTO rollup_dirty (org_id, bucket_start, marked_at) VALUES ($1, $2, $3)
  ON CONFLICT (org_id, bucket_start) DO UPDATE SET marked_at = rollup_dirty.marked_at`
const REBUILD = [
  `DELETE FROM usage_rollups WHERE org_id = $1::uuid AND bucket_start = $2::timestamptz`,
  `DELETE FROM rollup_folds WHERE org_id = $1::uuid AND bucket_start = $2::timestamptz AND name NOT LIKE '@%'`,
]
/**
 * Rows brought together by combination, with tags as rollups have them: too many of one name are not told apart (tag-folds.ts). The
 * id of a combination is computed once per group, not once per row: it costs more than all the sums. Sums that are 0 are not
 * written: of some forty most are, and absent ones take no room. Each fold has a row: the full join is as in cube-sql.ts.
 */
const REBUILD_FROM_ROWS = `WITH ${foldsOf(IN_BUCKET)},
  grouped AS MATERIALIZED (SELECT ${COLUMNS}, ${SUM_COLUMNS.map((column) => `sum(${column}) AS ${column}`).join(', ')}
    FROM (SELECT ${COLUMNS.replace(/\btags\b/, 'folds.folded AS tags')}, ${SUM_COLUMNS.join(', ')}
      FROM (${factsByColumns(COLUMNS, IN_BUCKET)}) AS found FULL JOIN folds ON folds.tags = found.tags) AS facts GROUP BY ${COLUMNS}),
  made AS MATERIALIZED (SELECT ${DIMENSIONS_ID} AS dimensions_id, * FROM grouped),
  names AS (INSERT INTO rollup_dimensions (org_id, dimensions_id, ${COLUMNS})
    SELECT $1::uuid, dimensions_id, ${COLUMNS} FROM made
    -- In an order, so that rollers of different buckets insert new combinations in one direction.
    ORDER BY dimensions_id ON CONFLICT DO NOTHING),
  folded AS (INSERT INTO rollup_folds (org_id, bucket_start, name) SELECT $1::uuid, $2::timestamptz, name FROM folded_names)
  INSERT INTO usage_rollups (org_id, bucket_start, dimensions_id, ${SUM_COLUMNS.join(', ')})
  SELECT $1::uuid, $2::timestamptz, dimensions_id, ${SUM_COLUMNS.map((column) => `nullif(${column}, 0)::bigint`).join(', ')} FROM made`

function rebuildStatements(orgId: string, bucketStart: string, nowMs: number): Statement[] {
  const identity = [orgId, bucketStart]
  const params = [...identity, iso(Date.parse(bucketStart) + BUCKET_MS), bucketStart.slice(0, 10)]
  const unmark = builder
    .delete(rollupDirty)
    .where(and(eq(rollupDirty.orgId, orgId), eq(rollupDirty.bucketStart, bucketStart)))
  return [
    { text: HOLD, params: [...identity, iso(nowMs)] },
    ...REBUILD.map((text) => ({ text, params: identity })),
    { text: REBUILD_FROM_ROWS, params },
    ...unmade(orgId, bucketStart),
    toStatement(unmark),
  ]
}
