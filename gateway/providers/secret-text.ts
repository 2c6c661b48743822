// An operator's key in a text that comes from outside. Owns recognising it in whatever form a server quotes it, so that it
// reaches no caller, log or row. Pure.
import type { Failure } from '../../protocol/errors.ts'

/** One key, or one part of it, to be looked for. */
export type Secret = { text: string; pattern: RegExp }

/** Keys of several parts go over the wire part by part; a short part is a name, not a secret. */
const SECRET_PART_CHARS_MIN = 32
/** Messages are cut at a length: what is left of a key at the end tells nothing where it is shorter than this. */
const CUT_CHARS_MIN = 8

/** Texts within texts double them each time; no more are looked at, so that no text takes long. */
const BACKSLASHES = '\\\\{1,16}'

/** What must not be shown of a key: all of it, and its long parts where it is one of several with colons between. */
export function secretsIn(secret: string): Secret[] {
  const parts = secret.split(':').filter((part) => part.length >= SECRET_PART_CHARS_MIN)
  return [...new Set([secret, ...parts])]
    .filter((text) => text !== '')
    .map((text) => ({ text, pattern: new RegExp(Array.from(text, formsOf).join(''), 'g') }))
}

/**
 * One character as it may stand in a text: as it is, escaped as in JSON or JavaScript as often as texts were put into each
 * other, or percent-encoded as in a URL.
 */
function formsOf(character: string): string {
  const units = Array.from({ length: character.length }, (_, at) => character.charCodeAt(at))
  const escaped = units.map((unit) => `${BACKSLASHES}u${anyCase(unit.toString(16).padStart(4, '0'))}`).join('')
  const percent = Array.from(
    new TextEncoder().encode(character),
    (byte) => `%${anyCase(byte.toString(16).padStart(2, '0'))}`,
  )
  const plain = character.replace(/[\\^$.*+?()[\]{}|/-]/, '\\$&')
  return `(?:${escaped}|${percent.join('')}|(?:${BACKSLASHES})?${plain})`
}

const anyCase = (hex: string): string => hex.replace(/[a-f]/g, (digit) => `[${digit}${digit.toUpperCase()}]`)

/** The text without the secrets, nor the beginning of one at its end. */
export const cleanText = (text: string, secrets: readonly Secret[]): string =>
  secrets.reduce((cleaned, secret) => withoutCut(withoutWhole(cleaned, secret), secret.text), text)

/** Where nothing is escaped a secret stands as it is; most texts are such, and every usage object comes this way. */
const withoutWhole = (text: string, secret: Secret): string =>
  /[\\%]/.test(text) ? text.replace(secret.pattern, '[secret]') : text.replaceAll(secret.text, '[secret]')

function withoutCut(text: string, secret: string): string {
  if (!text.includes(secret.slice(0, CUT_CHARS_MIN))) return text
  for (let length = secret.length - 1; length >= CUT_CHARS_MIN; length--) {
    if (text.endsWith(secret.slice(0, length))) return `${text.slice(0, -length)}[secret]`
  }
  return text
}

/** What a server said of a failure, as a caller may see it. */
export const cleanFailure = (failure: Failure, secrets: readonly Secret[]): Failure => ({
  ...failure,
  message: cleanText(failure.message, secrets),
  ...(failure.param === undefined ? {} : { param: cleanText(failure.param, secrets) }),
})
