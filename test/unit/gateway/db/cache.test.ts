// The isolate's bounded copies of database facts.
import { expect, test } from 'vitest'
import { FactCache } from '../../../../gateway/db/cache.ts'

test('a copy is fresh, then usable, then gone, to the millisecond', () => {
  const cache = new FactCache<number>(10)
  cache.set('a', 1, 100, 200)
  expect(cache.get('a', 99)).toEqual({ value: 1, fresh: true })
  expect(cache.get('a', 100)).toEqual({ value: 1, fresh: false })
  expect(cache.get('a', 199)).toEqual({ value: 1, fresh: false })
  expect(cache.get('a', 200)).toBeUndefined()
  expect(cache.get('b', 0)).toBeUndefined()
})

test('over the bound the copy that was used longest ago goes', () => {
  const cache = new FactCache<number>(2)
  cache.set('a', 1, 100)
  cache.set('b', 2, 100)
  cache.get('a', 0)
  cache.set('c', 3, 100)
  expect(['a', 'b', 'c'].map((key) => cache.get(key, 0)?.value)).toEqual([1, undefined, 3])
})

test('postponing makes an old copy fresh for a while, does not stretch its life, and invents none', () => {
  const cache = new FactCache<number>(2)
  cache.set('a', 1, 10, 100)
  cache.postpone('a', 60)
  cache.postpone('b', 60)
  expect(cache.get('a', 59)?.fresh).toBe(true)
  expect(cache.get('a', 60)?.fresh).toBe(false)
  expect(cache.get('a', 100)).toBeUndefined()
  expect(cache.get('b', 0)).toBeUndefined()
})

test('an absent value is a copy too', () => {
  const cache = new FactCache<number | undefined>(2)
  cache.set('a', undefined, 10)
  expect(cache.get('a', 0)).toEqual({ value: undefined, fresh: true })
})
