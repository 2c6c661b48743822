// Lines of an export. Owns the two forms, CSV (RFC 4180) and JSON lines, and what keeps a spreadsheet from running a
// caller's text as a formula. Pure.

/** A number that is too exact for a JSON number: digits, one sign, one point. */
export type Decimal = { decimal: string }
export type Cell = string | number | boolean | null | Decimal
export type Format = 'csv' | 'json'

/**
 * What makes a spreadsheet take a text for a formula, and the apostrophe itself: a text that begins with one of these gets
 * an apostrophe in front, so that taking one away gives back every text. Numbers are none: negative amounts stay numbers. The
 * last four are full-width; escaped, since a single letter beyond Latin-1 doubles what the whole bundle takes in memory.
 */
const FORMULA_START = /^[=+\-@\t\r\n'\uFF1D\uFF0B\uFF0D\uFF20]/

/** The names of the columns; nothing in JSON lines, where each line has them. */
export const headLine = (format: Format, columns: readonly string[]): string =>
  format === 'csv' ? csvLine(['row', ...columns]) : ''

/** @param row 1 for the first */
export function rowLine(format: Format, columns: readonly string[], row: number, cells: readonly Cell[]): string {
  if (format === 'csv') return csvLine([row, ...cells])
  const named = columns.map((column, index) => [column, jsonValue(cells[index] ?? null)])
  return `${JSON.stringify({ row, ...Object.fromEntries(named) })}\n`
}

/** The last line of every whole export, as wide as the others: `end` and how many rows came before it. */
export function endLine(format: Format, columns: readonly string[], rows: number): string {
  if (format === 'json') return `${JSON.stringify({ row: 'end', rows })}\n`
  return csvLine(['end', rows, ...columns.slice(1).map(() => null)])
}

const csvLine = (cells: readonly Cell[]): string => `${cells.map(csvCell).join(',')}\r\n`

function csvCell(cell: Cell): string {
  if (cell === null) return ''
  if (typeof cell === 'object') return cell.decimal
  if (typeof cell !== 'string') return String(cell)
  const text = FORMULA_START.test(cell) ? `'${cell}` : cell
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

const jsonValue = (cell: Cell) => (cell !== null && typeof cell === 'object' ? cell.decimal : cell)
