// Whom a request is for, in the caller's own word. Owns what such a word may be; limits and reports know a customer by it. Pure.
import type { Failure } from '../../protocol/errors.ts'
import { MAX_END_USER_CHARS } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { invalid } from './schema-fault.ts'

/**
 * The word is never cut: two customers could become one. What no database column can hold is refused here, before anything
 * is spent on it.
 * @param fields Name and value of each field that can hold it; the first with a value counts.
 */
export function endUserOf(fields: readonly (readonly [string, unknown])[]): Result<{ endUser?: string }, Failure> {
  for (const [field, value] of fields) {
    if (value === undefined || value === null || value === '') continue
    if (typeof value !== 'string') return err(invalid(`Invalid value for '${field}': must be a string`, field))
    if (value.length > MAX_END_USER_CHARS || /\p{Cc}/u.test(value) || !value.isWellFormed()) {
      const message = `must have at most ${MAX_END_USER_CHARS} characters, none of them a control character`
      return err(invalid(`Invalid value for '${field}': ${message}`, field))
    }
    return ok({ endUser: value })
  }
  return ok({})
}
