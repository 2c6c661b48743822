// What goes to a terminal, a pipe or a script. Owns tables, colours and the JSON form; what is said is the commands'. No control
// character of anybody's data reaches a terminal.
import type { Outcome } from './command.ts'
import type { CliFailure } from './failure.ts'

export type Stream = { write: (text: string | Uint8Array) => unknown; isTTY?: boolean; columns?: number }

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan'
const CODES: Readonly<Record<Style, string>> = { bold: '1', dim: '2', red: '31', green: '32', yellow: '33', cyan: '36' }

/** Everything but what moves the cursor, changes colours or rings a bell. Newlines inside a cell would break its row. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g
export const plain = (text: string): string => text.replace(CONTROL, '\u00b7')
/** Text of several lines, such as a model's answer. */
export const plainLines = (text: string): string =>
  text.replace(CONTROL, (letter) => (letter === '\n' || letter === '\t' ? letter : '\u00b7'))

export type Paint = (style: Style, text: string) => string

/** NO_COLOR (https://no-color.org) and a pipe mean none. */
export function painter(stream: Stream, env: Record<string, string | undefined>): Paint {
  const isColoured = env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '0'
  const isPlain = (env.NO_COLOR ?? '') !== '' || env.TERM === 'dumb' || stream.isTTY !== true
  return isColoured || !isPlain ? (style, text) => `\u001b[${CODES[style]}m${text}\u001b[0m` : (_, text) => text
}

export type Column<Row> = {
  title: string
  of: (row: Row) => string
  isRight?: boolean
  style?: (row: Row) => Style | undefined
}

/** Columns as wide as they need; numbers stand at the right. Empty: what `none` says. */
export function table<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  paint: Paint,
  none: string,
): string[] {
  if (rows.length === 0) return [none]
  const cells = rows.map((row) => columns.map(({ of }) => plain(of(row))))
  const widths = columns.map(({ title }, index) =>
    Math.max(width(title), ...cells.map((line) => width(line[index] ?? ''))),
  )
  const line = (words: string[], style: (index: number) => Style | undefined) =>
    words
      .map((word, index) => {
        const gap = ' '.repeat(Math.max(0, (widths[index] ?? 0) - width(word)))
        const chosen = style(index)
        const shown = chosen === undefined ? word : paint(chosen, word)
        if (columns[index]?.isRight === true) return gap + shown
        return index === words.length - 1 ? shown : shown + gap
      })
      .join('  ')
      .trimEnd()
  return [
    line(
      columns.map(({ title }) => title),
      () => 'dim',
    ),
    ...cells.map((words, at) => line(words, (index) => columns[index]?.style?.(rows[at] as Row))),
  ]
}

/** Names and values under each other. Absent values are left out. */
export function fields(pairs: readonly (readonly [name: string, value: string | undefined])[], paint: Paint): string[] {
  const shown = pairs.flatMap(([name, value]) => (value === undefined ? [] : [[name, plain(value)] as const]))
  const widest = Math.max(0, ...shown.map(([name]) => width(name)))
  return shown.map(([name, value]) => `${paint('dim', name.padEnd(widest))}  ${value}`)
}

/** Cells, not code units: wide East Asian letters and emoji take two. Good enough for a table. */
function width(text: string): number {
  let cells = 0
  for (const letter of text) cells += WIDE.test(letter) ? 2 : 1
  return cells
}
const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}]/u

/** @param path of the command: names the schema of its data */
export function outcomeJson(path: readonly string[], outcome: NonNullable<Outcome>): string {
  const { data, nextCursor } = outcome
  return JSON.stringify({
    schema: `penstock.${path.join('.')}.v1`,
    data,
    ...(nextCursor !== undefined && { next_cursor: nextCursor }),
  })
}

export function failureLines(failure: CliFailure, paint: Paint): string[] {
  const { message, hint, requestId } = failure
  return [
    `${paint('red', 'error')}  ${plain(message)}`,
    ...(hint === undefined ? [] : [`${paint('dim', 'next')}   ${plain(hint)}`]),
    ...(requestId === undefined ? [] : [`${paint('dim', 'id')}     ${plain(requestId)}`]),
  ]
}

export function failureJson(failure: CliFailure): string {
  const { code, message, hint, requestId, exitCode } = failure
  return JSON.stringify({ error: { code, message, hint, request_id: requestId, exit_code: exitCode } })
}
