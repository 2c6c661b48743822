// API keys as text. Owns their format, checksum and hash; who a key belongs to is directory.ts.
//
//   psk_ + 32 base62 characters from a secure source (190 bits) + 6 base62 characters of checksum
//
// The checksum lets a mistyped key be told from an unknown one without a look-up, and secret scanners tell a key from
// a random word. Changing one character, or swapping two neighbours, is always found (CRC-32).

import { sha256Hex } from '../hash.ts'

const PREFIX = 'psk_'
const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const SECRET_CHARS = 32
const CHECKSUM_CHARS = 6
const KEY_SHAPE = /^psk_[0-9A-Za-z]{38}$/
/** Characters that may be shown and logged: `psk_` and 8 of the 32. */
const SHOWN_CHARS = 12
/** Bytes from here up are dropped, so that each base62 character is equally likely. */
const FAIR_BYTES = 256 - (256 % BASE62.length)
const CRC_POLYNOMIAL = 0xedb88320

/** A new key. `randomBytes` must be cryptographically secure; it is asked until enough fair bytes came. */
export function makeKey(randomBytes: (count: number) => Uint8Array): string {
  let secret = ''
  while (secret.length < SECRET_CHARS) {
    for (const byte of randomBytes(SECRET_CHARS)) {
      if (byte < FAIR_BYTES && secret.length < SECRET_CHARS) secret += BASE62.charAt(byte % BASE62.length)
    }
  }
  return PREFIX + secret + checksum(PREFIX + secret)
}

/** What is shown of a key; `undefined` where the text is no key or its checksum is wrong. */
export function parseKey(text: string): { prefix: string } | undefined {
  if (!KEY_SHAPE.test(text)) return undefined
  const body = text.slice(0, -CHECKSUM_CHARS)
  if (checksum(body) !== text.slice(-CHECKSUM_CHARS)) return undefined
  return { prefix: text.slice(0, SHOWN_CHARS) }
}

/** SHA-256 of the whole text in hex: all that is ever stored, cached or compared. */
export const hashKey = (text: string): string => sha256Hex(text)

function checksum(body: string): string {
  let rest = crc32(body)
  let text = ''
  for (let index = 0; index < CHECKSUM_CHARS; index++) {
    text = BASE62.charAt(rest % BASE62.length) + text
    rest = Math.floor(rest / BASE62.length)
  }
  return text
}

/** CRC-32 (IEEE) of an ASCII text, as an unsigned number. */
function crc32(text: string): number {
  let crc = 0xffffffff
  for (let index = 0; index < text.length; index++) {
    crc ^= text.charCodeAt(index)
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ CRC_POLYNOMIAL : crc >>> 1
  }
  return (crc ^ 0xffffffff) >>> 0
}
