// What objects are told and answer, as text and back: nothing that Workers RPC carries may change on the way.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { packed, unpacked } from '../../../../gateway/handover/packed.ts'

test('any value comes back as it went', () => {
  const value = fc.anything({
    withBigInt: true,
    withDate: true,
    withMap: true,
    withSet: true,
    withNullPrototype: false,
    withSparseArray: false,
  })
  fc.assert(fc.property(value, (one) => void expect(unpacked(packed(one))).toStrictEqual(one)))
})

test.each<[string, unknown]>([
  ['bytes', { a: new Uint8Array([0, 255, 7]) }],
  ['an object with the key that marks others', { $: ['map', 1], b: undefined }],
  ['what JSON has no number for', [Number.NaN, -0, Infinity, -Infinity]],
  ['a date that is none', { at: new Date(Number.NaN) }],
  ['a name that objects have', JSON.parse('{"__proto__":{"x":1}}')],
])('%s', (_, value) => {
  expect(unpacked(packed(value))).toStrictEqual(value)
})

test('what has no text is refused instead of being changed', () => {
  for (const value of [() => 1, Symbol('x'), new (class Own {})(), new AbortController().signal]) {
    expect(() => packed({ value })).toThrow('cannot be handed over')
  }
})
