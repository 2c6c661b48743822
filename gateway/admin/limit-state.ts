// How full the limits of an organisation are, in the admin API. Owns the HTTP form and the projection; the numbers are the account's
// own (account/limit-reader.ts), which is what admission compares.
//
//   GET /organisations/:org/limits/state       `as_of` and `age_ms` say when the account was asked (limit-readings.ts)
//
// The projection is linear: what the window has counted, at the pace of the window so far, continued to its end. It says nothing
// early in a window, where one request would be taken for a habit, and nothing of windows too short to act in.
import { Hono } from 'hono'
import { type CountedLimit, EACH, type LimitWindow } from '../account/limit.ts'
import type { LimitReading } from '../account/limit-reader.ts'
import { maxOf } from '../account/rule-index.ts'
import type { WindowSpan } from '../account/windows.ts'
import { connect } from '../db/connect.ts'
import type { AdminEnv } from './context.ts'
import { idParam } from './input.ts'
import { readLimits } from './limit-readings.ts'
import { namesOf } from './names.ts'
import { requireOrganisation } from './organisations.ts'
import { moneyJson } from './usage-json.ts'

/** Share of a window that has to be over. */
const PROJECTED_FROM = 0.02
const PROJECTED: readonly LimitWindow[] = ['hour', 'day', 'month']

export const limitStateRoutes = new Hono<AdminEnv>().get('/:org/limits/state', async (c) => {
  const orgId = idParam(c, 'org', 'organisation')
  await requireOrganisation(connect(c.env), orgId)
  const { readings: read, readAtMs } = await readLimits(c.env, orgId, Date.now())
  const { version, readings, truncated, heldNanoUsd } = read
  const nowMs = Date.now()
  return c.json({
    org_id: orgId,
    as_of: new Date(readAtMs).toISOString(),
    /** How long ago the account said so; viewers who ask within a second share an answer. */
    age_ms: Math.max(0, nowMs - readAtMs),
    rules_version: version ?? null,
    ...moneyJson('held', heldNanoUsd),
    truncated,
    data: readings.map((reading) => readingJson(reading, readAtMs)),
    names: await namesOf(c, orgId, idsOf(readings)),
  })
})

function idsOf(readings: readonly LimitReading[]): Parameters<typeof namesOf>[2] {
  const at = (scope: string) => readings.flatMap(({ limit, subject }) => (limit.scope === scope ? [subject] : []))
  return { projects: at('project'), keys: at('key'), users: at('user'), teams: at('team') }
}

function readingJson({ limit, subject, span, settled, held }: LimitReading, nowMs: number) {
  const isCounted = limit.meter !== 'concurrency'
  const max = isCounted ? maxOf(limit) : BigInt(limit.max)
  const left = settled === undefined ? undefined : max - settled - held
  return {
    limit_id: limit.limitId,
    scope: limit.scope,
    scope_id: limit.scopeId,
    subject: subject ?? (limit.scopeId === EACH ? null : limit.scopeId),
    model: limit.model ?? null,
    meter: limit.meter,
    hard: limit.hard,
    window: isCounted ? limit.window : null,
    time_zone: isCounted ? limit.timeZone : null,
    window_start: instant(span?.startMs),
    window_end: instant(span?.endMs),
    max: max.toString(),
    settled: settled?.toString() ?? null,
    held: held.toString(),
    remaining: left === undefined ? null : (left > 0n ? left : 0n).toString(),
    projection: isCounted ? projection(limit, max, span, settled, nowMs) : null,
  }
}

const instant = (atMs: number | undefined): string | null => (atMs === undefined ? null : new Date(atMs).toISOString())

function projection(
  { window }: CountedLimit,
  max: bigint,
  span: WindowSpan | undefined,
  settled: bigint | undefined,
  nowMs: number,
) {
  const { startMs, endMs } = span ?? {}
  if (settled === undefined || startMs === undefined || endMs === undefined || !PROJECTED.includes(window)) return null
  const [goneMs, lengthMs] = [nowMs - startMs, endMs - startMs]
  if (goneMs < lengthMs * PROJECTED_FROM) return null
  // In whole numbers: nano-dollars of a month do not fit a float.
  const value = (settled * BigInt(lengthMs)) / BigInt(goneMs)
  const reachedMs = settled === 0n ? undefined : startMs + Number((max * BigInt(goneMs)) / settled)
  const isReached = reachedMs !== undefined && reachedMs < endMs
  return {
    method: 'linear',
    value: value.toString(),
    exceeds: value > max,
    reaches_max_at: isReached ? new Date(reachedMs).toISOString() : null,
  }
}
