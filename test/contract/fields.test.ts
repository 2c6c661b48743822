// Every published parameter either does something, or is known to do nothing, or is refused by its name: none is lost in
// silence. docs/api.md says which.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { withFieldTables } from './api-tables.ts'
import { outcomesOf, ROUTES } from './fields.ts'

/** Accepted although nothing here acts on them: what a provider would store or bill, or a default said aloud. */
const WITHOUT_EFFECT = new Set([
  // Of tools that the vendor itself runs, and those are refused.
  'max_tool_calls',
  'metadata',
  'modalities: text',
  'prompt_cache_retention',
  'response_format: text',
  'service_tier: auto',
  'service_tier: standard_only',
  'store',
  'stream_options',
  'truncation: disabled',
  'web_search_options',
])

describe.each(ROUTES)('$name', (route) => {
  const outcomes = outcomesOf(route)

  test('refuses what it cannot honour by its name', () => {
    for (const { field, outcome, param } of outcomes) if (outcome === 'refused') expect(param ?? '').toContain(field)
  })

  test('accepts without effect only what asks for nothing here', () => {
    const silent = outcomes.filter(({ outcome }) => outcome === 'accepted')
    const names = silent.map(({ field, asks }) => (asks === undefined ? field : `${field}: ${asks}`))
    expect(names.filter((name) => !WITHOUT_EFFECT.has(name))).toEqual([])
  })
})

test('the tables of docs/api.md are those that `npm run docs:providers` writes', () => {
  const text = readFileSync(join(import.meta.dirname, '../../docs/api.md'), 'utf8')
  expect(text).toBe(withFieldTables(text))
})
