// GET /v1/models and one of them: what this key may use. Owns the two forms of the catalog's answer; which one a client gets it
// says by the header that clients of the messages dialect send.
import { type Context, Hono } from 'hono'
import type { ModelObject } from '../../protocol/dialects/openai.ts'
import type { Failure } from '../../protocol/errors.ts'
import { errorDialectOf, failureResponse } from '../errors.ts'
import { listModels, type ModelListing } from '../policy/catalog.ts'
import type { AppEnv } from './context.ts'
import { modelInfo, modelPage } from './model-page.ts'

const modelObject = (model: ModelListing): ModelObject => ({
  id: model.name,
  object: 'model',
  created: Math.floor(model.createdAtMs / 1000),
  owned_by: 'penstock',
})

const dialectOf = (c: Context<AppEnv>) => errorDialectOf(c.req.path, c.req.raw.headers)

const refused = (c: Context<AppEnv>, failure: Failure): Response =>
  failureResponse(failure, c.get('requestId'), { dialect: dialectOf(c) })

const listed = (c: Context<AppEnv>) => listModels(c.get('principal'), c.env, Date.now())

export const modelRoutes = new Hono<AppEnv>()
  .get('/v1/models', async (c) => {
    const models = await listed(c)
    if (!models.ok) return refused(c, models.error)
    if (dialectOf(c) === 'openai') return c.json({ object: 'list', data: models.value.map(modelObject) })
    const page = modelPage(models.value, c.req.query())
    return page.ok ? c.json(page.value) : refused(c, page.error)
  })
  // Names may hold slashes (`org/model`), as official clients send them: unescaped.
  .get('/v1/models/:id{.+}', async (c) => {
    const models = await listed(c)
    if (!models.ok) return refused(c, models.error)
    const name = c.req.param('id')
    const found = models.value.find((model) => model.name === name)
    if (found !== undefined) return c.json(dialectOf(c) === 'openai' ? modelObject(found) : modelInfo(found))
    const message = `There is no model '${name.slice(0, 200)}' for this key.`
    return refused(c, { code: 'model_not_found', message, param: 'model' })
  })
