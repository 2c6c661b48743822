// A mask over pieces gives what a mask over the whole text gives, whatever the pieces are; and it holds back no more than
// can still become a match.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CALL_STEPS, CONTEXT_UNITS, type Finder, patternFinder } from '../../../../gateway/guard/finder.ts'
import { maskText, TextMask } from '../../../../gateway/guard/mask.ts'
import { parsePattern } from '../../../../gateway/guard/pattern.ts'
import { PII_ENTITIES, piiFinder } from '../../../../gateway/guard/pii.ts'

const replacement = (label: string) => `[${label}]`

function pattern(text: string, ignoreCase = false): Finder {
  const parsed = parsePattern(text, ignoreCase)
  if (!parsed.ok) throw new Error(parsed.error)
  return patternFinder(text, parsed.value)
}

/** One finder after the other over the whole text: the slow obvious version for one finder. */
function slowly(text: string, finder: Finder): string {
  let out = ''
  let at = 0
  for (let match = finder.find(text, 0, text.length); match !== undefined; match = finder.find(text, at, text.length)) {
    out += text.slice(at, match.start) + replacement(finder.label)
    at = match.end
  }
  return out + text.slice(at)
}

function inPieces(text: string, cuts: readonly number[], finders: readonly Finder[]): string {
  const mask = new TextMask(finders, replacement)
  let out = ''
  let at = 0
  for (const cut of [...cuts].map((cut) => cut % (text.length + 1)).sort((a, b) => a - b)) {
    out += mask.push(text.slice(at, cut)).text
    at = cut
  }
  return out + mask.push(text.slice(at)).text + mask.end().text
}

const FRAGMENTS = [
  'bob@example.com',
  '@',
  '.',
  'a',
  ' ',
  '-',
  '4111 1111 1111 1111',
  '4111-1111',
  '12',
  '+49 30 901820',
  '(555) 123-4567',
  'DE89 3704 0044 0532 0130 00',
  'DE89',
  'x7',
  '192.168.1.20',
  '2001:db8::1:2',
  ':',
  '123-45-6789',
  'secret',
  'se',
  'cret',
  'SECRET',
  '😀',
  '\ud83d',
  'ß',
]
const texts = fc.array(fc.constantFrom(...FRAGMENTS), { maxLength: 14 }).map((parts) => parts.join(''))
const cuts = fc.array(fc.nat(200), { maxLength: 12 })

const SETS: [string, Finder[]][] = [
  ...PII_ENTITIES.map((entity): [string, Finder[]] => [entity, [piiFinder(entity)]]),
  ['all personal data', PII_ENTITIES.map(piiFinder)],
  ['patterns', [pattern('secret\\d{0,3}', true), pattern('\\b[a-z]{2,5}\\b'), pattern('[^a]{2}😀'), pattern('cre.')]],
]

describe.each(SETS)('%s', (_, finders) => {
  test('pieces and whole give the same text', () => {
    fc.assert(
      fc.property(texts, cuts, (text, cut) => {
        expect(inPieces(text, cut, finders)).toBe(maskText(text, finders, replacement).text)
      }),
      { numRuns: 400 },
    )
  })

  test('every single cut gives the same text', () => {
    const text = `${FRAGMENTS.join(' ')} ${FRAGMENTS.join('')}`
    const whole = maskText(text, finders, replacement).text
    for (let cut = 0; cut <= text.length; cut++) expect(inPieces(text, [cut], finders)).toBe(whole)
    expect(
      inPieces(
        text,
        [...text].map((_, index) => index),
        finders,
      ),
    ).toBe(whole)
  })
})

test.each(PII_ENTITIES)('%s alone: the mask and the obvious version agree', (entity) => {
  const finder = piiFinder(entity)
  fc.assert(
    fc.property(texts, (text) => {
      expect(maskText(text, [finder], replacement).text).toBe(slowly(text, finder))
    }),
    { numRuns: 200 },
  )
})

test('what can be no match any more goes on at once', () => {
  const mask = new TextMask([piiFinder('email'), piiFinder('card')], replacement)
  expect(mask.push('Hello, dear ').text).toBe('Hello, dear')
  expect(mask.push('reader bo').text).toBe(' reader ')
  expect(mask.push('b@example.com ').text).toBe('[EMAIL]')
  expect(mask.push('x!').text).toBe(' x!')
  expect(mask.end().text).toBe('')
})

test('a mask tells what it found, once for each place', () => {
  const { found } = maskText('a@example.com 4111111111111111 b@example.com', PII_ENTITIES.map(piiFinder), replacement)
  expect(found).toEqual(['EMAIL', 'CARD', 'EMAIL'])
})

test('after its end a mask begins anew: nothing of the last text is context for the next', () => {
  const mask = new TextMask([pattern('\\bone')], replacement)
  expect(mask.push('x').text + mask.end().text).toBe('x')
  expect(mask.push('one').text + mask.end().text).toBe('[\\bone]')
})

describe('the work of a text in pieces', () => {
  test('no place of it is searched twice, though most of it is held back for long', () => {
    const { find, ...slow } = pattern('a{0,30}a{0,30}b')
    const places: number[] = []
    let before = 0
    const mask = new TextMask(
      [
        {
          ...slow,
          find(text, from, limit) {
            for (let at = from; at < limit; at++) places.push(before + at)
            return find(text, from, limit)
          },
        },
      ],
      replacement,
    )
    let gone = 0
    for (let piece = 0; piece < 500; piece++) {
      gone += mask.push('aaaa').text.length
      // What went on is context at most.
      before = gone - CONTEXT_UNITS
    }
    mask.end()
    expect(places).toHaveLength(2000)
    expect(new Set(places).size).toBe(2000)
  })

  test('is told before: each new place once for each finder, and a look at what is held', () => {
    const mask = new TextMask([pattern('a{1,3}a{1,3}b'), pattern('ac')], replacement)
    const atFirst = mask.steps(10)
    expect(atFirst).toBe(10 * (9 + 1) + 2 * CALL_STEPS)
    mask.push('aaaa')
    expect(mask.steps(10)).toBe(atFirst + 2 * 4)
  })
})
