// Gives `env` of `cloudflare:workers` the gateway's own bindings.
import type { Env as GatewayEnv } from '../../gateway/env.ts'

declare global {
  namespace Cloudflare {
    interface Env extends GatewayEnv {
      /** Always set here: the suite has a Postgres of its own. */
      DATABASE_URL: string
    }
  }
}
