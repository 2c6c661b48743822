// Finders of personal data: what has a form of its own and, where it carries one, a right check digit. Owns the forms.
// Prefers to miss a borderline case over masking prices, dates and versions: what cannot be told from an ordinary number
// (a national telephone number without any mark) is not looked for. Pure.
import { type Finder, type Match, undecidedTail } from './finder.ts'
import { IBAN_LENGTHS } from './iban-lengths.ts'

/** `ssn`: numbers of the form of a United States social security number. */
export const PII_ENTITIES = ['email', 'phone', 'card', 'iban', 'ip', 'ssn'] as const
export type PiiEntity = (typeof PII_ENTITIES)[number]

export function piiFinder(entity: PiiEntity): Finder {
  return FINDERS[entity]
}

/** Where a match may begin; whether there is one there, and how long, is `endAt`'s to say. */
type Form = {
  label: string
  start: RegExp
  /** End of the match that begins at `at`, else undefined. Looks CONTEXT_UNITS beyond it at most. */
  endAt(text: string, at: number): number | undefined
  unitsMax: number
  /** Units that a match can hold. */
  units: RegExp
  steps: number
}

function finder({ label, start, endAt, unitsMax, units, steps }: Form): Finder {
  const canHold = holder(units)
  return {
    label,
    steps,
    find: (text, from, limit) => firstOf({ start, endAt }, text, from, limit),
    undecided: (text, from) => undecidedTail(text, from, unitsMax, canHold),
  }
}

function holder(units: RegExp): (unit: number) => boolean {
  const held = Array.from({ length: 128 }, (_, unit) => units.test(String.fromCharCode(unit)))
  return (unit) => held[unit] === true
}

function firstOf(
  { start, endAt }: Pick<Form, 'start' | 'endAt'>,
  text: string,
  from: number,
  limit: number,
): Match | undefined {
  start.lastIndex = from
  for (let found = start.exec(text); found !== null && found.index < limit; found = start.exec(text)) {
    const end = endAt(text, found.index)
    if (end !== undefined) return { start: found.index, end }
    start.lastIndex = found.index + 1
  }
  return undefined
}

/** For forms that one expression tells whole. @param whole sticky, with its look-around */
const sticky = (whole: RegExp) => (text: string, at: number) => {
  whole.lastIndex = at
  const found = whole.exec(text)
  return found === null ? undefined : at + found[0].length
}

const LOCAL_UNITS_MAX = 64
const LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
const domain = sticky(new RegExp(`(?:${LABEL}\\.){1,4}[A-Za-z]{2,24}(?![A-Za-z0-9])`, 'y'))
const isLocal = holder(/[A-Za-z0-9._%+-]/)
const isWord = holder(/[A-Za-z0-9_]/)

/** Found by its sign: words are common and signs are rare. */
const email: Finder = {
  label: 'EMAIL',
  steps: 7,
  find(text, from, limit) {
    for (let sign = text.indexOf('@', from); sign !== -1; sign = text.indexOf('@', sign + 1)) {
      if (sign - LOCAL_UNITS_MAX >= limit) return undefined
      let start = sign
      while (start > 0 && sign - start <= LOCAL_UNITS_MAX && isLocal(text.charCodeAt(start - 1))) start--
      if (sign - start > LOCAL_UNITS_MAX) continue
      while (start < sign && !isWord(text.charCodeAt(start))) start++
      if (start === sign || start < from) continue
      const end = domain(text, sign + 1)
      if (end !== undefined) return { start, end }
    }
    return undefined
  },
  undecided: (text, from) => undecidedTail(text, from, EMAIL_UNITS_MAX, isLocalOrSign),
}
const EMAIL_UNITS_MAX = LOCAL_UNITS_MAX + 1 + 4 * 64 + 24
const isLocalOrSign = holder(/[A-Za-z0-9._%+@-]/)

/** With a country's code, or in the North American form; eight to fifteen digits. */
const phone = finder({
  label: 'PHONE',
  start: /(?<![A-Za-z0-9_+.-])(?:\+|00|\(|\d{3}[-. ])/g,
  endAt(text, at) {
    const end = international(text, at) ?? northAmerican(text, at)
    if (end === undefined) return undefined
    let digits = text.startsWith('00', at) ? -2 : 0
    for (let place = at; place < end; place++) {
      const digit = text.charCodeAt(place) - ZERO
      if (digit >= 0 && digit <= 9) digits++
    }
    return digits >= 8 && digits <= 15 ? end : undefined
  },
  unitsMax: 50,
  units: /[0-9+() ./-]/,
  steps: 6,
})
const international = sticky(/(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(\d{1,4}\))?(?:[ ./-]?\d){5,13}(?![A-Za-z0-9_])/y)
const northAmerican = sticky(/(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![A-Za-z0-9_-])/y)

const CARD_DIGITS_MIN = 13
const CARD_DIGITS_MAX = 19
/** Of the place being looked at. */
const cardDigits = new Uint8Array(CARD_DIGITS_MAX)
const ZERO = 48
const SPACE = 32
const DASH = 45
const LETTER_A = 65

/** Numbers of payment cards by their first digits, with the lengths that are issued, and the check digit of Luhn. */
const card = finder({
  label: 'CARD',
  start: /(?<![A-Za-z0-9_])(?<!\d[.])[2-6](?=[ -]?\d)/g,
  endAt(text, at) {
    let count = 0
    let end: number | undefined
    for (let place = at; count < CARD_DIGITS_MAX; place++) {
      const digit = text.charCodeAt(place) - ZERO
      if (digit >= 0 && digit <= 9) cardDigits[count++] = digit
      else if (isCardSeparator(text, place)) continue
      else break
      if (count < CARD_DIGITS_MIN || isWord(text.charCodeAt(place + 1))) continue
      if (isIssued(cardDigits, count) && hasLuhnDigit(cardDigits, count)) end = place + 1
    }
    return end
  },
  unitsMax: 2 * CARD_DIGITS_MAX,
  units: /[0-9 -]/,
  steps: 30,
})

/** One space or dash with a digit behind it. */
function isCardSeparator(text: string, place: number): boolean {
  const unit = text.charCodeAt(place)
  const next = text.charCodeAt(place + 1) - ZERO
  return (unit === SPACE || unit === DASH) && next >= 0 && next <= 9
}

function isIssued(digits: Uint8Array, count: number): boolean {
  const second = digits[1] ?? 0
  switch (digits[0]) {
    case 2:
      return second >= 2 && second <= 7 && count === 16
    case 3:
      if (second === 4 || second === 7) return count === 15
      if (second === 5) return count >= 16
      return (second === 6 || second === 8 || second === 9 || (second === 0 && (digits[2] ?? 0) <= 5)) && count >= 14
    case 4:
      return count === 13 || count === 16 || count === 19
    case 5:
      return second >= 1 && second <= 5 && count === 16
    default:
      return count >= 16
  }
}

/** ISO/IEC 7812-1: from the right, every second digit doubled, the sum of all digits a multiple of ten. */
function hasLuhnDigit(digits: Uint8Array, count: number): boolean {
  let sum = 0
  for (let index = 0; index < count; index++) {
    const digit = digits[count - 1 - index] ?? 0
    const counted = index % 2 === 1 ? digit * 2 : digit
    sum += counted > 9 ? counted - 9 : counted
  }
  return sum % 10 === 0
}

const IBAN_UNITS_MAX = 34 + 33
const ibanStart = /(?<![A-Za-z0-9_])[A-Za-z]{2}\d{2}(?= ?[A-Za-z0-9])/g
const ibanGrowing = /(?<![A-Za-z0-9_])(?:[A-Za-z]{1,2}|[A-Za-z]{2}\d|[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){0,30} ?)$/

/** Letters, digits and spaces are nearly all of a text, so what is undecided is told by the form instead. */
const iban: Finder = {
  label: 'IBAN',
  steps: 15,
  find: (text, from, limit) => firstOf({ start: ibanStart, endAt: ibanEnd }, text, from, limit),
  undecided(text, from) {
    const first = Math.max(from, text.length - IBAN_UNITS_MAX - 1)
    const found = ibanGrowing.exec(text.slice(Math.max(0, first - 1)))
    return found === null ? text.length : Math.max(first, text.length - found[0].length)
  },
}

/** The country says how many characters there are; ISO 7064 mod 97-10 whether they are right. */
function ibanEnd(text: string, at: number): number | undefined {
  const length = IBAN_LENGTHS[text.slice(at, at + 2).toUpperCase()]
  if (length === undefined) return undefined
  let count = 4
  let rest = 0
  let place = at + 4
  for (; count < length; place++) {
    const unit = text.charCodeAt(place)
    const value = alphanumericValue(unit)
    if (value !== undefined) {
      count++
      rest = appended(rest, value)
    } else if (unit !== SPACE || text.charCodeAt(place - 1) === SPACE) return undefined
  }
  if (isWord(text.charCodeAt(place))) return undefined
  // Country and check digits stand first, and count last.
  for (let first = at; first < at + 4; first++) rest = appended(rest, alphanumericValue(text.charCodeAt(first)) ?? 0)
  return rest === 1 ? place : undefined
}

/** Digits are themselves, letters 10 to 35. */
function alphanumericValue(unit: number): number | undefined {
  if (unit >= ZERO && unit < ZERO + 10) return unit - ZERO
  const letter = unit & ~32
  return letter >= LETTER_A && letter < LETTER_A + 26 ? letter - LETTER_A + 10 : undefined
}

const appended = (rest: number, value: number): number => (rest * (value > 9 ? 100 : 10) + value) % 97

const BYTE = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)'
const ipv4 = sticky(new RegExp(`(?:${BYTE}\\.){3}${BYTE}(?![A-Za-z0-9_])(?!\\.\\d)`, 'y'))
const ipv6Run = sticky(/[0-9A-Fa-f:]{0,39}[0-9A-Fa-f](?![A-Za-z0-9_:])/y)

/** Not the addresses that every machine has, such as `::1`: they name nobody. */
const ip = finder({
  label: 'IP',
  start: /(?<![A-Za-z0-9_:])(?<!\d\.)(?:\d|[A-Fa-f][0-9A-Fa-f]{0,3}:|::)/g,
  endAt(text, at) {
    const end = ipv4(text, at)
    if (end !== undefined) return end
    const run = ipv6Run(text, at)
    return run !== undefined && isIpv6(text.slice(at, run)) ? run : undefined
  },
  unitsMax: 45,
  units: /[0-9A-Fa-f:.]/,
  steps: 2,
})

function isIpv6(text: string): boolean {
  const halves = text.split('::')
  const groups = text.split(':').filter((group) => group !== '')
  const isShort = halves.length === 2
  if (halves.length > 2 || (isShort ? groups.length < 3 || groups.length > 7 : groups.length !== 8)) return false
  const isWhole = halves.every((half) => half === '' || !/^:|:$/.test(half))
  return isWhole && /\d/.test(text) && groups.every((group) => group.length <= 4)
}

const ssn = finder({
  label: 'SSN',
  start: /(?<![A-Za-z0-9_-])\d{3}-/g,
  endAt: sticky(/(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![A-Za-z0-9_-])/y),
  unitsMax: 11,
  units: /[0-9-]/,
  steps: 1,
})

const FINDERS: Readonly<Record<PiiEntity, Finder>> = { email, phone, card, iban, ip, ssn }
