// A table of rows. Owns sorting, pages, moving by keyboard, and the file of exactly what it shows: its columns, its rows, in
// its order. Tables wider than the page scroll inside themselves.
import type { ComponentChildren } from 'preact'
import { useMemo, useRef, useState } from 'preact/hooks'
import { type CsvCell, csvFile } from '../app/csv.ts'
import { go, goParams, params } from '../app/router.ts'
import { type Sort, type SortValue, sorted, sortOf, sortText } from '../app/rows.ts'
import { Icon } from './icon.tsx'

export type Column<Row> = {
  id: string
  head: ComponentChildren
  /** For the file and for screen readers where `head` is no text. */
  name?: string
  /** What it is sorted by, and what the file holds unless `csv` says otherwise. Absent: not sortable. */
  value?: (row: Row) => SortValue
  cell: (row: Row) => ComponentChildren
  csv?: (row: Row) => CsvCell
  /** Numbers stand right, so that their digits are under each other. */
  align?: 'start' | 'end'
  /** Names may be cut with an ellipsis; their title says them whole. */
  grow?: boolean
  /** Left out of the file: buttons. */
  bare?: boolean
}

/** Rows on the screen at once. */
const PAGE_ROWS = 50

export function Table<Row>({
  caption,
  columns,
  rows,
  rowKey,
  defaultSort,
  sortParam,
  href,
  onOpen,
  isSelected,
  file,
  pageRows = PAGE_ROWS,
  more,
  foot,
  empty,
  showCaption = false,
  stacks = false,
  actions,
}: {
  /** What it is, for screen readers; shown too with `showCaption`. */
  caption: string
  columns: readonly Column<Row>[]
  rows: readonly Row[]
  rowKey: (row: Row) => string
  defaultSort?: Sort
  /** Name of the query parameter that holds the order, where others should get it by the address. */
  sortParam?: string
  /** Where a row leads: by click anywhere on it, and by Enter. Give its first cell a link too. */
  href?: (row: Row) => string | undefined
  onOpen?: (row: Row) => void
  isSelected?: (row: Row) => boolean
  /** Name of the file without its ending; absent: no export. */
  file?: string
  pageRows?: number
  /** There are more rows at the gateway. */
  more?: { load: () => void; isLoading: boolean } | undefined
  /** Cells of a last row, by column: sums. They are in the file too. */
  foot?: Partial<Record<string, { text: ComponentChildren; csv: CsvCell }>>
  empty?: ComponentChildren
  showCaption?: boolean
  /** On narrow screens each row is a list of its cells: for rows that say little while half of them is out of sight. */
  stacks?: boolean
  /** Beside the export. */
  actions?: ComponentChildren
}) {
  const [ownSort, setOwnSort] = useState<Sort | undefined>(defaultSort)
  const asked = sortParam === undefined ? undefined : (params.value.get(sortParam) ?? undefined)
  const sort = sortParam === undefined ? ownSort : asked === undefined ? defaultSort : sortOf(asked)
  const [page, setPage] = useState(0)
  const [active, setActive] = useState(0)
  const body = useRef<HTMLTableSectionElement>(null)

  const column = columns.find(({ id }) => id === sort?.column)
  const value = column?.value
  const ordered = useMemo(
    () => (value === undefined || sort === undefined ? [...rows] : sorted(rows, value, sort.descending)),
    [rows, value, sort?.descending],
  )
  const pages = Math.max(1, Math.ceil(ordered.length / pageRows))
  const shownPage = Math.min(page, pages - 1)
  const shown = ordered.slice(shownPage * pageRows, (shownPage + 1) * pageRows)
  const opens = href !== undefined || onOpen !== undefined
  const focusable = Math.min(active, shown.length - 1)

  const sortBy = (id: string, first: boolean) => {
    const next: Sort = { column: id, descending: sort?.column === id ? !sort.descending : first }
    setPage(0)
    if (sortParam === undefined) return setOwnSort(next)
    const query = new URLSearchParams(params.value)
    query.set(sortParam, sortText(next))
    goParams(query, { replace: true })
  }
  const open = (row: Row) => {
    const to = href?.(row)
    if (to !== undefined) go(to)
    else onOpen?.(row)
  }
  const move = (event: KeyboardEvent, index: number) => {
    // Keys pressed in a button or field of the row are theirs.
    if (event.target !== event.currentTarget) return
    const row = shown[index]
    if (event.key === 'Enter' && row !== undefined) return open(row)
    const to = { ArrowDown: index + 1, ArrowUp: index - 1, j: index + 1, k: index - 1, Home: 0, End: shown.length - 1 }[
      event.key
    ]
    if (to === undefined || to < 0 || to >= shown.length) return
    event.preventDefault()
    setActive(to)
    const next = body.current?.rows[to]
    next?.focus()
  }
  const save = () => saveFile(`${file}.csv`, tableFile(columns, ordered, foot))

  if (rows.length === 0 && empty !== undefined) return <>{empty}</>
  return (
    <div class="table-box">
      {(file !== undefined || actions !== undefined || showCaption) && (
        <div class="table-tools">
          {showCaption ? <h2 class="table-title">{caption}</h2> : <span />}
          <span class="table-buttons">
            {actions}
            {file !== undefined && (
              <button type="button" class="button button-small" onClick={save} disabled={rows.length === 0}>
                <Icon name="download" />
                CSV
                <span class="visually-hidden"> of {caption}</span>
              </button>
            )}
          </span>
        </div>
      )}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, and must do so by keyboard */}
      <section class="table-scroll" tabIndex={0} aria-label={caption}>
        <table class={stacks ? 'table is-stacking' : 'table'}>
          <caption class="visually-hidden">{caption}</caption>
          <thead>
            <tr>
              {columns.map(({ id, head, name, value: sortable, align, grow }) => (
                <th
                  key={id}
                  scope="col"
                  class={`${align === 'end' ? 'is-end' : ''}${grow ? ' is-grow' : ''}`}
                  aria-sort={sort?.column === id ? (sort.descending ? 'descending' : 'ascending') : undefined}
                >
                  {sortable === undefined ? (
                    (head ?? <span class="visually-hidden">{name}</span>)
                  ) : (
                    <button type="button" class="sort" onClick={() => sortBy(id, align === 'end')}>
                      {head}
                      <span class="sort-mark" aria-hidden="true">
                        {sort?.column === id ? (sort.descending ? '↓' : '↑') : ''}
                      </span>
                    </button>
                  )}
                </th>
              ))}
            </tr>
          </thead>
          <tbody ref={body}>
            {shown.map((row, index) => (
              <tr
                key={rowKey(row)}
                class={`${opens ? 'is-link' : ''}${isSelected?.(row) ? ' is-selected' : ''}`}
                tabIndex={opens ? (index === focusable ? 0 : -1) : undefined}
                onKeyDown={opens ? (event) => move(event, index) : undefined}
                onFocus={opens ? () => setActive(index) : undefined}
                onClick={
                  opens
                    ? (event) => {
                        // Links, buttons and selected text inside a row are themselves.
                        const inner =
                          event.target instanceof Element && event.target.closest('a, button, input, select, label')
                        if (!inner && window.getSelection()?.toString() === '') open(row)
                      }
                    : undefined
                }
              >
                {columns.map(({ id, head, cell, align, grow }) => (
                  <td
                    key={id}
                    data-head={stacks && typeof head === 'string' ? head : undefined}
                    class={`${align === 'end' ? 'is-end' : ''}${grow ? ' is-grow' : ''}`}
                  >
                    {cell(row)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
          {foot !== undefined && rows.length > 0 && (
            <tfoot>
              <tr>
                {columns.map(({ id, align, grow }) => (
                  <td key={id} class={`${align === 'end' ? 'is-end' : ''}${grow ? ' is-grow' : ''}`}>
                    {foot[id]?.text}
                  </td>
                ))}
              </tr>
            </tfoot>
          )}
        </table>
      </section>
      {(pages > 1 || more !== undefined) && (
        <nav class="pager" aria-label={`Pages of ${caption}`}>
          <span class="muted">
            {shown.length === 0 ? 0 : shownPage * pageRows + 1}–{shownPage * pageRows + shown.length} of{' '}
            {ordered.length}
            {more === undefined ? '' : '+'}
          </span>
          <span class="pager-buttons">
            {pages > 1 && (
              <>
                <button
                  type="button"
                  class="button button-small"
                  disabled={shownPage === 0}
                  onClick={() => setPage(shownPage - 1)}
                >
                  <Icon name="left" />
                  Previous
                </button>
                <button
                  type="button"
                  class="button button-small"
                  disabled={shownPage >= pages - 1}
                  onClick={() => setPage(shownPage + 1)}
                >
                  Next
                  <Icon name="right" />
                </button>
              </>
            )}
            {more !== undefined && (
              <button type="button" class="button button-small" disabled={more.isLoading} onClick={more.load}>
                {more.isLoading ? 'Loading…' : 'Load more'}
              </button>
            )}
          </span>
        </nav>
      )}
    </div>
  )
}

type Foot = Partial<Record<string, { text: ComponentChildren; csv: CsvCell }>>

function tableFile<Row>(columns: readonly Column<Row>[], rows: readonly Row[], foot: Foot | undefined): string {
  const kept = columns.filter(({ bare }) => !bare)
  const head = kept.map(({ head: shown, name, id }) => name ?? (typeof shown === 'string' ? shown : id))
  const lines = rows.map((row) => kept.map(({ csv, value }) => csv?.(row) ?? value?.(row)))
  return csvFile(head, foot === undefined ? lines : [...lines, kept.map(({ id }) => foot[id]?.csv)])
}

/** Hands a text to the browser as a download. */
export function saveFile(name: string, text: string, type = 'text/csv'): void {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }))
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
