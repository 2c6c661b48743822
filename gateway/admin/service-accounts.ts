// Service accounts: users that are programs. Owns their making; their roles and suspension are people.ts, their API keys
// keys.ts (`user_id`), and their tokens come from an issuer for services.
import { Hono } from 'hono'
import * as z from 'zod'
import type { AdminEnv } from './context.ts'
import { idParam, readInput, readQuery, Slug } from './input.ts'
import { PageQuery } from './paging.ts'
import { createUser, listUsers, newUserFields, userView } from './users.ts'

const NewService = z.strictObject({ ...newUserFields, slug: Slug })

export const serviceAccountRoutes = new Hono<AdminEnv>()
  .post('/:org/service-accounts', async (c) => {
    const { slug, ...input } = await readInput(c, NewService)
    const orgId = idParam(c, 'org', 'organisation')
    const asked = { ...input, kind: 'service', handle: slug, handleField: 'slug' } as const
    const { row, status } = await createUser(c, orgId, asked)
    return c.json(userView(row), status)
  })
  .get('/:org/service-accounts', async (c) => {
    const page = readQuery(c, PageQuery)
    return c.json(await listUsers(c, idParam(c, 'org', 'organisation'), { ...page, kind: 'service' }))
  })
