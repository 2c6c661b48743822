// Numbers and times as people read them. Owns every form in which the pages show money, counts, durations and dates; money
// comes as integer nano-dollars and is never a float. ○ Pure.
import { formatUsd } from '../../protocol/units.ts'

const NANO_PER_CENT = 10_000_000n
const NANO_PER_USD = 1_000_000_000n

/** What has no value yet. */
export const NOTHING = '–'

const grouped = new Intl.NumberFormat('en-US')
const group = (whole: bigint): string => grouped.format(whole)

/** `1234500000` as the API sends it. */
export const nanoUsd = (text: string | undefined | null): bigint => BigInt(text ?? '0')

const absolute = (amount: bigint): bigint => (amount < 0n ? -amount : amount)

/** Rounded half away from zero. */
function rounded(amount: bigint, unit: bigint): bigint {
  const magnitude = (absolute(amount) + unit / 2n) / unit
  return amount < 0n ? -magnitude : magnitude
}

function decimal(units: bigint, decimals: number): string {
  const digits = absolute(units)
    .toString()
    .padStart(decimals + 1, '0')
  const whole = digits.slice(0, digits.length - decimals)
  const text = decimals === 0 ? group(BigInt(digits)) : `${group(BigInt(whole))}.${digits.slice(-decimals)}`
  return `${units < 0n ? '−' : ''}$${text}`
}

/** `$12.35`; below a dollar more digits, so that a fraction of a cent is not nothing: `$0.0042`, `$0.0000031`. */
export function usd(amount: bigint): string {
  const magnitude = absolute(amount)
  if (magnitude === 0n) return '$0.00'
  if (magnitude >= NANO_PER_USD) return decimal(rounded(amount, NANO_PER_CENT), 2)
  for (const [atLeast, decimals] of SMALL) {
    if (magnitude >= atLeast) return trimZeros(decimal(rounded(amount, 10n ** BigInt(9 - decimals)), decimals), atLeast)
  }
  return decimal(amount, 9)
}
/** Below a hundredth of a cent the zeros at the end say nothing. */
const trimZeros = (text: string, atLeast: bigint): string => (atLeast < 1_000_000n ? text.replace(/0+$/, '') : text)
/** Two digits that mean something, at the least. */
const SMALL: readonly (readonly [atLeast: bigint, decimals: number])[] = [
  [100_000_000n, 3],
  [1_000_000n, 4],
  [100_000n, 5],
  [10_000n, 6],
  [1_000n, 7],
  [100n, 8],
]

/** All digits: `$0.004217500`, for titles and where an amount is the matter itself. */
export const usdExact = (amount: bigint): string =>
  `${amount < 0n ? '−' : ''}$${formatUsd(absolute(amount)).replace(/^\d+/, (whole) => group(BigInt(whole)))}`

/** `$1.2k`, for the axis of a chart. */
export function usdShort(amount: bigint): string {
  const magnitude = absolute(amount)
  const sign = amount < 0n ? '−' : ''
  for (const [unit, letter] of LARGE_USD) {
    if (magnitude >= unit) return `${sign}$${trimmed(Number((magnitude * 10n) / unit) / 10)}${letter}`
  }
  if (magnitude === 0n) return '$0'
  if (magnitude >= 10n * NANO_PER_USD) return decimal(rounded(amount, NANO_PER_USD), 0)
  if (magnitude >= NANO_PER_CENT) return decimal(rounded(amount, NANO_PER_CENT), 2)
  return `${sign}$${formatUsd(magnitude)}`
}
const LARGE_USD: readonly (readonly [bigint, string])[] = [
  [1_000_000_000n * NANO_PER_USD, 'B'],
  [1_000_000n * NANO_PER_USD, 'M'],
  [1_000n * NANO_PER_USD, 'k'],
]

const trimmed = (value: number): string => value.toFixed(value >= 100 ? 0 : 1).replace(/\.0$/, '')

/** `1,234` */
export const count = (value: number | bigint): string => grouped.format(value)

/** `1.2M` */
export function countShort(value: number): string {
  const magnitude = Math.abs(value)
  for (const [unit, letter] of LARGE) {
    if (magnitude >= unit * 0.9995) return `${value < 0 ? '−' : ''}${trimmed(magnitude / unit)}${letter}`
  }
  return Number.isInteger(value) ? count(value) : String(Math.round(value * 100) / 100)
}
const LARGE: readonly (readonly [number, string])[] = [
  [1e12, 'T'],
  [1e9, 'B'],
  [1e6, 'M'],
  [1e3, 'k'],
]

/** `840 ms`, `1.24 s`, `3 min 20 s` */
export function duration(ms: number): string {
  if (ms < 1) return ms <= 0 ? '0 ms' : '< 1 ms'
  if (ms < 999.5) return `${Math.round(ms)} ms`
  if (ms < 59_950) return `${(ms / 1_000).toFixed(ms < 9_995 ? 2 : 1)} s`
  const seconds = Math.round(ms / 1_000)
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min${seconds % 60 === 0 ? '' : ` ${seconds % 60} s`}`
  const minutes = Math.round(seconds / 60)
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h${minutes % 60 === 0 ? '' : ` ${minutes % 60} min`}`
  return `${Math.round(minutes / (24 * 60))} days`
}

/** `0`, `20 s`, for the axis of a chart. */
export function durationShort(ms: number): string {
  if (ms === 0) return '0'
  if (ms < 1_000) return `${Math.round(ms * 10) / 10} ms`
  if (ms < 300_000) return `${Math.round(ms / 100) / 10} s`
  return `${Math.round(ms / 6_000) / 10} min`
}

/** `1.25 %` of a share between 0 and 1. */
export function percent(share: number): string {
  const value = share * 100
  if (value === 0) return '0 %'
  if (Math.abs(value) < 0.01) return '< 0.01 %'
  return `${value.toFixed(Math.abs(value) < 1 ? 2 : Math.abs(value) < 99.95 ? 1 : 0)} %`
}

/** One part of a whole, exact until the last step. Between 0 and 1 for parts of a whole. */
export const shareOf = (part: bigint, whole: bigint): number =>
  whole === 0n ? 0 : Number((part * 1_000_000n) / whole) / 1_000_000

/** `1.5 KiB` */
export function bytes(value: number): string {
  for (const [unit, name] of BYTES) {
    if (value >= unit) return `${trimmed(value / unit)} ${name}`
  }
  return `${Math.round(value)} B`
}
const BYTES: readonly (readonly [number, string])[] = [
  [2 ** 40, 'TiB'],
  [2 ** 30, 'GiB'],
  [2 ** 20, 'MiB'],
  [2 ** 10, 'KiB'],
]

const times = new Map<string, Intl.DateTimeFormat>()

function timeFormat(zone: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = `${zone} ${JSON.stringify(options)}`
  const known = times.get(key)
  if (known !== undefined) return known
  const made = new Intl.DateTimeFormat('en-GB', { timeZone: zone, hourCycle: 'h23', ...options })
  times.set(key, made)
  return made
}

/** `22 Nov 2026` */
export const date = (atMs: number, zone: string): string =>
  timeFormat(zone, { day: 'numeric', month: 'short', year: 'numeric' }).format(atMs)
/** `22 Nov` */
export const dayAndMonth = (atMs: number, zone: string): string =>
  timeFormat(zone, { day: 'numeric', month: 'short' }).format(atMs)
/** `Nov 2026` */
export const monthAndYear = (atMs: number, zone: string): string =>
  timeFormat(zone, { month: 'short', year: 'numeric' }).format(atMs)
/** `05:30` */
export const clock = (atMs: number, zone: string): string =>
  timeFormat(zone, { hour: '2-digit', minute: '2-digit' }).format(atMs)
/** `22 Nov 2026, 05:30:12` */
export const dateTime = (atMs: number, zone: string): string =>
  `${date(atMs, zone)}, ${timeFormat(zone, { hour: '2-digit', minute: '2-digit', second: '2-digit' }).format(atMs)}`

/** `3 min ago`, `in 2 h` */
export function ago(atMs: number, nowMs: number): string {
  const distance = Math.abs(nowMs - atMs)
  if (distance < 5_000) return 'just now'
  const text = AGO.find(([below]) => distance < below)?.[1](distance) ?? `${Math.round(distance / 86_400_000)} days`
  return atMs <= nowMs ? `${text} ago` : `in ${text}`
}
const AGO: readonly (readonly [number, (ms: number) => string])[] = [
  [60_000, (ms) => `${Math.round(ms / 1_000)} s`],
  [3_600_000, (ms) => `${Math.round(ms / 60_000)} min`],
  [48 * 3_600_000, (ms) => `${Math.round(ms / 3_600_000)} h`],
]

/** A change against an earlier value: `+12 %`; nothing where there was nothing before. */
export function change(now: number, before: number): { text: string; direction: 'up' | 'down' | 'same' } | undefined {
  if (before === 0) return now === 0 ? { text: '0 %', direction: 'same' } : undefined
  const share = (now - before) / Math.abs(before)
  if (Math.abs(share) < 0.0005) return { text: '0 %', direction: 'same' }
  const value = Math.abs(share) * 100
  const text =
    value >= 1_000 ? `×${countShort(now / before)}` : `${value.toFixed(value < 10 ? 1 : 0).replace(/\.0$/, '')} %`
  if (value >= 1_000) return { text, direction: share > 0 ? 'up' : 'down' }
  return share > 0 ? { text: `+${text}`, direction: 'up' } : { text: `−${text}`, direction: 'down' }
}
