import fc from 'fast-check'
import { expect, test } from 'vitest'
import { StopScanner } from '../../../backends/stop-strings.ts'

/** The slow obvious version: the first place where a stop ends, the longest one there. */
function naive(text: string, stops: readonly string[]): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0]
    if (found !== undefined) return { text: text.slice(0, end - found.length), stopped: true }
  }
  return { text, stopped: false }
}

function scan(pieces: readonly string[], stops: readonly string[]) {
  const scanner = new StopScanner(stops)
  const emitted = pieces.map((piece) => scanner.push(piece))
  return { emitted, text: emitted.join('') + scanner.flush(), stopped: scanner.stopped }
}

const letters = (max: number) => fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: max })
const stopList = fc.array(
  letters(5).filter((stop) => stop !== ''),
  { maxLength: 4 },
)

test('however the text is cut, the result is that of a search in the whole text', () => {
  fc.assert(
    fc.property(fc.array(letters(4), { maxLength: 20 }), stopList, (pieces, stops) => {
      const { text, stopped } = scan(pieces, stops)
      expect({ text, stopped }).toEqual(naive(pieces.join(''), stops))
    }),
    { numRuns: 2000 },
  )
})

test('nothing that belongs to a stop is ever emitted early', () => {
  fc.assert(
    fc.property(fc.array(letters(3), { maxLength: 20 }), stopList, (pieces, stops) => {
      const whole = naive(pieces.join(''), stops).text
      let emitted = ''
      const scanner = new StopScanner(stops)
      for (const piece of pieces) {
        emitted += scanner.push(piece)
        expect(whole.startsWith(emitted)).toBe(true)
      }
    }),
  )
})

test('text that can begin no stop is not held back', () => {
  expect(scan(['hello', ' wor', 'ld'], ['###']).emitted).toEqual(['hello', ' wor', 'ld'])
})

test('only the tail that could begin a stop waits', () => {
  expect(scan(['abc#', '#x', '##', '#'], ['###']).emitted).toEqual(['abc', '##x', '', ''])
})

test('a stop that is the whole text leaves nothing', () => {
  expect(scan(['STOP'], ['STOP'])).toEqual({ emitted: [''], text: '', stopped: true })
})
