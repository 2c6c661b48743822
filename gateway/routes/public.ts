// What anyone may ask: whether the gateway lives, and the key that dispatches are signed with. Owns these two answers,
// which name no tenant, model or host.
import { Hono } from 'hono'
import { JWKS_PATH } from '../../protocol/report.ts'
import { publicJwks } from '../fleet/signing-key.ts'
import { FleetView } from '../routing/snapshot.ts'
import type { AppEnv } from './context.ts'

/** Agents may keep the key set this long. */
const JWKS_MAX_AGE_S = 300

export function publicRoutes() {
  // Its own copy of the snapshot: health checks come often and from anyone, the Fleet object must not feel them.
  const view = new FleetView()
  return new Hono<AppEnv>()
    .get('/health', async (c) => {
      const snapshot = await view.read(c.env, () => Date.now()).catch(() => undefined)
      const live = snapshot?.backends.filter((one) => one.reportAgeMs <= snapshot.staleAfterMs)
      return c.json({
        status: 'ok',
        fleet:
          snapshot === undefined || live === undefined
            ? { reachable: false }
            : { reachable: true, backends_joined: snapshot.backends.length, backends_live: live.length },
      })
    })
    .get(JWKS_PATH, (c) => c.json(publicJwks(c.env), 200, { 'cache-control': `public, max-age=${JWKS_MAX_AGE_S}` }))
}
