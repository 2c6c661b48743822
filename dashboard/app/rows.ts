// Rows of a table in the order that a user wants. Owns comparing: amounts as amounts, text as people sort it, nothing last
// whichever way. ○ Pure.

export type SortValue = string | number | bigint | boolean | undefined
export type Sort = { column: string; descending: boolean }

const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' })

function compare(a: Exclude<SortValue, undefined>, b: Exclude<SortValue, undefined>): number {
  if (typeof a === 'string' || typeof b === 'string') return collator.compare(String(a), String(b))
  return a < b ? -1 : a > b ? 1 : 0
}

/** A new list; rows that compare equal keep their order. */
export function sorted<Row>(rows: readonly Row[], value: (row: Row) => SortValue, descending: boolean): Row[] {
  return [...rows].sort((left, right) => {
    const [a, b] = [value(left), value(right)]
    if (a === undefined || b === undefined) return a === b ? 0 : a === undefined ? 1 : -1
    return descending ? compare(b, a) : compare(a, b)
  })
}

/** `cost` or `-cost`, as it stands in an address. */
export const sortText = ({ column, descending }: Sort): string => (descending ? `-${column}` : column)

export const sortOf = (text: string): Sort =>
  text.startsWith('-') ? { column: text.slice(1), descending: true } : { column: text, descending: false }
