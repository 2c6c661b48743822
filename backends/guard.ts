// Keeps callers from writing control tokens through a chat template ○. Owns the marks; splitting at control tokens is tokens.ts.
//
// A template mixes its own markers ("<|im_start|>") with text of the caller. Before rendering, a mark (one Unicode
// noncharacter that occurs nowhere else in the request) is put inside everything in the caller's text that is, or
// together with its neighbours could become, the text of a control token. The rendered prompt is cut at the control
// tokens that are still intact, which only the template can have written, and the marks are taken out of the rest.
//
// Text without such passages is not touched, so template logic (trim, `in`, split) sees what the caller wrote and the
// token ids are those of the plain rendering. Known limit: a template that deletes characters from the middle of a
// caller's text could join two halves of a marker; no published template does.

/** Noncharacters: valid in strings, never assigned. The mark need not be secret: it is removed after the cut. */
const FIRST_MARK = 0xfdd0
const LAST_MARK = 0xfdef

/** A character that occurs in none of the texts, `undefined` where a caller used all of them. */
export function chooseMark(texts: readonly string[]): string | undefined {
  for (let code = FIRST_MARK; code <= LAST_MARK; code++) {
    const mark = String.fromCharCode(code)
    if (!texts.some((text) => text.includes(mark))) return mark
  }
  return undefined
}

export type Guard = {
  /** A caller's text with marks in everything that could act as a control token. */
  protect: (text: string, mark: string) => string
  /** Pieces of a rendered prompt, in order; `control` pieces were written by the template. */
  split: (rendered: string, mark: string) => { text: string; control: boolean }[]
}

const escapeRegExp = (text: string) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')

/**
 * @param texts of the control tokens, longest first, so that the longest one wins where two begin alike. A single
 *   character cannot be broken by a mark, so it is not recognised in templates either.
 */
export function createGuard(texts: readonly string[]): Guard {
  const controlTexts = texts.filter((text) => [...text].length > 1)
  if (controlTexts.length === 0)
    return { protect: (text) => text, split: (rendered) => [{ text: rendered, control: false }] }
  const alternatives = controlTexts.map(escapeRegExp).join('|')
  // A lookahead finds overlapping occurrences too.
  const whole = new RegExp(`(?=(?:${alternatives}))`, 'gu')
  const separator = new RegExp(`(${alternatives})`, 'u')
  const longest = controlTexts[0]?.length ?? 0
  return {
    protect: (text, mark) => protectText(text, mark, { whole, controlTexts, longest }),
    split: (rendered, mark) =>
      rendered
        .split(separator)
        .map((piece, index) => ({
          text: index % 2 === 1 ? piece : piece.replaceAll(mark, ''),
          control: index % 2 === 1,
        }))
        .filter((piece) => piece.text !== ''),
  }
}

type Controls = { whole: RegExp; controlTexts: readonly string[]; longest: number }

function protectText(text: string, mark: string, controls: Controls): string {
  const cuts = new Set<number>()
  for (const match of text.matchAll(controls.whole)) cuts.add(afterCharacter(text, match.index))
  // The tail of the text could be the head of a marker that the next text completes.
  for (let at = Math.max(0, text.length - controls.longest + 1); at < text.length; at++) {
    const tail = text.slice(at)
    if (controls.controlTexts.some((control) => control.length > tail.length && control.startsWith(tail)))
      cuts.add(afterCharacter(text, at))
  }
  // The text could be the middle of a marker, or its head could complete one that the text before it began.
  if (text !== '' && controls.controlTexts.some((control) => control.includes(text))) cuts.add(0)
  for (let length = 1; length < controls.longest && length <= text.length; length++) {
    const head = text.slice(0, length)
    if (controls.controlTexts.some((control) => control.length > head.length && control.endsWith(head))) cuts.add(0)
  }
  if (cuts.size === 0) return text
  let out = ''
  let from = 0
  for (const cut of [...cuts].sort((a, b) => a - b)) {
    out += text.slice(from, cut) + mark
    from = cut
  }
  return out + text.slice(from)
}

const afterCharacter = (text: string, at: number) => at + ((text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1)
