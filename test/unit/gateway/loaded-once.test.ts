// What is loaded late: once for all who ask, and again after a failure.
import { expect, test } from 'vitest'
import { loadedOnce } from '../../../gateway/loaded-once.ts'

test('all who ask share one load', async () => {
  let loads = 0
  const loaded = loadedOnce(async () => ++loads)
  expect(await Promise.all([loaded(), loaded()])).toEqual([1, 1])
  expect(await loaded()).toBe(1)
})

test('a load that failed is told to those who waited for it, and tried again for the next', async () => {
  let loads = 0
  const loaded = loadedOnce(async () => {
    loads++
    if (loads === 1) throw new Error('not now')
    return 'here'
  })
  const both = await Promise.allSettled([loaded(), loaded()])
  expect(both.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  expect(await loaded()).toBe('here')
  expect(loads).toBe(2)
})
