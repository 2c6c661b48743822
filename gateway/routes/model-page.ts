// Models in the form of the messages dialect. Owns its pages; which models there are for a key is the catalog's. Pure.
import type { ModelInfo, ModelList } from '../../protocol/dialects/messages.ts'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { invalid } from './schema-fault.ts'

/** The messages dialect's largest page, and here the one that is given unasked: most catalogs are on it as a whole. */
const PAGE_MODELS_MAX = 1000

type Listed = { name: string; createdAtMs: number }

export const modelInfo = (model: Listed): ModelInfo => ({
  type: 'model',
  id: model.name,
  display_name: model.name,
  created_at: new Date(model.createdAtMs).toISOString(),
  capabilities: null,
  lifecycle: 'active',
  line: null,
  deprecated_at: null,
  retires_at: null,
  max_input_tokens: null,
  max_tokens: null,
})

type PageAsk = { limit?: string | undefined; after_id?: string | undefined; before_id?: string | undefined }

/** One page; `before_id` asks for the one that ends there. `has_more` is about the direction asked for. */
export function modelPage(models: readonly Listed[], ask: PageAsk): Result<ModelList, Failure> {
  const { limit = String(PAGE_MODELS_MAX), after_id: after, before_id: before } = ask
  const size = /^\d{1,4}$/.test(limit) ? Number(limit) : 0
  if (size < 1 || size > PAGE_MODELS_MAX) {
    return err(invalid(`limit: Expected a number from 1 to ${PAGE_MODELS_MAX}`, 'limit'))
  }
  if (after !== undefined && before !== undefined) {
    return err(invalid("after_id: Only one of 'after_id' and 'before_id' can be used", 'after_id'))
  }
  const place = (name: string): number => models.findIndex((model) => model.name === name)
  if (after !== undefined && place(after) < 0) return err(invalid('after_id: There is no such model', 'after_id'))
  if (before !== undefined && place(before) < 0) return err(invalid('before_id: There is no such model', 'before_id'))
  const end = before === undefined ? undefined : place(before)
  const begin = end === undefined ? (after === undefined ? 0 : place(after) + 1) : Math.max(0, end - size)
  const data = models.slice(begin, end ?? begin + size).map(modelInfo)
  return ok({
    data,
    has_more: end === undefined ? begin + size < models.length : begin > 0,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
  })
}
