// Nobody gives away more than they have. Owns the comparison of a key's rights with those of the key that makes, changes
// or rotates it; what a user's role permits is roles.ts. Pure.

import type { Capability } from '../guard/capability.ts'
import { holds, parseNetwork } from './addresses.ts'
import type { RouteScope } from './principal.ts'

/** Absent means unrestricted, except `routes`, where it means all but administration, and `cacheTtlMs`, where it means none. */
export type Rights = {
  projectId: string
  teamId?: string | undefined
  endUser?: string | undefined
  models?: readonly string[] | undefined
  routes?: readonly RouteScope[] | undefined
  addresses?: readonly string[] | undefined
  capabilities?: readonly Capability[] | undefined
  cacheTtlMs?: number | undefined
  expiresAtMs?: number | undefined
}

/** The first field in which `child` may do something that `maker` may not, and why, in the words of the admin API. */
export function excessRight(child: Rights, maker: Rights): { param: string; message: string } | undefined {
  const more = (param: string, message: string) => ({ param, message })
  if (child.projectId !== maker.projectId)
    return more('project_id', 'must be the project of the key that makes this one')
  if (maker.teamId !== undefined && child.teamId !== maker.teamId) {
    return more('team_id', 'must be the team of the key that makes this one')
  }
  if (maker.endUser !== undefined && child.endUser !== maker.endUser) {
    return more('end_user', 'must be the end user of the key that makes this one')
  }
  if (!isWithin(child.models, maker.models))
    return more('models', 'goes beyond the models of the key that makes this one')
  if (!isWithin(child.routes, maker.routes))
    return more('routes', 'goes beyond the routes of the key that makes this one')
  if (child.routes?.includes('admin') && !maker.routes?.includes('admin')) {
    return more('routes', 'goes beyond the routes of the key that makes this one')
  }
  if (!areWithin(child.addresses, maker.addresses)) {
    return more('addresses', 'goes beyond the addresses of the key that makes this one')
  }
  if (!isWithin(child.capabilities, maker.capabilities)) {
    return more('capabilities', 'goes beyond the capabilities of the key that makes this one')
  }
  if ((child.cacheTtlMs ?? 0) > (maker.cacheTtlMs ?? 0)) {
    return more('cache', 'goes beyond the cache setting of the key that makes this one')
  }
  if ((child.expiresAtMs ?? Number.POSITIVE_INFINITY) > (maker.expiresAtMs ?? Number.POSITIVE_INFINITY)) {
    return more('expires_at', 'must not be after the expiry of the key that makes this one')
  }
  return undefined
}

function isWithin(child: readonly string[] | undefined, maker: readonly string[] | undefined): boolean {
  if (maker === undefined) return true
  return child?.every((one) => maker.includes(one)) ?? false
}

function areWithin(child: readonly string[] | undefined, maker: readonly string[] | undefined): boolean {
  if (maker === undefined) return true
  const outer = maker.flatMap((text) => parseNetwork(text) ?? [])
  return (
    child?.every((text) => {
      const inner = parseNetwork(text)
      return inner !== undefined && outer.some((network) => holds(network, inner))
    }) ?? false
  )
}
