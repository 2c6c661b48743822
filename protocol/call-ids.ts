// Ids of tool calls for a server or a template that takes not every id ○. Owns that a call and its
// result keep the same id, and no two calls of a request share one.

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const HASH_START = 0xcbf29ce484222325n
const HASH_PRIME = 0x100000001b3n

export class CallIds {
  readonly #chars: number | undefined
  readonly #taken: RegExp
  readonly #known = new Map<string, string>()
  readonly #used = new Set<string>()

  /**
   * @param chars Length of the ids made here; undefined: ids stay as they are.
   * @param taken What the server takes; ids made here must match. Default: letters and digits of that length.
   */
  constructor(chars: number | undefined, taken: RegExp = new RegExp(`^[A-Za-z0-9]{${chars ?? 1}}$`)) {
    this.#chars = chars
    this.#taken = taken
  }

  of(id: string): string {
    const chars = this.#chars
    if (chars === undefined) return id
    const known = this.#known.get(id)
    if (known !== undefined) return known
    let short = id
    // An id of the server's own is kept; another's is hashed, and hashed again where two come to the same.
    for (let round = 0; !this.#taken.test(short) || this.#used.has(short); round++) {
      short = hashed(`${round}:${id}`, chars)
    }
    this.#known.set(id, short)
    this.#used.add(short)
    return short
  }
}

/** FNV-1a over UTF-16 units, written with the given number of digits. */
function hashed(text: string, chars: number): string {
  let hash = HASH_START
  for (let at = 0; at < text.length; at++) hash = BigInt.asUintN(64, (hash ^ BigInt(text.charCodeAt(at))) * HASH_PRIME)
  let digits = ''
  const base = BigInt(DIGITS.length)
  for (let count = 0; count < chars; count++) {
    digits += DIGITS.charAt(Number(hash % base))
    hash /= base
  }
  return digits
}
