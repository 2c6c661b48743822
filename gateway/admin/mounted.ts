// The admin API where it is reached. Owns what the application around it gives to it; its routes are index.ts. Loaded by the first
// request for it (app.ts), so nothing else may import this at its start.
import { Hono } from 'hono'
import { TrieRouter } from 'hono/router/trie-router'
import type { Ports } from '../attempts.ts'
import { requestIdHeaders } from '../errors.ts'
import { ADMIN_PREFIX } from '../routes/access.ts'
import type { AdminEnv } from './context.ts'
import { adminApp } from './index.ts'

export function mountedAdmin(ports: Pick<Ports, 'newId' | 'health'>): Hono<AdminEnv> {
  const app = new Hono<AdminEnv>({ router: new TrieRouter() })
  app.use('*', async (c, next) => {
    c.set('requestId', ports.newId())
    c.set('health', ports.health)
    await next()
    for (const [name, value] of Object.entries(requestIdHeaders(c.get('requestId')))) c.res.headers.set(name, value)
  })
  app.route(ADMIN_PREFIX, adminApp)
  return app
}
