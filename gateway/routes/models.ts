// GET /v1/models and one of them: what this key may use. Owns the OpenAI form of the catalog's answer.
import { Hono } from 'hono'
import type { ModelObject } from '../../protocol/dialects/openai.ts'
import { failureResponse } from '../errors.ts'
import { listModels } from '../policy/catalog.ts'
import type { AppEnv } from './context.ts'

const modelObject = (model: { name: string; createdAtMs: number }): ModelObject => ({
  id: model.name,
  object: 'model',
  created: Math.floor(model.createdAtMs / 1000),
  owned_by: 'penstock',
})

export const modelRoutes = new Hono<AppEnv>()
  .get('/v1/models', async (c) => {
    const listed = await listModels(c.get('principal'), c.env, Date.now())
    if (!listed.ok) return failureResponse(listed.error, c.get('requestId'))
    return c.json({ object: 'list', data: listed.value.map(modelObject) })
  })
  // Names may hold slashes (`org/model`), as official clients send them: unescaped.
  .get('/v1/models/:id{.+}', async (c) => {
    const listed = await listModels(c.get('principal'), c.env, Date.now())
    if (!listed.ok) return failureResponse(listed.error, c.get('requestId'))
    const name = c.req.param('id')
    const found = listed.value.find((model) => model.name === name)
    if (found !== undefined) return c.json(modelObject(found))
    return failureResponse(
      { code: 'model_not_found', message: `There is no model '${name.slice(0, 200)}' for this key.`, param: 'model' },
      c.get('requestId'),
    )
  })
