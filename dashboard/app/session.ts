// Who is signed in, what they may, and whose figures are shown. Owns the session as a signal and the choice of the
// organisation; the cookie behind it is the gateway's.
import { computed, signal } from '@preact/signals'
import { ApiError, allPages, api, csrfToken, isSignedOut } from './api.ts'
import { recall, remember } from './preferences.ts'
import { goParams, params } from './router.ts'
import type { Organisation, Session } from './wire.ts'

/** The permissions of the gateway (auth/roles.ts). `operator` is the deployment's own. */
export type Permission =
  | 'operator'
  | 'inference.use'
  | 'organisation.read'
  | 'projects.read'
  | 'projects.write'
  | 'keys.read'
  | 'keys.write'
  | 'people.read'
  | 'people.write'
  | 'issuers.read'
  | 'issuers.write'
  | 'guards.read'
  | 'guards.write'
  | 'limits.read'
  | 'limits.write'
  | 'usage.read'
  | 'ledger.read'
  | 'credit.read'
  | 'prices.read'
  | 'audit.read'

type SessionState =
  | { kind: 'loading' }
  | { kind: 'signed_out' }
  | { kind: 'failed'; error: Error }
  | { kind: 'signed_in'; session: Session; organisations: readonly Organisation[] }

const loaded = signal<SessionState>({ kind: 'loading' })

export const sessionState = computed<SessionState>(() =>
  loaded.value.kind === 'signed_in' && isSignedOut.value ? { kind: 'signed_out' } : loaded.value,
)
export const session = computed(() => (loaded.value.kind === 'signed_in' ? loaded.value.session : undefined))
export const organisations = computed(() => (loaded.value.kind === 'signed_in' ? loaded.value.organisations : []))

/** The operator may do everything. Reads signals: a component that asks is drawn anew when the session changes. */
export function can(permission: Permission): boolean {
  const words = session.value?.permissions ?? []
  return words.includes('operator') || words.includes(permission)
}
export const isOperator = computed(() => session.value?.kind === 'operator')

/** Whose figures are shown: a member's own; the operator's choice in the address, else the last one, else the first. */
export const orgId = computed(() => {
  const own = session.value?.org_id
  if (own !== undefined) return own
  const known = (id: string | undefined | null) => organisations.value.find((one) => one.id === id)?.id
  return known(params.value.get('org')) ?? known(recall('org')) ?? organisations.value[0]?.id
})
export const organisation = computed(() => organisations.value.find(({ id }) => id === orgId.value))

export function chooseOrganisation(id: string): void {
  remember('org', id)
  // Filters name things of the organisation that is left.
  const kept = new URLSearchParams()
  for (const name of ['range', 'from', 'to', 'tz', 'compare']) {
    const value = params.value.get(name)
    if (value !== null) kept.set(name, value)
  }
  kept.set('org', id)
  goParams(kept)
}

/** Reads the session from the cookie. Never throws: what went wrong is the state. */
export async function loadSession(): Promise<void> {
  try {
    const [session, { data }] = await Promise.all([
      api.get<Session>('/session'),
      allPages<Organisation>('/organisations'),
    ])
    csrfToken.value = session.csrf
    isSignedOut.value = false
    loaded.value = { kind: 'signed_in', session, organisations: data }
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) loaded.value = { kind: 'signed_out' }
    else loaded.value = { kind: 'failed', error: error instanceof Error ? error : new Error(String(error)) }
  }
}

export async function signOut(): Promise<void> {
  await api.delete('/dashboard/session')
  csrfToken.value = undefined
  loaded.value = { kind: 'signed_out' }
}
