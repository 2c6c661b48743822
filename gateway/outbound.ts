// The way out of the gateway. Owns which network a call takes: one that leads to public addresses alone, or any. Off Cloudflare
// workerd checks the address where the connection is made, after the name was resolved (scripts/workerd-config.ts), so that no
// public name leads inside, whenever its owner turns it; Cloudflare's own network leads nowhere private.
import { env } from 'cloudflare:workers'
import type { Env } from './env.ts'
import type { Fetch } from './policy/reach.ts'

/** @throws TypeError, as the standard one, where nobody can be reached, and Error where workerd refuses the address. */
export const systemFetch: Fetch = (url, init, reach) => {
  const { INTERNET } = env as Env
  return reach === 'anywhere' || INTERNET === undefined ? globalThis.fetch(url, init) : INTERNET.fetch(url, init)
}
