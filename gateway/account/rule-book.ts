// The stored form of an organisation's rules. Owns their text in an account's SQLite, the check on the way back, and what
// a book must fulfil to be taken at all.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { parseStored } from '../db/json.ts'
import { encodeText, storedShapes } from '../ledger/outbox.ts'
import { LIMIT_SCOPES, LIMIT_WINDOWS, type RuleBook } from './limit.ts'
import { isTimeZone } from './windows.ts'

/** As text some hundreds of kilobytes; an object stores at most two megabytes in one value. */
export const RULES_MAX = 2_000

const { money } = storedShapes
const where = () => ({
  limitId: z.string().max(64),
  scope: z.enum(LIMIT_SCOPES),
  scopeId: z.string().min(1).max(256),
  model: z.string().max(128).optional(),
  hard: z.boolean(),
})
const span = () => ({ window: z.enum(LIMIT_WINDOWS), timeZone: z.string().max(64) })
const count = late(() => z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER))

const Book = late(() =>
  z.object({
    version: z.number().int().nonnegative(),
    limits: z
      .array(
        z.discriminatedUnion('meter', [
          z.object({ ...where(), ...span(), meter: z.enum(['requests', 'input_tokens', 'output_tokens']), max: count }),
          z.object({ ...where(), ...span(), meter: z.literal('money'), maxNanoUsd: money }),
          z.object({ ...where(), meter: z.literal('concurrency'), max: count }),
        ]),
      )
      .max(RULES_MAX),
    credit: z.object({ grantedNanoUsd: money, overdraftNanoUsd: money }).optional(),
  }),
)

/** The book as text. @throws Error where it is no book that can be enforced: it comes from our own code. */
export function encodeBook(book: RuleBook): string {
  const text = encodeText(book)
  decodeBook(text)
  for (const limit of book.limits) {
    if (limit.meter === 'money' && limit.maxNanoUsd < 0n) throw new RangeError(`limit ${limit.limitId} is negative`)
    if (limit.meter !== 'concurrency' && !isTimeZone(limit.timeZone))
      throw new RangeError(`limit ${limit.limitId} names a time zone that does not exist`)
  }
  return text
}

/** @throws Error where the text was not written by `encodeBook`. */
export const decodeBook = (text: string): RuleBook => parseStored(text, Book, 'the rules of an account')
