// What every handler finds in its Hono context. Owns the type only.
import type { Principal } from '../auth/principal.ts'
import type { Env } from '../env.ts'
import type { Health } from '../routing/health.ts'

export type AppEnv = {
  Bindings: Env
  Variables: {
    /** uuid of this request, on its response and in its logs. */
    requestId: string
    receivedAtMs: number
    /** Set on every route that is not public, before its handler runs. */
    principal: Principal
    /** For the admin API: what this isolate knows of its targets. */
    health: Health
  }
}
