import { expect, test } from 'vitest'
import { FactCache } from '../../../gateway/db/cache.ts'
import { DatabaseUnavailable } from '../../../gateway/db/port.ts'
import { renewed } from '../../../gateway/db/renewed.ts'

const LIFETIMES = { freshMs: 1_000, staleMaxMs: 10_000, absentMs: 500 }

function database(answers: (() => Promise<string | undefined>)[]) {
  const cache = new FactCache<string | undefined>(10)
  let asked = 0
  const ask = (nowMs = 0, key = 'k') =>
    renewed(cache, key, nowMs, LIFETIMES, () => (answers[asked++] ?? (() => Promise.resolve('again')))())
  return { ask, cache, asked: () => asked }
}

const later =
  (value: string | undefined, waitMs = 40) =>
  () =>
    new Promise<string | undefined>((resolve) => setTimeout(() => resolve(value), waitMs))
const away =
  (waitMs = 40) =>
  () =>
    new Promise<string>((_, reject) => setTimeout(() => reject(new DatabaseUnavailable('away')), waitMs))

test('of many that find no copy, one asks and all get its answer', async () => {
  const { ask, asked } = database([later('fact')])
  expect(new Set(await Promise.all(Array.from({ length: 50 }, () => ask())))).toEqual(new Set(['fact']))
  expect(asked()).toBe(1)
})

test('that there is nothing is an answer for all as well', async () => {
  const { ask, asked } = database([later(undefined)])
  expect(await Promise.all([ask(), ask(), ask()])).toEqual([undefined, undefined, undefined])
  expect(asked()).toBe(1)
})

test('where the one who asks is refused, another asks', async () => {
  const { ask, asked } = database([away(), later('fact')])
  const [first, ...others] = [ask(), ask(), ask()]
  await expect(first).rejects.toThrow('away')
  expect(await Promise.all(others)).toEqual(['fact', 'fact'])
  expect(asked()).toBe(2)
})

test('other facts do not wait, and a copy that is too old for use is asked for anew', async () => {
  const { ask, asked } = database([later('one', 100), later('two', 1), later('three', 1)])
  const first = ask(0, 'a')
  expect(await ask(0, 'b')).toBe('two')
  expect(await first).toBe('one')
  expect(await ask(20_000, 'b')).toBe('three')
  expect(asked()).toBe(3)
})

test('a copy goes on serving where the database is away', async () => {
  const { ask } = database([later('fact', 1), away(1), away(1)])
  await ask()
  expect(await Promise.all([ask(2_000), ask(2_000), ask(4_000)])).toEqual(['fact', 'fact', 'fact'])
})
