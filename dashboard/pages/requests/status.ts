// How a request ended, in words and colours. Owns the classes of statuses; which status is of which class the gateway says. ○ Pure.
import type { StatusClass } from '../../app/wire.ts'
import type { BadgeKind } from '../../parts/badge.tsx'

export const STATUS_CLASSES = [
  { value: 'ok', label: 'Well' },
  { value: 'cancelled', label: 'By its client' },
  { value: 'caller', label: "With a fault of the caller's" },
  { value: 'limit', label: 'At a limit' },
  { value: 'target', label: 'With a fault of a target' },
  { value: 'gateway', label: 'With a fault of the gateway' },
] as const satisfies readonly { value: StatusClass; label: string }[]

export const STATUS_KINDS: Readonly<Record<StatusClass, BadgeKind>> = {
  ok: 'good',
  cancelled: 'neutral',
  caller: 'warning',
  limit: 'warning',
  target: 'danger',
  gateway: 'danger',
}
