// Regular expressions of administrators, made safe to run. Owns the dialect that is taken and the bounds of a pattern: the
// runtime's engine backtracks and cannot be interrupted, so a pattern has to show beforehand how long a match can be and in
// how many ways it can be tried. Pure.
//
//   taken      literals, `.`, classes, \d \w \s \b and their opposites, \p{…}, groups, alternatives, `?`, `{n}`, `{n,m}`
//   not taken  `*`, `+` and `{n,}` (no longest match), look-around, back-references, `^` and `$`
import { err, ok, type Result } from '../../protocol/result.ts'

const PATTERN_CHARS_MAX = 500
/** UTF-16 units of the longest match: so much of a stream may have to be held back. */
const MATCH_UNITS_MAX = 512
/** Ways to run a pattern from one place of a text: with fewer, rules look at hundreds of pages in a second. */
const PATHS_MAX = 1_000
const DEPTH_MAX = 20

export type Pattern = {
  /** With the flags `g` and `u`, and `i` where case is ignored. */
  regex: RegExp
  /** Most UTF-16 units of a match. */
  unitsMax: number
  /** Bound on the ways to run it from one place. */
  paths: number
  /** Whether a match can hold this UTF-16 unit. */
  canHold: (unit: number) => boolean
}

/**
 * What is known of a part of a pattern. `lastPaths` are the ways to run it where nothing follows that could fail: a
 * repetition then takes what it can get and is never tried again.
 */
type Shape = { unitsMin: number; unitsMax: number; paths: number; lastPaths: number }

const NOTHING: Shape = { unitsMin: 0, unitsMax: 0, paths: 1, lastPaths: 1 }

class Rejected extends Error {}

/** @returns where it is not taken, why, in words for an administrator. */
export function parsePattern(text: string, ignoreCase: boolean): Result<Pattern, string> {
  if (text.length === 0 || text.length > PATTERN_CHARS_MAX) return err(`must have 1 to ${PATTERN_CHARS_MAX} characters`)
  const reader = new PatternReader(text)
  let regex: RegExp
  try {
    const { unitsMin, unitsMax, lastPaths: paths } = reader.read()
    if (unitsMin === 0) return err('must not match an empty text')
    if (unitsMax > MATCH_UNITS_MAX) return err(`can match more than ${MATCH_UNITS_MAX} UTF-16 units`)
    if (paths > PATHS_MAX) {
      return err(
        `can be tried in more than ${PATHS_MAX} ways at one place; use smaller bounds in {n,m}, or fewer of them`,
      )
    }
    regex = new RegExp(text, ignoreCase ? 'giu' : 'gu')
    const canHold = holder(reader.atoms, ignoreCase)
    return ok({ regex, unitsMax, paths, canHold })
  } catch (error) {
    if (error instanceof Rejected) return err(error.message)
    if (error instanceof SyntaxError) return err('is not a regular expression')
    throw error
  }
}

class PatternReader {
  /** The source of every part that takes a character. */
  readonly atoms: string[] = []
  readonly #characters: string[]
  #at = 0
  #depth = 0

  constructor(text: string) {
    this.#characters = [...text]
  }

  read(): Shape {
    const shape = this.#alternatives()
    if (this.#peek() !== undefined) throw new Rejected('has a ")" without its "("')
    return shape
  }

  #peek(): string | undefined {
    return this.#characters[this.#at]
  }

  #next(): string {
    const character = this.#characters[this.#at]
    if (character === undefined) throw new Rejected('ends in the middle of something')
    this.#at++
    return character
  }

  #alternatives(): Shape {
    let shape = this.#sequence()
    while (this.#peek() === '|') {
      this.#at++
      const other = this.#sequence()
      shape = {
        unitsMin: Math.min(shape.unitsMin, other.unitsMin),
        unitsMax: Math.max(shape.unitsMax, other.unitsMax),
        paths: shape.paths + other.paths,
        lastPaths: shape.lastPaths + other.lastPaths,
      }
    }
    return shape
  }

  #sequence(): Shape {
    let shape = NOTHING
    for (let next = this.#peek(); next !== undefined && next !== '|' && next !== ')'; next = this.#peek()) {
      const part = this.#repeated(this.#atom())
      shape = {
        unitsMin: shape.unitsMin + part.unitsMin,
        unitsMax: shape.unitsMax + part.unitsMax,
        paths: shape.paths * part.paths,
        lastPaths: shape.paths * part.lastPaths,
      }
    }
    return shape
  }

  #atom(): Shape {
    const from = this.#at
    const character = this.#next()
    switch (character) {
      case '(':
        return this.#group()
      case '[':
        this.#class()
        return this.#taken(from, 2)
      case '\\':
        return this.#escape(from)
      case '.':
        return this.#taken(from, 2)
      case '^':
      case '$':
        throw new Rejected(`holds "${character}": texts are checked in pieces, which have no beginning and no end`)
      case '*':
      case '+':
      case '?':
      case '{':
      case '}':
      case ']':
        throw new Rejected(`holds a "${character}" out of place; write "\\${character}" where the character is meant`)
      default:
        return this.#taken(from, character.length)
    }
  }

  #taken(from: number, units: number): Shape {
    this.atoms.push(this.#characters.slice(from, this.#at).join(''))
    return { unitsMin: 1, unitsMax: units, paths: 1, lastPaths: 1 }
  }

  #group(): Shape {
    if (this.#peek() === '?') {
      this.#at++
      if (this.#next() !== ':') throw new Rejected('holds a group that is not "(…)" or "(?:…)"')
    }
    if (++this.#depth > DEPTH_MAX) throw new Rejected('has groups nested too deep')
    const shape = this.#alternatives()
    this.#depth--
    if (this.#peek() !== ')') throw new Rejected('has a "(" without its ")"')
    this.#at++
    return shape
  }

  /** The engine checks what is inside; here only its end matters. */
  #class(): void {
    for (let character = this.#next(); character !== ']'; character = this.#next()) {
      if (character === '\\') this.#next()
    }
  }

  #escape(from: number): Shape {
    const character = this.#next()
    if (character === 'b' || character === 'B') return NOTHING
    if (/[1-9k]/.test(character)) throw new Rejected('holds a back-reference')
    if ((character === 'p' || character === 'P' || character === 'u') && this.#peek() === '{') {
      while (this.#next() !== '}') {}
      return this.#taken(from, 2)
    }
    if (character === 'u' || character === 'x') {
      for (let digits = character === 'u' ? 4 : 2; digits > 0; digits--) this.#next()
      return this.#taken(from, 1)
    }
    return this.#taken(from, /[DWSPc]/.test(character) ? 2 : 1)
  }

  #repeated(shape: Shape): Shape {
    const bounds = this.#quantifier()
    if (bounds === undefined) return shape
    const [least, most] = bounds
    if (most > MATCH_UNITS_MAX) throw new Rejected(`repeats something more than ${MATCH_UNITS_MAX} times`)
    if (shape.unitsMin === 0) throw new Rejected('repeats something that can be empty')
    let paths = 0
    for (let times = least, power = shape.paths ** least; times <= most && paths <= PATHS_MAX; times++) {
      paths += power
      power *= shape.paths
    }
    paths = Math.max(1, paths)
    // The ways to get through what has to be there, and one try of each more.
    const last = shape.paths === 1 ? 1 : shape.paths ** least * (1 + (most - least) * shape.paths)
    const units = { unitsMin: shape.unitsMin * least, unitsMax: shape.unitsMax * most }
    return { ...units, paths, lastPaths: Math.min(paths, last) }
  }

  #quantifier(): [least: number, most: number] | undefined {
    const character = this.#peek()
    if (character === '*' || character === '+') {
      const instead = character === '*' ? '{0,64}' : '{1,64}'
      throw new Rejected(`holds "${character}", which has no longest match; use a bound such as ${instead}`)
    }
    let bounds: [number, number]
    if (character === '?') {
      this.#at++
      bounds = [0, 1]
    } else if (character === '{') {
      const rest = this.#characters.slice(this.#at, this.#at + 12).join('')
      const found = /^\{(\d{1,3})(?:,(\d{1,3}))?\}/.exec(rest)
      if (found === null) throw new Rejected('holds a repetition that is not {n} or {n,m}')
      this.#at += found[0].length
      bounds = [Number(found[1]), Number(found[2] ?? found[1])]
      if (bounds[0] > bounds[1]) throw new Rejected('holds a repetition {n,m} with n above m')
    } else {
      return undefined
    }
    if (this.#peek() === '?') this.#at++
    return bounds
  }
}

const UNITS_KNOWN = 128

/** Characters beyond ASCII are asked for one by one; half a pair may always become something. */
function holder(atoms: readonly string[], ignoreCase: boolean): (unit: number) => boolean {
  const any = new RegExp(`^(?:${atoms.join('|')})$`, ignoreCase ? 'iu' : 'u')
  const ascii = Array.from({ length: UNITS_KNOWN }, (_, unit) => any.test(String.fromCharCode(unit)))
  return (unit) => ascii[unit] ?? ((unit >= 0xd800 && unit <= 0xdfff) || any.test(String.fromCharCode(unit)))
}
