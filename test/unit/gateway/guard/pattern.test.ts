import { describe, expect, test } from 'vitest'
import { parsePattern } from '../../../../gateway/guard/pattern.ts'

const found = (pattern: string, text: string, ignoreCase = false) => {
  const parsed = parsePattern(pattern, ignoreCase)
  if (!parsed.ok) throw new Error(parsed.error)
  return text.match(parsed.value.regex) ?? []
}

describe('a pattern that is taken', () => {
  test.each([
    ['\\bPRJ-\\d{4,8}\\b', 'PRJ-1234, XPRJ-1234 PRJ-123', ['PRJ-1234']],
    ['(?:secret|confidential)\\s{0,4}project', 'a secret  project', ['secret  project']],
    ['sk-[A-Za-z0-9]{20,64}', `key sk-${'a'.repeat(30)}.`, [`sk-${'a'.repeat(30)}`]],
    ['\\p{Lu}\\.', 'É. e.', ['É.']],
    ['[^\\]a]b', ']b cb', ['cb']],
    ['(\\d{1,3}\\.){3}\\d{1,3}', '10.0.0.1', ['10.0.0.1']],
    ['\\u{1F600}x?', '😀x', ['😀x']],
  ])('%s', (pattern, text, expected) => {
    expect(found(pattern, text)).toEqual(expected)
  })

  test('ignores case where it is told to', () => {
    expect(found('projekt', 'PROJEKT')).toEqual([])
    expect(found('projekt', 'PROJEKT', true)).toEqual(['PROJEKT'])
  })

  test('knows its longest match, in how many ways it can be tried and what a match can hold', () => {
    const parsed = parsePattern('ab{2,4}(?:c|[0-9]{1,3})', false)
    expect(parsed).toMatchObject({ ok: true, value: { unitsMax: 11, paths: 6 } })
    if (!parsed.ok) return
    const { canHold } = parsed.value
    expect([...'abc9 '].map((character) => canHold(character.charCodeAt(0)))).toEqual([true, true, true, true, false])
  })
})

test('a repetition at the end is tried once, and one that something follows in all its ways', () => {
  const paths = (text: string) => {
    const parsed = parsePattern(text, false)
    return parsed.ok && parsed.value.paths
  }
  expect(paths('key\\s{0,3}=\\s{0,3}\\S{1,64}')).toBe(16)
  expect(paths('sk-[a-z]{20,64}')).toBe(1)
  expect(paths('sk-[a-z]{20,64}\\b')).toBe(45)
  expect(paths('(?:a|b){1,3}')).toBe(10)
  expect(paths('(?:a|b){1,3}c')).toBe(14)
})

test.each([
  ['', '1 to 500'],
  ['a+', 'no longest match'],
  ['a*', 'no longest match'],
  ['(a+)+$', 'no longest match'],
  ['(?:a{1,8}){1,8}b', 'more than 1000 ways'],
  ['(a|a){1,20}b', 'more than 1000 ways'],
  ['a{1,64}a{1,64}a{1,64}b', 'more than 1000 ways'],
  ['a{2,}', 'not {n} or {n,m}'],
  ['a{3,2}', 'n above m'],
  ['(?=a)b', 'a group that is not'],
  ['(?<!a)b', 'a group that is not'],
  ['(a)\\1', 'back-reference'],
  ['^a', '"^"'],
  ['a$', '"$"'],
  ['a?', 'empty text'],
  ['(?:a?){2}', 'can be empty'],
  ['\\b{2}', 'can be empty'],
  ['a{600}', 'more than 512 times'],
  ['[ab]{400}', '512 UTF-16 units'],
  ['(a', 'without its ")"'],
  ['a)', 'without its "("'],
  ['[a', 'ends in the middle'],
  ['[z-a]', 'not a regular expression'],
  ['\\', 'ends in the middle'],
  ['x{', 'not {n} or {n,m}'],
  ['}', 'out of place'],
  [`${'('.repeat(30)}a${')'.repeat(30)}`, 'too deep'],
])('%s is refused, with the reason', (pattern, reason) => {
  const parsed = parsePattern(pattern, false)
  expect(parsed.ok).toBe(false)
  if (!parsed.ok) expect(parsed.error).toContain(reason)
})

test('the worst text for the worst pattern that is taken does no more than its bound says', () => {
  // 31 · 31 ways at each place: the nearest to the bound with two repetitions.
  const parsed = parsePattern('a{1,31}a{1,31}b', false)
  if (!parsed.ok) throw new Error(parsed.error)
  expect(parsed.value.paths).toBe(31 * 31)
  expect('a'.repeat(2_000).match(parsed.value.regex)).toBeNull()
})
