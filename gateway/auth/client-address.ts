// Where a request came from. Owns the one place that is believed, which the deployment names in CLIENT_ADDRESS: a header
// is only as good as the proxy that sets it, and a gateway that anyone reaches directly must believe none.
import type { Env } from '../env.ts'
import { parseAddress } from './addresses.ts'

/** The other end of the connection, as workerd tells it; behind a proxy that is the proxy. */
const PEER = 'peer'
const HEADER_NAME = /^[a-z0-9-]{1,64}$/

/**
 * The client's IP address, or `undefined` where the deployment does not know it. A header that holds a list, or anything
 * but one address, says nothing: which of them to believe would be a guess.
 */
export function clientAddress(request: Request, env: Pick<Env, 'CLIENT_ADDRESS'>): string | undefined {
  const source = env.CLIENT_ADDRESS?.trim().toLowerCase()
  if (source === undefined || source === '') return undefined
  const text =
    source === PEER ? peerOf(request) : HEADER_NAME.test(source) ? request.headers.get(source)?.trim() : undefined
  return text !== undefined && parseAddress(text) !== undefined ? text : undefined
}

/** Set by workerd from the connection, as `192.0.2.1:36176` or `[2001:db8::1]:36176`; no header can set it. */
function peerOf(request: Request): string | undefined {
  const cf: unknown = request.cf
  if (typeof cf !== 'object' || cf === null || !('clientIp' in cf) || typeof cf.clientIp !== 'string') return undefined
  const [, v6, v4] = /^(?:\[([^\]]*)\]|([^:]*)):\d{1,5}$/.exec(cf.clientIp) ?? []
  return v6 ?? v4 ?? cf.clientIp
}
