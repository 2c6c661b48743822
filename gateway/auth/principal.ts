// Who is calling and what they may use. Owns the type; authenticate.ts makes it.
import type { LimitRule } from '../account/contract.ts'

export type Principal = {
  orgId: string
  projectId: string
  keyId: string
  /** First characters of the key, safe to show and to log. */
  keyPrefix: string
  /** Model names the key may use; absent: every model. */
  modelsAllowed?: string[]
  /** Epoch milliseconds; absent: never. */
  expiresAtMs?: number
  /** Every limit that applies to this caller, of all scopes (organisation, project, key). */
  limits: LimitRule[]
}
