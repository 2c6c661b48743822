// Whether a key works. Owns the states and their words. ○ Pure.
import type { ApiKey } from '../../app/wire.ts'
import type { BadgeKind } from '../../parts/badge.tsx'

export type KeyState = 'works' | 'expired' | 'revoked'

export function stateOf(key: Pick<ApiKey, 'revoked_at' | 'expires_at'>, nowMs: number): KeyState {
  if (key.revoked_at !== null) return 'revoked'
  if (key.expires_at === null) return 'works'
  return Date.parse(key.expires_at) > nowMs ? 'works' : 'expired'
}

export const STATE_WORDS: Readonly<Record<KeyState, string>> = {
  works: 'Works',
  expired: 'Expired',
  revoked: 'Revoked',
}
export const STATE_KINDS: Readonly<Record<KeyState, BadgeKind>> = {
  works: 'good',
  expired: 'neutral',
  revoked: 'neutral',
}
