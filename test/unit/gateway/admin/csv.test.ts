// Export lines: what goes in comes out again, nothing runs as a formula, numbers stay numbers.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Cell, endLine, headLine, rowLine } from '../../../../gateway/admin/csv.ts'

/** A reader of RFC 4180 of its own: records of fields. */
function parseCsv(text: string): string[][] {
  const records: string[][] = []
  let record: string[] = []
  let at = 0
  while (at < text.length) {
    let field = ''
    if (text[at] === '"') {
      for (at++; ; at++) {
        if (at >= text.length) throw new Error('a quote is never closed')
        if (text[at] !== '"') field += text[at]
        else if (text[at + 1] === '"') field += text[at++]
        else break
      }
      at++
    } else while (at < text.length && text[at] !== ',' && text[at] !== '\r') field += text[at++]
    record.push(field)
    if (text[at] === ',') {
      at++
      if (at === text.length) throw new Error('a record is cut')
    } else if (text.startsWith('\r\n', at)) {
      at += 2
      records.push(record)
      record = []
    } else throw new Error(`neither a comma nor a line end at ${at}`)
  }
  return records
}

const NASTY = [
  '=1+1',
  '+1',
  '-1',
  '@x',
  '\tx',
  '\rx',
  '\nx',
  "'x",
  "''=x",
  'a,b',
  'a"b',
  '"',
  '""',
  'line\r\nbreak',
  ' =x',
  '',
  '＝x',
  '😀é',
]

describe('a CSV line', () => {
  test('gives every text back: one apostrophe taken away where the cell begins with one', () => {
    const anything = fc.oneof(fc.constantFrom(...NASTY), fc.string({ unit: 'binary', maxLength: 20 }))
    fc.assert(
      fc.property(fc.array(anything, { minLength: 1, maxLength: 6 }), (texts) => {
        const columns = texts.map((_, index) => `c${index}`)
        const file = headLine('csv', columns) + rowLine('csv', columns, 1, texts) + endLine('csv', columns, 1)
        const [head, row, end] = parseCsv(file)
        expect(head).toEqual(['row', ...columns])
        expect(row?.slice(1).map((cell) => cell.replace(/^'/, ''))).toEqual(texts)
        expect(end?.slice(0, 2)).toEqual(['end', '1'])
        // As wide as the others: strict readers take the last line too.
        expect(end).toHaveLength(head?.length ?? 0)
      }),
    )
  })
  test.each(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])(
    'never lets a text begin with %j',
    (start) => {
      const [row] = parseCsv(rowLine('csv', ['a'], 1, [`${start}cmd|' /C calc'!A0`]))
      expect(row?.[1]?.startsWith("'")).toBe(true)
    },
  )
  test('leaves numbers as they are, also below zero', () => {
    const cells: Cell[] = [-5, { decimal: '-0.000000455' }, { decimal: '9223372036854775807' }, true, null]
    expect(rowLine('csv', ['a', 'b', 'c', 'd', 'e'], 7, cells)).toBe('7,-5,-0.000000455,9223372036854775807,true,\r\n')
  })
  test('escapes a text that looks like a negative number: it is a text', () => {
    expect(rowLine('csv', ['a'], 1, ['-5'])).toBe("1,'-5\r\n")
  })
})

describe('a JSON line', () => {
  test('holds the cells under their names, decimals as texts, and stays one line', () => {
    const line = rowLine('json', ['end_user', 'cost_nanousd', 'stream', 'first'], 3, [
      '=a\nb',
      { decimal: '-12' },
      false,
      null,
    ])
    expect(line.indexOf('\n')).toBe(line.length - 1)
    expect(JSON.parse(line)).toEqual({ row: 3, end_user: '=a\nb', cost_nanousd: '-12', stream: false, first: null })
  })
  test('says at the end how many there were', () => {
    expect(headLine('json', ['a'])).toBe('')
    expect(JSON.parse(endLine('json', ['a'], 12))).toEqual({ row: 'end', rows: 12 })
  })
})
