// The port on Cloudflare: Hyperdrive is the pool, so each request opens its own cheap connections to it. Owns their
// settings; the runtime closes them when the request ends.
import { openDriver } from './driver.ts'
import type { Database } from './port.ts'

/** Below the six connections that one request may open at once. */
const CONNECTIONS_MAX = 5
/** In a Durable Object the driver outlives a request: idle connections must not keep the object in memory. */
const IDLE_TIMEOUT_S = 5

/** One driver per call of this function; use the answer within one request or one object, never across requests. */
export function hyperdriveDatabase(hyperdrive: Hyperdrive): Database {
  return openDriver(hyperdrive.connectionString, { connectionsMax: CONNECTIONS_MAX, idleTimeoutS: IDLE_TIMEOUT_S })
}
