import { describe, expect, test } from 'vitest'
import {
  flag,
  oneOf,
  optionalText,
  readState,
  someOf,
  wholeNumber,
  writeState,
} from '../../../dashboard/app/url-state.ts'

const SCHEMA = {
  by: oneOf(['model', 'key', 'provider'], 'model'),
  query: optionalText,
  top: wholeNumber(10, 1, 200),
  compare: flag(true),
  shown: someOf(['a', 'b', 'c'], ['a']),
}
const read = (text: string) => readState(SCHEMA, new URLSearchParams(text))
const write = (text: string, change: Parameters<typeof writeState<typeof SCHEMA>>[2]) =>
  writeState(SCHEMA, new URLSearchParams(text), change).toString()

describe('filters in an address', () => {
  test('an address without parameters means the defaults', () => {
    expect(read('')).toEqual({ by: 'model', query: undefined, top: 10, compare: true, shown: ['a'] })
  })

  test('values are read by their types', () => {
    expect(read('by=key&query=a%26b&top=50&compare=0&shown=c,b')).toEqual({
      by: 'key',
      query: 'a&b',
      top: 50,
      compare: false,
      shown: ['c', 'b'],
    })
  })

  test.each(['by=nonsense', 'top=0', 'top=201', 'top=1e3', 'top=-5', 'compare=yes', 'query='])(
    'what makes no sense is the default: %s',
    (text) => {
      expect(read(text)).toEqual(read(''))
    },
  )

  test('a word that stands twice counts once, and unknown ones not at all', () => {
    expect(read('shown=b,b,x').shown).toEqual(['b'])
  })

  test('defaults are not written, so that addresses stay short', () => {
    expect(write('by=key&top=50', { by: 'model', top: 10 })).toBe('')
    expect(write('', { shown: ['a'], compare: true, query: undefined })).toBe('')
  })

  test('parameters of others survive a change', () => {
    expect(write('org=x&by=key', { by: 'provider' })).toBe('org=x&by=provider')
  })

  test('every value comes back as it was written', () => {
    const values = { by: 'key', query: 'a=b&c d%+ü', top: 7, compare: false, shown: ['c', 'a'] } as const
    expect(read(write('', values))).toEqual(values)
  })
})
