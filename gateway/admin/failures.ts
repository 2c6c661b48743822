// What a request of an administrator or a browser ends with where its handler throws. Owns the words for a database that
// cannot be reached and for values that it cannot hold.
import type { Failure } from '../../protocol/errors.ts'
import { DatabaseUnavailable, QueryFailed } from '../db/port.ts'
import { errorText, log } from '../observe/log.ts'
import { Refusal } from './context.ts'

/** SQLSTATE class of values that a type cannot hold. */
const DATA_EXCEPTION = /^22/

export function failureOf(error: Error, requestId: string): Failure {
  if (error instanceof Refusal) return error.failure
  if (error instanceof DatabaseUnavailable) {
    log('warn', 'admin_database_unavailable', { requestId, reason: error.message })
    const message = 'The database cannot be reached; if this was a change, it may have been made: repeat the call.'
    return { code: 'unavailable', message, retryAfterMs: 2_000 }
  }
  // NUL in a text, a date beyond the calendar: values that passed as JSON and that no column can hold.
  if (error instanceof QueryFailed && DATA_EXCEPTION.test(error.sqlState)) {
    const message = `The request holds a value that cannot be stored or compared (${error.sqlState}).`
    return { code: 'invalid_request', message }
  }
  log('error', 'admin_failed', { requestId, reason: errorText(error) })
  return { code: 'internal', message: 'Something went wrong on our side; the request id finds it in the logs.' }
}
