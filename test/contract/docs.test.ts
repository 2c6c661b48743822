// docs/providers.md says what the suite has shown, and nothing else.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Promised } from './promise.ts'
import { withTables } from './tables.ts'
import { PROVIDERS } from './vendors/all.ts'

const text = readFileSync(join(import.meta.dirname, '../../docs/providers.md'), 'utf8')

test('the tables of docs/providers.md are those that `npm run docs:providers` writes', () => {
  expect(text).toBe(withTables(text, PROVIDERS))
})

test('a promise that changes changes the tables', () => {
  const changed = PROVIDERS.map((promised, at): Promised => {
    return at > 0
      ? promised
      : { ...promised, claims: { ...promised.claims, system: { is: 'refused', param: 'messages' } } }
  })
  expect(withTables(text, changed)).not.toBe(text)
})
