// Long texts in pieces that fit into events ○. Owns where they are cut.

/** Per event: at six bytes a character in JSON an event stays below `MAX_EVENT_BYTES`. */
const PIECE_CHARS_MAX = 64 * 1024

/** A text in pieces of at most `PIECE_CHARS_MAX`, at least one; a surrogate pair stays together. */
export function pieces(text: string): string[] {
  const cut: string[] = []
  let from = 0
  do {
    const most = from + PIECE_CHARS_MAX
    const to = (text.codePointAt(most - 1) ?? 0) > 0xffff ? most - 1 : most
    cut.push(text.slice(from, to))
    from = to
  } while (from < text.length)
  return cut
}
