// Finding and masking in a text that comes in pieces. Owns that the result is that of the whole text, however it was cut:
// what may still become a match is held back, everything else goes on at once. Pure.
import { CALL_STEPS, CONTEXT_UNITS, type Finder, type Match } from './finder.ts'

export type Masked = {
  /** What goes on. */
  text: string
  /** Labels of what was found in it. */
  found: string[]
}

const NOTHING: Masked = { text: '', found: [] }

/** What it costs at worst to look at so much text. */
export function stepsOf(finders: readonly Finder[], chars: number): number {
  return finders.reduce((steps, finder) => steps + finder.steps, 0) * chars
}

/** Of several matches the one that begins first counts, of those the longest; the search goes on behind it. */
export class TextMask {
  readonly #finders: readonly Finder[]
  readonly #replacement: (label: string) => string
  /** What is held back, after at most CONTEXT_UNITS that went on already. */
  #text = ''
  #from = 0

  constructor(finders: readonly Finder[], replacement: (label: string) => string) {
    this.#finders = finders
    this.#replacement = replacement
  }

  /** What a push of so much text costs at worst: each place is tried once, what is held is looked through each time. */
  steps(chars: number): number {
    const held = this.#text.length - this.#from
    return stepsOf(this.#finders, chars) + this.#finders.length * (held + CALL_STEPS)
  }

  push(text: string): Masked {
    this.#text += text
    let limit = this.#text.length
    for (const finder of this.#finders) limit = Math.min(limit, finder.undecided(this.#text, this.#from))
    // Not between the halves of one character.
    if (limit > this.#from && limit < this.#text.length && isLow(this.#text.charCodeAt(limit))) limit--
    return this.#release(limit)
  }

  /** The text is over: the rest goes on. A next text may begin. */
  end(): Masked {
    const rest = this.#release(this.#text.length)
    this.#text = ''
    this.#from = 0
    return rest
  }

  /** Decides all that begins before `limit`. */
  #release(limit: number): Masked {
    if (limit <= this.#from) return NOTHING
    const text = this.#text
    const found: string[] = []
    let out = ''
    let at = this.#from
    const next: (Match | 'none' | undefined)[] = this.#finders.map(() => undefined)
    for (;;) {
      let first: { match: Match; label: string } | undefined
      for (const [index, finder] of this.#finders.entries()) {
        let match = next[index]
        if (match === undefined || (match !== 'none' && match.start < at)) {
          match = finder.find(text, at, limit) ?? 'none'
          next[index] = match
        }
        if (match === 'none' || match.start >= limit) continue
        if (first === undefined || isBefore(match, first.match)) first = { match, label: finder.label }
      }
      if (first === undefined) break
      out += text.slice(at, first.match.start) + this.#replacement(first.label)
      found.push(first.label)
      at = first.match.end
    }
    if (at < limit) {
      out += text.slice(at, limit)
      at = limit
    }
    const kept = Math.max(0, at - CONTEXT_UNITS)
    this.#text = text.slice(kept)
    this.#from = at - kept
    return { text: out, found }
  }
}

const isBefore = (a: Match, b: Match): boolean => a.start < b.start || (a.start === b.start && a.end > b.end)

const isLow = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff

/** A text that is there as a whole. */
export function maskText(text: string, finders: readonly Finder[], replacement: (label: string) => string): Masked {
  const mask = new TextMask(finders, replacement)
  const { text: begun, found } = mask.push(text)
  const rest = mask.end()
  return { text: begun + rest.text, found: [...found, ...rest.found] }
}
