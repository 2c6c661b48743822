// POST /v1/usage/import: what clients used past the gateway while it was away, with keys of their own. Owns the route and the
// storing; the body is protocol/usage-import.ts, showing it admin/client-reported.ts. Whose a record is says the key alone. Nothing
// here reaches the account or the ledger: it is shown, never billed, and no limit counts it.
import { Hono } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import {
  checkedCall,
  IMPORT_BODY_BYTES_MAX,
  IMPORT_RECORDS_MAX,
  type ImportAnswer,
  type ImportOutcome,
  type ReportedCall,
  USAGE_IMPORT_PATH,
  UsageImport,
} from '../../protocol/usage-import.ts'
import type { Ports } from '../attempts.ts'
import type { Principal } from '../auth/principal.ts'
import { connect } from '../db/connect.ts'
import { type Database, DatabaseUnavailable } from '../db/port.ts'
import { failureResponse } from '../errors.ts'
import { PART_NAMES, USAGE_PARTS } from '../meter/usage.ts'
import { log } from '../observe/log.ts'
import { parseJson, readBody } from './body.ts'
import type { AppEnv } from './context.ts'
import { KeyPace } from './key-pace.ts'

/** A client back from an outage posts all that it kept, in some dozens of calls; more than this fills a table. */
const IMPORTS = { perMinuteMax: 60, openMax: 4 }
const PACE_RETRY_MS = 15_000
/** Clients keep what they could not post; no hurry. */
const AWAY_RETRY_MS = 5_000
/** Statements on the bodies of this route only look at its bytes. */
const BODY_MS_MAX = 30_000

const PARTS = USAGE_PARTS.map((part) => PART_NAMES[part])
const COLUMNS: readonly (readonly [name: string, type: string])[] = [
  ['report_id', 'uuid'],
  ['model', 'text'],
  ['provider', 'text'],
  ['status', 'text'],
  ['attempts', 'int'],
  ['reason', 'text'],
  ['tags', 'text'],
  ...PARTS.map((name) => [name, 'bigint'] as const),
  ['started_at', 'timestamptz'],
  ['ended_at', 'timestamptz'],
]
const NAMES = COLUMNS.map(([name]) => name).join(', ')
/** $1 organisation, $2 project, $3 key, $4 now, $5 the rows as JSON: one statement, however many they are. */
const INSERT = `
  INSERT INTO client_reported_usage (org_id, project_id, key_id, recorded_at, ${NAMES})
    SELECT $1::uuid, $2::uuid, $3::uuid, $4::timestamptz, ${NAMES}
      FROM json_to_recordset($5::text::json) AS r(${COLUMNS.map(([name, type]) => `${name} ${type}`).join(', ')})
    ON CONFLICT DO NOTHING RETURNING report_id::text`

export function usageImportRoutes(ports: Ports) {
  const pace = new KeyPace(IMPORTS)
  return new Hono<AppEnv>().post(USAGE_IMPORT_PATH, async (c) => {
    const refused = (failure: Failure) => failureResponse(failure, c.get('requestId'))
    const records = await readRecords(c.req.raw)
    if (!records.ok) return refused(records.error)
    const principal = c.get('principal')
    const end = pace.begin(principal.keyId, ports.nowMs())
    if (end === undefined) {
      const message = `Usage may be reported ${IMPORTS.perMinuteMax} times a minute with one key.`
      return refused({ code: 'rate_limited', message, retryAfterMs: PACE_RETRY_MS })
    }
    try {
      return c.json(await imported(connect(c.env), principal, records.value, ports.nowMs()))
    } catch (error) {
      if (!(error instanceof DatabaseUnavailable)) throw error
      log('warn', 'usage_import_unavailable', { requestId: c.get('requestId'), reason: error.message })
      const message =
        'Usage cannot be recorded now. Post the same records again: what was stored already is not stored twice.'
      return refused({ code: 'unavailable', message, retryAfterMs: AWAY_RETRY_MS })
    } finally {
      end()
    }
  })
}

async function readRecords(request: Request): Promise<Result<unknown[], Failure>> {
  const body = await readBody(request, IMPORT_BODY_BYTES_MAX, BODY_MS_MAX)
  if (!body.ok) return body
  const json = parseJson(body.value)
  if (!json.ok) return json
  const parsed = UsageImport.safeParse(json.value)
  if (parsed.success) return ok(parsed.data.records)
  const message = `The body must be {"records": […]} with 1 to ${IMPORT_RECORDS_MAX} records, and nothing else.`
  return err({ code: 'invalid_request', message, param: 'records' })
}

/** Stores what can be believed and is not there yet. @throws DatabaseUnavailable where it may or may not have been stored */
async function imported(
  database: Database,
  principal: Principal,
  records: readonly unknown[],
  nowMs: number,
): Promise<ImportAnswer> {
  const checked = records.map((record) => checkedCall(record, nowMs))
  const calls = new Map<string, ReportedCall>()
  for (const one of checked) if (one.ok && !calls.has(one.call.id)) calls.set(one.call.id, one.call)
  const fresh = await stored(database, principal, [...calls.values()], nowMs)
  const results = checked.map((one, index): ImportOutcome => {
    if (!one.ok) return { index, outcome: 'refused', why: one.why, ...(one.id === undefined ? {} : { id: one.id }) }
    // Of records with one id the first is the one that was stored.
    return { index, id: one.call.id, outcome: fresh.delete(one.call.id) ? 'accepted' : 'duplicate' }
  })
  const count = (wanted: ImportOutcome['outcome']) => results.filter(({ outcome }) => outcome === wanted).length
  return { accepted: count('accepted'), duplicates: count('duplicate'), refused: count('refused'), results }
}

/** @returns ids of the rows that were not there before. */
async function stored(
  database: Database,
  { orgId, projectId, keyId }: Principal,
  calls: readonly ReportedCall[],
  nowMs: number,
): Promise<Set<string>> {
  if (calls.length === 0) return new Set()
  const rows = calls.map(({ id, usage, tags, ...call }) => ({
    ...call,
    ...usage,
    report_id: id,
    ...(tags === undefined ? {} : { tags: tagsText(tags) }),
  }))
  const params = [orgId, projectId, keyId, new Date(nowMs).toISOString(), JSON.stringify(rows)]
  const { rows: written } = await database.run({ text: INSERT, params })
  return new Set(written.map(([id]) => String(id)))
}

/** As usage rows have it. */
const tagsText = (tags: Record<string, string>): string | undefined =>
  Object.entries(tags)
    .map(([name, value]) => `${name}=${value}`)
    .toSorted()
    .join(',') || undefined
