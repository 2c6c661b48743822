// Structured logs of the agent: one JSON line per event on stderr. Owns the format and the rate limit;
// does not own what is worth logging. Fields are numbers, flags and short technical strings: never prompt text, never secrets.

export type LogLevel = 'info' | 'warn' | 'error'
export type LogFields = Record<string, string | number | boolean | undefined>
export type Log = (level: LogLevel, event: string, fields?: LogFields) => void

/** Per event name: enough to see a pattern, too few to fill a disk when every request fails alike. */
const LINES_PER_WINDOW_MAX = 20
const WINDOW_MS = 1000
/** Event names are constants in the code; the bound only guards against a mistake. */
const EVENT_NAMES_MAX = 256
const FIELD_CHARS_MAX = 2000

type Window = { startMs: number; lines: number; suppressed: number }

/**
 * A log that writes at most `LINES_PER_WINDOW_MAX` lines per second and event name; the first line after a pause
 * carries `suppressed`, the number of lines left out.
 */
export function createLog(write: (line: string) => void, nowMs: () => number): Log {
  const windows = new Map<string, Window>()
  return (level, event, fields = {}) => {
    const now = nowMs()
    let window = windows.get(event)
    let suppressed = 0
    if (window === undefined || now - window.startMs >= WINDOW_MS) {
      suppressed = window?.suppressed ?? 0
      window = { startMs: now, lines: 0, suppressed: 0 }
      if (windows.size >= EVENT_NAMES_MAX) windows.clear()
      windows.set(event, window)
    }
    if (window.lines >= LINES_PER_WINDOW_MAX) {
      window.suppressed++
      return
    }
    window.lines++
    const line: LogFields = { time: new Date(now).toISOString(), level, event }
    for (const [key, value] of Object.entries(fields))
      line[key] = typeof value === 'string' && value.length > FIELD_CHARS_MAX ? value.slice(0, FIELD_CHARS_MAX) : value
    if (suppressed > 0) line.suppressed = suppressed
    write(`${JSON.stringify(line)}\n`)
  }
}

/** The text of whatever was thrown, for a log field. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown)
}
