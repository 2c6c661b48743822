import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeVector, encodeVector, vectorLength } from '../../../../gateway/stream/vector.ts'

const float32 = fc.float({ noNaN: true, noDefaultInfinity: true })

test('a vector comes back bit by bit, and its text says how long it is', () => {
  fc.assert(
    fc.property(fc.array(float32, { maxLength: 50 }), (values) => {
      const text = encodeVector(values)
      expect(decodeVector(text)).toEqual(values)
      expect(vectorLength(text)).toBe(values.length)
    }),
  )
})

test('the text is what a client decodes as little-endian 32-bit floats', () => {
  const bytes = Buffer.from(encodeVector([1, -0.5]), 'base64')
  expect([bytes.readFloatLE(0), bytes.readFloatLE(4)]).toEqual([1, -0.5])
})

test('a vector longer than one call of the runtime takes is whole', () => {
  const values = Array.from({ length: 100_000 }, (_, at) => at)
  expect(decodeVector(encodeVector(values)).at(-1)).toBe(99_999)
})
