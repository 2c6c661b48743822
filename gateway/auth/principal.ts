// Who is calling and what they may use. Owns the type; authenticate.ts makes it.
import type { Subject } from '../account/contract.ts'
import type { Capability } from '../guard/capability.ts'
import type { Role } from './roles.ts'

/** `endUser` is set where the credential is bound to one; else a request may name its own. */
export type Principal = Subject & {
  credential: 'key' | 'token'
  /** First characters of the key, or the word `token`: safe to show and to log. */
  keyPrefix: string
  /** Of the user the credential belongs to; they bound each other. Absent: it belongs to nobody, a project's own key. */
  roles?: Role[]
  /** Projects that user is bound to; absent: all. */
  projects?: string[]
  /** Model names the caller may use; absent: every model. */
  modelsAllowed?: string[]
  /** Routes the caller may use; absent: all that are not administration. */
  routesAllowed?: RouteScope[]
  /** Networks in CIDR form that the caller may come from; absent: any. */
  addressesAllowed?: string[]
  /** What the tools of its requests may reach; absent: any two capabilities, request by request. */
  capabilitiesAllowed?: Capability[]
  /** How old an answer out of the response cache may be; absent: its requests use no cache. */
  cacheTtlMs?: number
  /** Epoch milliseconds; absent: never. */
  expiresAtMs?: number
}

/** What a credential can be restricted to. */
export const ROUTE_SCOPES = ['chat', 'completions', 'responses', 'embeddings', 'models', 'admin'] as const
export type RouteScope = (typeof ROUTE_SCOPES)[number]
