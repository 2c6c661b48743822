// What looks for something in a text that may still grow. Owns the interface, the finder of a pattern, and from where on a
// text that goes on can change a verdict. Pure.
import type { Pattern } from './pattern.ts'

export type Match = { start: number; end: number }

export type Finder = {
  /** Of what it finds; stands in logs and, in brackets, in place of it. */
  label: string
  /**
   * The first match that begins at `from` or later; what is before `from` is seen as context. Where it begins at `limit` or
   * later it may be left out: those places are looked at when they are decided.
   */
  find(text: string, from: number, limit: number): Match | undefined
  /** The first place from `from` on where a match may begin, end or be ruled out by what follows the text. */
  undecided(text: string, from: number): number
  /** Of a backtracking engine at one place of a text, at worst: some ten nanoseconds each. */
  steps: number
}

/** What it takes to begin a search, in a backtracking engine's steps. */
export const CALL_STEPS = 8

/** The widest context that a finder looks at on either side of a match. */
export const CONTEXT_UNITS = 2

export function patternFinder(label: string, { regex, unitsMax, paths, canHold }: Pattern): Finder {
  const sticky = new RegExp(regex.source, regex.flags.replace('g', 'y'))
  return {
    label,
    steps: paths,
    find(text, from, limit) {
      // One search takes one call where trying each place takes many, but it does not stop at the limit.
      const isSearchDear = (text.length - limit) * paths > (limit - from) * CALL_STEPS
      return isSearchDear ? tried(sticky, text, from, limit) : matched(regex, text, from)
    },
    undecided: (text, from) => undecidedTail(text, from, unitsMax, canHold),
  }
}

function matched(regex: RegExp, text: string, from: number): Match | undefined {
  regex.lastIndex = from
  const found = regex.exec(text)
  return found === null ? undefined : { start: found.index, end: found.index + found[0].length }
}

/** Place by place, each once, never between the halves of one character. */
function tried(sticky: RegExp, text: string, from: number, limit: number): Match | undefined {
  for (let at = from; at < limit; at += (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1) {
    const match = matched(sticky, text, at)
    if (match !== undefined) return match
  }
  return undefined
}

/**
 * For finders whose matches consist of certain units and are at most so long: a match can reach beyond the end of the
 * text only from within the last run of such units, and from within its own length.
 */
export function undecidedTail(
  text: string,
  from: number,
  unitsMax: number,
  canHold: (unit: number) => boolean,
): number {
  const first = Math.max(from, text.length - unitsMax - CONTEXT_UNITS)
  let at = text.length
  while (at > first && canHold(text.charCodeAt(at - 1))) at--
  return at
}
