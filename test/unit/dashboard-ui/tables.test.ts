import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { csvCell, csvFile } from '../../../dashboard/app/csv.ts'
import { sorted, sortOf, sortText } from '../../../dashboard/app/rows.ts'
import { rowLine } from '../../../gateway/admin/csv.ts'

describe('files for spreadsheets', () => {
  test('quotes, commas and line ends are kept inside their cell', () => {
    expect(csvFile(['a', 'b'], [['x,y', 'say "hi"\nnow']])).toBe('a,b\r\n"x,y","say ""hi""\nnow"\r\n')
  })

  test.each(['=1+1', '+1', '-1', '@cmd', '\tx', "'quoted", '＝1'])('text cannot become a formula: %s', (text) => {
    expect(csvCell(text).replace(/^"/, '').startsWith("'")).toBe(true)
  })

  test('numbers stay numbers, also below zero and beyond what a float holds', () => {
    expect(csvCell({ decimal: '-0.000000001' })).toBe('-0.000000001')
    expect(csvCell(9_007_199_254_740_993n)).toBe('9007199254740993')
    expect(csvCell(-5)).toBe('-5')
    expect(csvCell(undefined)).toBe('')
  })

  test('have the form of the exports of the API', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(csvFile(['1', 'h'], [['1', text]]).slice('1,h\r\n'.length)).toBe(rowLine('csv', ['h'], 1, [text]))
      }),
    )
  })
})

describe('the order of rows', () => {
  const rows = [{ v: 10n }, { v: undefined }, { v: 9n }, { v: 9_007_199_254_740_993n }, { v: 9_007_199_254_740_992n }]

  test('amounts are compared exactly, and nothing comes last whichever way', () => {
    const up = sorted(rows, ({ v }) => v, false).map(({ v }) => v)
    expect(up).toEqual([9n, 10n, 9_007_199_254_740_992n, 9_007_199_254_740_993n, undefined])
    expect(sorted(rows, ({ v }) => v, true).at(-1)?.v).toBeUndefined()
  })

  test('names are sorted as people do it', () => {
    const names = ['key 10', 'Key 9', 'älter', 'b']
    expect(sorted(names, (name) => name, false)).toEqual(['älter', 'b', 'Key 9', 'key 10'])
  })

  test('rows that are equal keep their order', () => {
    const pairs = [1, 2, 3, 4].map((id) => ({ id, same: 'x' }))
    expect(sorted(pairs, ({ same }) => same, true).map(({ id }) => id)).toEqual([1, 2, 3, 4])
  })

  test('stands in the address and comes back', () => {
    for (const sort of [
      { column: 'cost', descending: true },
      { column: 'name', descending: false },
    ])
      expect(sortOf(sortText(sort))).toEqual(sort)
  })
})
