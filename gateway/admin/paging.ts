// Pages of a list. Owns the bounds on a page and the cursor, which names the last row of the page before: new rows
// shift nothing, and a deep page costs what the first one does.
import { type AnyColumn, type SQL, sql } from 'drizzle-orm'
import * as z from 'zod'
import { parseStored } from '../db/json.ts'
import { invalid } from './context.ts'

const PAGE_DEFAULT = 50
const PAGE_MAX = 200
/** A cursor may name a row by a text of a caller's: 256 characters, escaped and encoded. */
const CURSOR_CHARS_MAX = 4_000

/** Query parameters of every list. */
export const pageParameters = {
  limit: z
    .string()
    .regex(/^\d{1,4}$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.number().min(1).max(PAGE_MAX))
    .default(PAGE_DEFAULT),
  cursor: z.string().max(CURSOR_CHARS_MAX).optional(),
}
export const PageQuery = z.strictObject(pageParameters)
export type PageQuery = z.infer<typeof PageQuery>

export type Page<T> = { data: T[]; next_cursor?: string }

const TimeCursor = z.tuple([z.iso.datetime(), z.uuid()]).rest(z.string().max(CURSOR_CHARS_MAX))
const NameCursor = z.tuple([z.string().max(200)])

/**
 * Rows of a list that runs from the newest to the oldest: those before the cursor.
 * @param more Further columns where time and id do not name a row; the list is ordered by all of them, descending.
 * @throws Refusal
 */
export function olderThan(
  cursor: string | undefined,
  time: AnyColumn,
  id: AnyColumn,
  ...more: AnyColumn[]
): SQL | undefined {
  if (cursor === undefined) return undefined
  const last = decode(cursor, TimeCursor)
  const columns = [time, id, ...more]
  if (last.length !== columns.length) throw invalid('cursor', 'is not a cursor of this list')
  return sql`(${sql.join(columns, sql`, `)}) < (${sql.join(
    last.map((value) => sql`${value}`),
    sql`, `,
  )})`
}

/** Rows of a list by name: those after the cursor. @throws Refusal */
export function after(cursor: string | undefined, name: AnyColumn): SQL | undefined {
  return cursor === undefined ? undefined : sql`${name} > ${decode(cursor, NameCursor)[0]}`
}

/**
 * A page from rows that were asked for with `limit + 1`: the extra row only tells that there is another page.
 * @param position What names a row: [time, id] or [name].
 */
export function pageOf<Row, T>(
  rows: readonly Row[],
  limit: number,
  position: (row: Row) => string[],
  show: (row: Row) => T,
): Page<T> {
  const data = rows.slice(0, limit)
  const last = data.at(-1)
  if (rows.length <= limit || last === undefined) return { data: data.map(show) }
  return { data: data.map(show), next_cursor: encode(position(last)) }
}

function encode(position: string[]): string {
  const bytes = new TextEncoder().encode(JSON.stringify(position))
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
  return text.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
}

function decode<T>(cursor: string, schema: z.ZodType<T>): T {
  try {
    const bytes = Uint8Array.from(atob(cursor.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0))
    return parseStored(new TextDecoder().decode(bytes), schema, 'a cursor')
  } catch {
    throw invalid('cursor', 'is not a cursor of this list')
  }
}
