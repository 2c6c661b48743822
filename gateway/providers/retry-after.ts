// How long a provider asks to wait, in all the ways in which it is said. Owns the reading; what is done about it is the
// caller's. Pure.

/** What a provider asks for at most: longer is a mistake or another unit. */
export const WAIT_MS_MAX = 24 * 60 * 60 * 1000
/** Numbers from here on are moments since 1970 in seconds, and from there in milliseconds. */
const EPOCH_SECONDS_MIN = 1e9
const EPOCH_MS_MIN = 1e12

const IN_MILLISECONDS = ['retry-after-ms', 'x-ms-retry-after-ms']
const PLAIN_NUMBER = /^\d+(\.\d+)?$/
/** With the name of a month, or as ISO 8601 has it: the runtime takes much else for a date, "5, 5" for one. */
const DATE = /[a-z]{3}.*\d|^\d{4}-\d\d-\d\dT/i
/** Every form is shorter by far, and a search for a date in more takes time with the square of its length. */
const HEADER_CHARS_MAX = 200

/**
 * The milliseconds of `retry-after-ms`, or `retry-after` in seconds, as a duration, as a moment or as a date. A header that came several
 * times is one with commas: the longest counts. What is none of these says nothing.
 */
export function retryAfter(headers: Headers, nowMs: number): number | undefined {
  for (const name of IN_MILLISECONDS) {
    const text = headers.get(name)?.trim() ?? ''
    if (PLAIN_NUMBER.test(text)) return bounded(Number(text))
  }
  const text = headers.get('retry-after')
  if (text === null || text.length > HEADER_CHARS_MAX) return undefined
  const waits = text.split(',').map((part) => durationMs(part, nowMs))
  if (waits.every((wait) => wait !== undefined)) return bounded(Math.max(...waits))
  const dateMs = DATE.test(text) ? Date.parse(text) : Number.NaN
  return Number.isNaN(dateMs) ? undefined : bounded(dateMs - nowMs)
}

const bounded = (ms: number): number => Math.min(WAIT_MS_MAX, Math.max(0, ms))

/**
 * When the limits that are used up are full again: `x-ratelimit-reset-requests` and `-tokens` with durations as OpenAI
 * writes them ("6m0s", "20ms") or plain seconds, `x-ratelimit-reset` as a moment. The longest of those with nothing
 * remaining; undefined where none is said to be used up.
 */
export function limitReset(headers: Headers, nowMs: number): number | undefined {
  const waits = ['-requests', '-tokens', ''].flatMap((what) => {
    const remaining = headers.get(`x-ratelimit-remaining${what}`)
    const reset = headers.get(`x-ratelimit-reset${what}`)
    if (remaining === null || reset === null || Number(remaining) > 0) return []
    return durationMs(reset, nowMs) ?? []
  })
  return waits.length === 0 ? undefined : bounded(Math.max(...waits))
}

/** With the forms in which providers write them. */
const UNIT = '(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])'
const UNIT_MS: Record<string, number> = { ms: 1, mil: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 }
const DURATION = `(?:\\d+(?:\\.\\d+)? ?${UNIT} ?)+`
const ASKED_IN_WORDS = new RegExp(`(?:try again|retry|wait)(?: in| after| for)?(?: about)? (${DURATION})`, 'i')
const WHOLE_DURATION = new RegExp(`^${DURATION}$`)
const AMOUNTS = new RegExp(`(\\d+(?:\\.\\d+)?) ?(${UNIT})`, 'g')

/** The time in a sentence that asks to try again in it; undefined where there is none. */
export function waitInWords(message: string): number | undefined {
  const found = ASKED_IN_WORDS.exec(message)?.[1]
  const waitMs = found === undefined ? undefined : durationMs(found, 0)
  return waitMs === undefined ? undefined : bounded(waitMs)
}

const unitMs = (unit: string): number => UNIT_MS[unit] ?? UNIT_MS[unit.slice(0, 3)] ?? UNIT_MS[unit.slice(0, 1)] ?? 0

function durationMs(text: string, nowMs: number): number | undefined {
  const trimmed = text.trim().toLowerCase()
  if (PLAIN_NUMBER.test(trimmed)) {
    const value = Number(trimmed)
    if (value >= EPOCH_MS_MIN) return Math.max(0, value - nowMs)
    return value >= EPOCH_SECONDS_MIN ? Math.max(0, value * 1000 - nowMs) : value * 1000
  }
  if (!WHOLE_DURATION.test(trimmed)) return undefined
  let sum = 0
  for (const [, amount, unit = ''] of trimmed.matchAll(AMOUNTS)) sum += Number(amount) * unitMs(unit)
  return Math.ceil(sum)
}
