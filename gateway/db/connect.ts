// Picks the adapter of the database port for the home the Worker runs in. Owns the choice and nothing else.
import type { Env } from '../env.ts'
import { hyperdriveDatabase } from './hyperdrive.ts'
import { pooledDatabase } from './pool.ts'
import type { Database } from './port.ts'

/**
 * The database of this deployment: Hyperdrive where it is bound, else the pool on DATABASE_URL. Connects on the first
 * statement. Use the answer within one request or one Durable Object.
 */
export function connect(env: Env): Database {
  return env.HYPERDRIVE === undefined ? pooledDatabase(env.DATABASE_POOL) : hyperdriveDatabase(env.HYPERDRIVE)
}
