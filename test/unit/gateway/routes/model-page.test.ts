import { describe, expect, test } from 'vitest'
import { modelPage } from '../../../../gateway/routes/model-page.ts'

const MODELS = ['a', 'b/c', 'd', 'e'].map((name) => ({ name, createdAtMs: 1_700_000_000_123 }))
const pageOf = (ask: Parameters<typeof modelPage>[1], models = MODELS) => {
  const page = modelPage(models, ask)
  if (!page.ok) throw new Error(page.error.message)
  const { data, ...ends } = page.value
  return { ids: data.map(({ id }) => id), ...ends }
}

describe('a page of models', () => {
  test.each([
    [{}, ['a', 'b/c', 'd', 'e'], false],
    [{ limit: '2' }, ['a', 'b/c'], true],
    [{ limit: '2', after_id: 'b/c' }, ['d', 'e'], false],
    [{ limit: '1', after_id: 'a' }, ['b/c'], true],
    [{ after_id: 'e' }, [], false],
    [{ limit: '2', before_id: 'e' }, ['b/c', 'd'], true],
    [{ limit: '3', before_id: 'd' }, ['a', 'b/c'], false],
    [{ before_id: 'a' }, [], false],
  ])('asked for with %j has %j', (ask, ids, more) => {
    expect(pageOf(ask)).toEqual({ ids, has_more: more, first_id: ids[0] ?? null, last_id: ids.at(-1) ?? null })
  })

  test('of none is empty', () => {
    expect(pageOf({}, [])).toEqual({ ids: [], has_more: false, first_id: null, last_id: null })
  })

  test.each([
    [{ limit: '0' }, 'limit'],
    [{ limit: '1001' }, 'limit'],
    [{ limit: '-1' }, 'limit'],
    [{ after_id: 'x' }, 'after_id'],
    [{ before_id: 'x' }, 'before_id'],
    [{ after_id: 'a', before_id: 'd' }, 'after_id'],
  ])('asked for with %j is refused at %s', (ask, param) => {
    expect(modelPage(MODELS, ask)).toMatchObject({ ok: false, error: { code: 'invalid_request', param } })
  })
})
