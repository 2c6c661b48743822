// Whose doing the end of a request was. Owns the classes, and which status is of which: reports and filters use the same. Pure.
import type { ErrorCode } from '../../protocol/errors.ts'

/**
 * `ok`; `cancelled` by its client; `caller`: the request itself was at fault; `limit`: refused by a limit or for money; `target`:
 * what should have answered was full, failed or silent; `gateway`: ours.
 */
export const STATUS_CLASSES = ['ok', 'cancelled', 'caller', 'limit', 'target', 'gateway'] as const
export type StatusClass = (typeof STATUS_CLASSES)[number]

const CLASSES: Record<ErrorCode | 'ok' | 'client_cancelled', StatusClass> = {
  ok: 'ok',
  client_cancelled: 'cancelled',
  cancelled: 'cancelled',
  invalid_request: 'caller',
  invalid_api_key: 'caller',
  permission_denied: 'caller',
  not_found: 'caller',
  conflict: 'caller',
  model_not_found: 'caller',
  context_length_exceeded: 'caller',
  request_too_large: 'caller',
  content_filtered: 'caller',
  rate_limited: 'limit',
  concurrency_limited: 'limit',
  budget_exhausted: 'limit',
  price_unknown: 'limit',
  overloaded: 'target',
  no_target: 'target',
  deadline_exceeded: 'target',
  upstream_error: 'target',
  engine_lost: 'target',
  backend_lost: 'target',
  unavailable: 'gateway',
  internal: 'gateway',
}
const KNOWN: ReadonlyMap<string, StatusClass> = new Map(Object.entries(CLASSES))

/** A status that this build does not know is ours to explain. */
export const classOf = (status: string): StatusClass => KNOWN.get(status) ?? 'gateway'

/** SQL: whether a column holds a status of the class. */
export function isOfClass(column: string, wanted: StatusClass): string {
  const known = [...KNOWN].filter(([, one]) => (wanted === 'gateway' ? one !== wanted : one === wanted))
  const texts = known.map(([status]) => `'${status}'`).join(', ')
  return `${column} ${wanted === 'gateway' ? 'NOT IN' : 'IN'} (${texts})`
}
