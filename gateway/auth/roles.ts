// Who may do what in an organisation. Owns the roles and what each permits, as data; who has which role is people.ts
// of the admin API, which route needs which permission admin/permissions.ts. Pure.

export const ROLES = ['owner', 'admin', 'billing', 'developer', 'viewer'] as const
export type Role = (typeof ROLES)[number]

const MANAGERS = ['owner', 'admin'] as const
const READERS = ['owner', 'admin', 'viewer'] as const
const ACCOUNTANTS = ['owner', 'admin', 'billing', 'viewer'] as const

/** Permission → the roles that have it. A read permission never shows a secret: none is stored in readable form. */
const MATRIX = {
  /** The deployment's own affairs, and what an organisation may owe: no role has it. */
  operator: [],
  /** Calls that use tokens. */
  'inference.use': ['owner', 'admin', 'developer'],
  'organisation.read': ROLES,
  'projects.read': ROLES,
  'projects.write': MANAGERS,
  /** A developer manages its own keys and those that belong to nobody; see admin/keys.ts. */
  'keys.read': ['owner', 'admin', 'developer', 'viewer'],
  'keys.write': ['owner', 'admin', 'developer'],
  /** Users, memberships, teams and service accounts. */
  'people.read': READERS,
  'people.write': MANAGERS,
  /** What only an owner may do to another: makes `owner` the one role that covers an owner. */
  'owners.write': ['owner'],
  'issuers.read': READERS,
  'issuers.write': MANAGERS,
  /** Content rules, and what tools can reach. */
  'guards.read': READERS,
  'guards.write': MANAGERS,
  'limits.read': ACCOUNTANTS,
  'limits.write': MANAGERS,
  'usage.read': ROLES,
  'ledger.read': ACCOUNTANTS,
  'credit.read': ACCOUNTANTS,
  'prices.read': ACCOUNTANTS,
  'audit.read': MANAGERS,
} as const satisfies Record<string, readonly Role[]>

export type Permission = keyof typeof MATRIX

const HOLDERS: Readonly<Record<Permission, readonly Role[]>> = MATRIX

export const PERMISSIONS = Object.keys(MATRIX).filter((word): word is Permission => Object.hasOwn(MATRIX, word))

/**
 * Whether roles that bound each other permit something: a token's role, say, under the most its issuer may give. No
 * role at all permits nothing.
 */
export function permits(roles: readonly Role[], permission: Permission): boolean {
  return roles.length > 0 && roles.every((role) => HOLDERS[permission].includes(role))
}

/** Whether whoever has these roles may give `role` away, or act on someone who has it: nobody grants more than they have. */
export function covers(roles: readonly Role[], role: Role): boolean {
  return PERMISSIONS.every((permission) => !permits([role], permission) || permits(roles, permission))
}
