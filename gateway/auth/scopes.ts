// Whether a caller may use a route from where it is. Owns the words of a refusal; which route has which scope is
// routes/access.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import { addressIsIn } from './addresses.ts'
import type { Principal, RouteScope } from './principal.ts'
import { permits } from './roles.ts'

/** @param address Of the client; undefined where the deployment cannot know it: then a key bound to addresses is refused. */
export function scopeRefusal(
  principal: Principal,
  scope: RouteScope,
  address: string | undefined,
): Failure | undefined {
  const networks = principal.addressesAllowed
  if (networks !== undefined && (address === undefined || !addressIsIn(address, networks))) {
    return denied(
      address === undefined
        ? 'This API key is bound to addresses (scope "addresses"), and this deployment does not know where callers are.'
        : 'This API key may not be used from this address (scope "addresses").',
    )
  }
  if (principal.routesAllowed !== undefined && !principal.routesAllowed.includes(scope)) {
    return denied(`This API key may not use this route: its scope "routes" does not include "${scope}".`)
  }
  switch (scope) {
    case 'chat':
    case 'completions':
    case 'responses':
    case 'embeddings':
      if (principal.roles === undefined || permits(principal.roles, 'inference.use')) return undefined
      return denied(`The role ${principal.roles.join(' within ')} may not use this route.`)
    case 'models':
      return undefined
    case 'admin':
      // A key that was made for inference must not administer because nobody said otherwise.
      if (principal.credential === 'token' || principal.routesAllowed !== undefined) return undefined
      return denied('This API key does not administer: its scope "routes" does not include "admin".')
    default:
      return scope satisfies never
  }
}

const denied = (message: string): Failure => ({ code: 'permission_denied', message })
