// A table as a download. Owns the way from pages of rows to a response: one page in memory at a time, read when the
// client takes it, and an end that tells a whole file from one that was cut.
import { errorText, log } from '../observe/log.ts'
import type { AdminContext } from './context.ts'
import { type Cell, endLine, type Format, headLine, rowLine } from './csv.ts'

/** Rows per statement: a page is below a megabyte. */
export const EXPORT_PAGE_ROWS = 1_000

export type Table<Row> = {
  /** Without an extension. */
  fileName: string
  columns: readonly string[]
  /** The next at most EXPORT_PAGE_ROWS rows behind a row, in an order that does not change. */
  page(after: Row | undefined): Promise<Row[]>
  cells(row: Row): Cell[]
}

/**
 * Answers once the first page is read, so that a database that is away is a proper error. One that goes away later breaks
 * the connection off; the file has no last line then.
 */
export async function download<Row>(c: AdminContext, format: Format, table: Table<Row>): Promise<Response> {
  const { columns } = table
  const encoder = new TextEncoder()
  let page = await table.page(undefined)
  let text = headLine(format, columns)
  let rows = 0
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        for (const row of page) text += rowLine(format, columns, ++rows, table.cells(row))
        const last = page.at(-1)
        const whole = last === undefined || page.length < EXPORT_PAGE_ROWS
        if (whole) text += endLine(format, columns, rows)
        controller.enqueue(encoder.encode(text))
        text = ''
        if (whole) controller.close()
        else page = await table.page(last)
      } catch (error) {
        log('warn', 'export_broke_off', { requestId: c.get('requestId'), rows, reason: errorText(error) })
        controller.error(error)
      }
    },
  })
  return new Response(body, {
    headers: {
      'content-type': format === 'csv' ? 'text/csv; charset=utf-8; header=present' : 'application/x-ndjson',
      'content-disposition': `attachment; filename="${table.fileName}.${format === 'csv' ? 'csv' : 'ndjson'}"`,
      'cache-control': 'no-store',
    },
  })
}
