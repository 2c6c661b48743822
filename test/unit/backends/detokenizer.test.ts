import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Detokenizer } from '../../../backends/detokenizer.ts'

const decodePieces = (pieces: readonly Uint8Array[]) => {
  const detokenizer = new Detokenizer()
  return pieces.map((piece) => detokenizer.push(piece)).join('') + detokenizer.flush()
}

test('every way to cut multi-byte text in two gives the text back', () => {
  const text = 'aé한🙂\u{feff}z👩‍👩‍👧'
  const bytes = new TextEncoder().encode(text)
  for (let cut = 0; cut <= bytes.length; cut++)
    expect(decodePieces([bytes.subarray(0, cut), bytes.subarray(cut)])).toBe(text)
})

test('any text cut anywhere, byte by byte too, gives the text back', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.array(fc.nat(200)), (text, cuts) => {
      const bytes = new TextEncoder().encode(text)
      const borders = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
      const pieces = borders.slice(1).map((end, i) => bytes.subarray(borders[i] ?? 0, end))
      expect(decodePieces(pieces)).toBe(text)
      expect(decodePieces([...bytes].map((byte) => Uint8Array.of(byte)))).toBe(text)
    }),
  )
})

test('any bytes at all decode as the platform decodes them whole', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const whole = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)
      expect(decodePieces([...bytes].map((byte) => Uint8Array.of(byte)))).toBe(whole)
    }),
  )
})

test('half a character waits, and becomes U+FFFD when nothing follows', () => {
  const detokenizer = new Detokenizer()
  expect(detokenizer.push(Uint8Array.of(0xf0, 0x9f, 0x99))).toBe('')
  expect(detokenizer.flush()).toBe('\ufffd')
})

test('nothing emitted is ever half a surrogate pair', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const detokenizer = new Detokenizer()
      for (const byte of new TextEncoder().encode(text))
        expect(detokenizer.push(Uint8Array.of(byte)).isWellFormed()).toBe(true)
    }),
  )
})
