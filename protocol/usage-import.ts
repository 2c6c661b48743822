// Usage that clients report afterwards, `POST /v1/usage/import`: calls that they made past the gateway, with keys of their own,
// while it was away. Owns the body with its bounds, when a record is believed, and the answer. It is shown, never billed.
import * as z from 'zod'
import { late } from './late.ts'

export const USAGE_IMPORT_PATH = '/v1/usage/import'
/** What one call may bring: more than any client keeps for a batch, and little work for a database. */
export const IMPORT_RECORDS_MAX = 500
export const IMPORT_BODY_BYTES_MAX = 256 * 1024

/** Clocks of clients are off by seconds to minutes. */
const AHEAD_MS_MAX = 5 * 60_000
/** A client keeps what it could not post; after this nobody looks at a month that long over. */
const AGE_MS_MAX = 30 * 24 * 3_600_000
/** Largest count of one part that is believed, as of a provider. */
const PART_MAX = 500_000_000
const ATTEMPTS_MAX = 1_000
const TAGS_MAX = 8

const words = (charsMax: number) =>
  z
    .string()
    .min(1)
    .max(charsMax)
    .regex(/^\P{Cc}*$/u, 'must not hold control characters')
const Count = late(() => z.int().min(0).max(PART_MAX).default(0))
const Instant = late(() =>
  z.iso
    .datetime({ offset: true, message: 'must be an ISO 8601 instant with a zone, such as 2026-11-22T08:00:00Z' })
    .refine((text) => !Number.isNaN(Date.parse(text)), 'is not a date')
    .transform((text) => new Date(text).toISOString()),
)

/** The disjoint parts of usage by their names in tables; absent ones are 0. */
const Parts = late(() =>
  z.strictObject({
    input_uncached: Count,
    input_cache_read: Count,
    input_cache_write_5m: Count,
    input_cache_write_1h: Count,
    input_audio: Count,
    input_image: Count,
    output_text: Count,
    output_reasoning: Count,
    output_audio: Count,
    output_image: Count,
    web_search_calls: Count,
    image_calls: Count,
    tool_calls: Count,
  }),
)

export const REPORTED_STATUSES = ['answered', 'failed', 'interrupted'] as const

/** One call of a provider. Whose it is says the key that posts it: there are no fields for that. */
const ReportedCall = late(() =>
  z
    .strictObject({
      /** Made by the client once and for all: posted twice, it is stored once. */
      id: z.uuid().toLowerCase(),
      model: words(128),
      /** What the client calls it. */
      provider: words(64),
      started_at: Instant,
      ended_at: Instant,
      status: z.enum(REPORTED_STATUSES),
      usage: Parts,
      /** Which try of the client's call it was. */
      attempts: z.int().min(1).max(ATTEMPTS_MAX).optional(),
      /** Why the gateway was passed. */
      reason: words(200).optional(),
      tags: z
        .record(
          z.string().regex(/^[a-z][a-z0-9_-]{0,31}$/, 'must be 1-32 lower-case letters, digits, _ and -'),
          z.string().regex(/^[A-Za-z0-9_.:/@+-]{1,64}$/, 'must be 1-64 letters, digits and _.:/@+-'),
        )
        .refine((tags) => Object.keys(tags).length <= TAGS_MAX, `must be at most ${TAGS_MAX}`)
        .optional(),
    })
    .refine(({ started_at: start, ended_at: end }) => start <= end, {
      path: ['ended_at'],
      message: 'must not be before started_at',
    }),
)
export type ReportedCall = z.infer<typeof ReportedCall>

/** The records one by one are `checkedCall`'s: one that is wrong keeps no other one out. */
export const UsageImport = late(() => z.strictObject({ records: z.array(z.unknown()).min(1).max(IMPORT_RECORDS_MAX) }))

/** What became of one record, in the order of the records. `refused` ones never get better: drop them. */
export type ImportOutcome =
  | { index: number; id: string; outcome: 'accepted' | 'duplicate' }
  | { index: number; id?: string; outcome: 'refused'; why: string }
export type ImportAnswer = { accepted: number; duplicates: number; refused: number; results: ImportOutcome[] }

export type CheckedCall = { ok: true; call: ReportedCall } | { ok: false; id?: string; why: string }

/** A record as it can be stored, or why not. No words of the record's own are quoted. */
export function checkedCall(record: unknown, nowMs: number): CheckedCall {
  const parsed = ReportedCall.safeParse(record)
  if (!parsed.success) return { ok: false, ...idOf(record), why: whyOf(parsed.error) }
  const call = parsed.data
  const refused = (why: string): CheckedCall => ({ ok: false, id: call.id, why })
  if (Date.parse(call.ended_at) > nowMs + AHEAD_MS_MAX) return refused('ended_at: lies in the future')
  if (Date.parse(call.started_at) < nowMs - AGE_MS_MAX) return refused('started_at: is more than 30 days ago')
  return { ok: true, call }
}

/** So that the sender finds its record again; whatever is no id is not sent back. */
function idOf(record: unknown): { id?: string } {
  const parsed = z.object({ id: z.uuid().toLowerCase() }).safeParse(record)
  return parsed.success ? { id: parsed.data.id } : {}
}

const WHY_CHARS_MAX = 200

function whyOf(error: z.ZodError): string {
  const issue = error.issues[0]
  if (issue === undefined) return 'is not valid'
  const inside = issue.code === 'invalid_key' ? issue.issues[0]?.message : undefined
  const message = issue.code === 'unrecognized_keys' ? 'has a field that is not known' : (inside ?? issue.message)
  const path = issue.path.map(String).join('.')
  return `${path === '' ? 'the record' : path}: ${message}`.slice(0, WHY_CHARS_MAX)
}
