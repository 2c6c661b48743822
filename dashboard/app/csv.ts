// A table as a file for spreadsheets. Owns the form (RFC 4180, decimal strings, an apostrophe in front of what would run
// as a formula), the same as the API's own exports. ○ Pure.

/** Text is escaped against formulas; `{ decimal }` is a number that is too exact for a float. */
export type CsvCell = string | number | bigint | boolean | undefined | { decimal: string }

/** What makes a spreadsheet take a text for a formula, and the apostrophe itself, so that taking one away gives back every text. */
const FORMULA_START = /^[=+\-@\t\r\n'＝＋－＠]/

export const csvFile = (head: readonly string[], rows: readonly (readonly CsvCell[])[]): string =>
  [head, ...rows].map((cells) => `${cells.map(csvCell).join(',')}\r\n`).join('')

export function csvCell(cell: CsvCell): string {
  if (cell === undefined) return ''
  if (typeof cell === 'object') return cell.decimal
  if (typeof cell !== 'string') return String(cell)
  const text = FORMULA_START.test(cell) ? `'${cell}` : cell
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
