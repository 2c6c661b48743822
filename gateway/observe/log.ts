// The gateway's log: one JSON object per line. Owns the form and the rate limit. Callers never pass prompt or answer
// text, keys or whole headers: fields are ids, counts, codes and durations.
import { LineLimiter } from './limiter.ts'

export type LogLevel = 'info' | 'warn' | 'error'
export type LogFields = Record<string, string | number | boolean | undefined>

/** Text beyond this is cut: a field is a fact, not a document. */
const FIELD_LENGTH_MAX = 500

const limiter = new LineLimiter()

/** Writes one line unless this kind of line floods; the next one that passes says how many were dropped. */
export function log(level: LogLevel, event: string, fields: LogFields = {}): void {
  const nowMs = Date.now()
  const { write, droppedBefore } = limiter.take(event, nowMs)
  if (!write) return
  const line: LogFields = { time: new Date(nowMs).toISOString(), level, event }
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue
    line[name] =
      typeof value === 'string' && value.length > FIELD_LENGTH_MAX ? `${value.slice(0, FIELD_LENGTH_MAX)}…` : value
  }
  if (droppedBefore > 0) line.droppedBefore = droppedBefore
  console.log(JSON.stringify(line))
}

/** What an unexpected error is called in a log: its name and message, without the stack's paths. */
export const errorText = (error: unknown): string =>
  error instanceof Error ? `${error.name}: ${error.message}` : String(error)
