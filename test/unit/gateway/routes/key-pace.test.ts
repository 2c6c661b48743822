import { expect, test } from 'vitest'
import { KeyPace } from '../../../../gateway/routes/key-pace.ts'

const BOUNDS = { perMinuteMax: 60, openMax: 4 }

test('a key has so many calls a minute, and another its own', () => {
  const pace = new KeyPace(BOUNDS)
  const now = 1_000
  for (let count = 0; count < 60; count++) pace.begin('a', now + count)?.()
  expect(pace.begin('a', now + 59_999)).toBeUndefined()
  expect(pace.begin('b', now + 59_999)).toBeDefined()
  expect(pace.begin('a', now + 60_000)).toBeDefined()
})

test('a key has so many calls at a time; one that ends makes room for one, however often it is said to', () => {
  const pace = new KeyPace(BOUNDS)
  const ends = Array.from({ length: 4 }, () => pace.begin('a', 0))
  expect(ends.every((end) => end !== undefined)).toBe(true)
  expect(pace.begin('a', 0)).toBeUndefined()
  // A new minute ends none of them.
  expect(pace.begin('a', 60_000)).toBeUndefined()
  ends[0]?.()
  ends[0]?.()
  expect(pace.begin('a', 60_000)).toBeDefined()
  expect(pace.begin('a', 60_000)).toBeUndefined()
})
