// API keys as text: format, checksum, fairness of the characters, and the hash.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { hashKey, makeKey, parseKey } from '../../../../gateway/auth/keys.ts'

const secure = (count: number) => crypto.getRandomValues(new Uint8Array(count))
const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

test('a new key parses, and shows its first twelve characters', () => {
  for (let round = 0; round < 200; round++) {
    const key = makeKey(secure)
    expect(key).toMatch(/^psk_[0-9A-Za-z]{38}$/)
    expect(parseKey(key)).toEqual({ prefix: key.slice(0, 12) })
  }
})

test('the format is fixed: these bytes make this key for ever', () => {
  expect(makeKey((count) => new Uint8Array(count).fill(0))).toBe(`psk_${'0'.repeat(32)}0Dqkal`)
})

test('bytes that would make some characters likelier are skipped, and more are asked for', () => {
  const asked: number[] = []
  const batches = [255, 254, 253, 252, 251, 250, 249, 248]
  const key = makeKey((count) => {
    asked.push(count)
    return new Uint8Array(count).fill(batches.shift() ?? 61)
  })
  expect(asked).toHaveLength(9)
  expect(key.slice(4, 36)).toBe('z'.repeat(32))
})

test('every character of a key is one of 62, about equally often', () => {
  const counts = new Map<string, number>()
  for (let round = 0; round < 2_000; round++) {
    for (const character of makeKey(secure).slice(4, 36)) counts.set(character, (counts.get(character) ?? 0) + 1)
  }
  expect([...counts.keys()].toSorted().join('')).toBe([...BASE62].toSorted().join(''))
  // 64,000 draws over 62 characters: 1,032 each, standard deviation 32; eight of those never happen by chance.
  for (const count of counts.values()) expect(Math.abs(count - 64_000 / 62)).toBeLessThan(8 * 32)
})

test('any one mistyped character is found by the checksum', () => {
  const position = fc.integer({ min: 4, max: 41 })
  fc.assert(
    fc.property(
      position,
      fc.constantFrom(...BASE62),
      fc.uint8Array({ minLength: 32, maxLength: 32 }),
      (at, typed, seed) => {
        const key = makeKey((count) => seed.slice(0, count).map((byte) => byte % 248))
        fc.pre(key[at] !== typed)
        expect(parseKey(key.slice(0, at) + typed + key.slice(at + 1))).toBeUndefined()
      },
    ),
  )
})

test('two neighbours swapped are found by the checksum', () => {
  fc.assert(
    fc.property(fc.integer({ min: 4, max: 40 }), fc.uint8Array({ minLength: 32, maxLength: 32 }), (at, seed) => {
      const key = makeKey((count) => seed.slice(0, count).map((byte) => byte % 248))
      fc.pre(key[at] !== key[at + 1])
      const swapped = key.slice(0, at) + key.charAt(at + 1) + key.charAt(at) + key.slice(at + 2)
      expect(parseKey(swapped)).toBeUndefined()
    }),
  )
})

test.each([
  ['nothing', ''],
  ['the prefix alone', 'psk_'],
  ['another prefix', `sk_${'0'.repeat(38)}`],
  ['a space at the end', `psk_${'0'.repeat(32)}0Dqkal `],
  ['a line break at the end', `psk_${'0'.repeat(32)}0Dqkal\n`],
  ['a letter outside ASCII', `psk_${'é'.repeat(38)}`],
  ['a million characters', 'psk_'.repeat(250_000)],
])('%s is no key', (_, text) => {
  expect(parseKey(text)).toBeUndefined()
})

test('the hash is SHA-256 of the whole text in hex', async () => {
  expect(await hashKey('abc')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
  const key = makeKey(secure)
  expect(await hashKey(key)).not.toBe(await hashKey(`${key.slice(0, -1)}_`))
})
