// The port's errors as values. Owns their form between objects: an error thrown through Workers RPC arrives as a plain
// Error without its class or fields, so the pool answers with this instead.
import { DatabaseUnavailable, QueryFailed } from './port.ts'

export type Reply<T> =
  | { outcome: 'done'; value: T }
  | { outcome: 'unavailable'; message: string }
  | { outcome: 'failed'; message: string; sqlState: string; constraint?: string }

/** Runs the work and answers how it ended; a bug is thrown on. */
export async function reply<T>(work: () => Promise<T>): Promise<Reply<T>> {
  try {
    return { outcome: 'done', value: await work() }
  } catch (error) {
    if (error instanceof DatabaseUnavailable) return { outcome: 'unavailable', message: error.message }
    if (!(error instanceof QueryFailed)) throw error
    const { message, sqlState, constraint } = error
    return { outcome: 'failed', message, sqlState, ...(constraint === undefined ? {} : { constraint }) }
  }
}

/**
 * The value of a reply that comes over RPC.
 * @throws DatabaseUnavailable also where the object itself cannot be reached or broke off.
 */
export async function unwrapReply<T>(ask: () => Promise<Reply<T>>): Promise<T> {
  let answer: Reply<T>
  try {
    answer = await ask()
  } catch (error) {
    throw new DatabaseUnavailable(`the connection pool broke off: ${String(error)}`)
  }
  switch (answer.outcome) {
    case 'done':
      return answer.value
    case 'unavailable':
      throw new DatabaseUnavailable(answer.message)
    case 'failed':
      throw new QueryFailed(answer.message, answer.sqlState, answer.constraint)
    default:
      return answer satisfies never
  }
}
