// Times and spans as people write and read them. Pure.
import { wrongUsage } from './failure.ts'

const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 }
/** A hundred years: beyond it a number is a slip of the finger. */
const SPAN_MAX_S = 100 * 366 * 86_400

/** `90s`, `15m`, `12h`, `30d`, `2w`. @throws CliFailure `usage` */
export function spanSeconds(words: string, flag: string): number {
  const [, count, unit] = /^(\d{1,9})([smhdw])$/.exec(words) ?? []
  const seconds = Number(count) * (SECONDS[unit ?? ''] ?? Number.NaN)
  if (!(seconds <= SPAN_MAX_S))
    throw wrongUsage(`${flag} ${words}: give a number and a unit, like 90s, 15m, 12h, 30d or 2w.`)
  return seconds
}

/** `3 minutes ago`; the time itself where it is in the future. */
export function ago(iso: string, nowMs: number): string {
  const seconds = Math.floor((nowMs - Date.parse(iso)) / 1000)
  if (seconds < 0) return iso
  for (const [word, size] of [
    ['day', 86_400],
    ['hour', 3600],
    ['minute', 60],
  ] as const) {
    const count = Math.floor(seconds / size)
    if (count > 0) return `${count} ${word}${count === 1 ? '' : 's'} ago`
  }
  return 'just now'
}
