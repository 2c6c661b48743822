// Who calls the admin API. Owns the type; admin/guard.ts makes it out of a credential.

import type { Capability } from '../guard/capability.ts'
import type { RouteScope } from './principal.ts'
import type { Role } from './roles.ts'

export type Actor =
  /** The deployment's operator, by ADMIN_TOKEN: everything, in every organisation. */
  { kind: 'operator' } | Member

/** A person or a service of one organisation, by a token or by an API key. */
export type Member = {
  kind: 'member'
  orgId: string
  userId: string
  /** Bound each other: the actor may do what all of them permit. Never empty. */
  roles: readonly Role[]
  /** The projects it is bound to; absent: all of the organisation. */
  projects?: readonly string[] | undefined
  /** Set where the credential is an API key. */
  key?: KeyCredential | undefined
}

/** What a key that administers can give to others at most. */
export type KeyCredential = {
  keyId: string
  projectId: string
  teamId?: string | undefined
  endUser?: string | undefined
  modelsAllowed?: readonly string[] | undefined
  routesAllowed: readonly RouteScope[]
  addressesAllowed?: readonly string[] | undefined
  capabilitiesAllowed?: readonly Capability[] | undefined
  cacheTtlMs?: number | undefined
  expiresAtMs?: number | undefined
}
