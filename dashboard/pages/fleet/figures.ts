// What a fleet's reports add up to, and what a change would do to it. Owns the sums by role and over all, and the words of what follows
// from draining, another role or removal. ○ Pure.
import type { Backend, Engine, EngineRole } from '../../app/wire-admin.ts'

export const ROLES: readonly EngineRole[] = ['prefill', 'decode', 'both']
export const ROLE_WORDS: Readonly<Record<EngineRole, string>> = {
  prefill: 'Prefill',
  decode: 'Decode',
  both: 'Both',
}
export const ROLE_ABOUT: Readonly<Record<EngineRole, string>> = {
  prefill: 'computes prompts for others',
  decode: 'finishes requests',
  both: 'does everything',
}

export const STATE_WORDS: Readonly<Record<Backend['state'], string>> = {
  live: 'Live',
  stale: 'Silent',
  draining: 'Draining',
  absent: 'Absent',
}
export const STATE_KINDS = { live: 'good', stale: 'danger', draining: 'warning', absent: 'neutral' } as const

/** Its last word still says how it is. */
export const isReporting = ({ state }: Backend): boolean => state === 'live' || state === 'draining'

/** The engines of one worker have different names; one that is alone may have none. */
export const engineKey = (backend: Pick<Backend, 'id'>, engine: Pick<Engine, 'engine' | 'model'>): string =>
  `${backend.id} ${engine.engine ?? ''} ${engine.model}`

export type Load = {
  engines: number
  running: number
  runningMax: number
  queued: number
  queuedMax: number
  kvUsed: number
  kvCached: number
  kvTotal: number
  kvTokensTotal: number
  prefillTokensQueued: number
  reservations: number
  /** Of the engines that say both: what moves, and what could. */
  bandwidth: number | undefined
  bandwidthMax: number | undefined
  /** Likewise: multiply-adds that are done, and could be. */
  arithmetic: number | undefined
  arithmeticMax: number | undefined
}

export function loadOf(engines: readonly Engine[]): Load {
  const sum = (pick: (engine: Engine) => number) => engines.reduce((all, engine) => all + pick(engine), 0)
  const measured = engines.filter((engine) => isWorking(engine) && bandwidthShare(engine) !== undefined)
  const computing = engines.filter((engine) => arithmeticShare(engine) !== undefined)
  const sumOf = (some: readonly Engine[], pick: (engine: Engine) => number | null) =>
    some.length === 0 ? undefined : some.reduce((all, engine) => all + (pick(engine) ?? 0), 0)
  return {
    engines: engines.length,
    running: sum((one) => one.sequences_running),
    runningMax: sum((one) => one.sequences_max),
    queued: sum((one) => one.requests_queued + one.sequences_waiting),
    queuedMax: sum((one) => one.requests_queued_max),
    kvUsed: sum((one) => one.kv_blocks_used),
    kvCached: sum((one) => one.kv_blocks_cached),
    kvTotal: sum((one) => one.kv_blocks_total),
    kvTokensTotal: sum((one) => one.kv_blocks_total * one.block_tokens),
    prefillTokensQueued: sum((one) => one.prefill_tokens_queued),
    reservations: sum((one) => one.transfer?.reservations ?? 0),
    bandwidth: sumOf(measured, (one) => one.memory_bytes_per_second),
    bandwidthMax: sumOf(measured, (one) => one.memory_bytes_per_second_max),
    arithmetic: sumOf(computing, (one) => one.macs_per_second),
    arithmeticMax: sumOf(computing, (one) => one.macs_per_second_max),
  }
}

/** What is measured of steps says nothing while there are none. */
export const isWorking = ({ sequences_running: running }: Engine): boolean => running > 0

/** Of its last steps: achieved against the ceiling; undefined where one of them was never measured. */
export function bandwidthShare({
  memory_bytes_per_second: now,
  memory_bytes_per_second_max: most,
}: Engine): number | undefined {
  return now === null || most === null || most <= 0 ? undefined : now / most
}

/** Of its last steps over prompts; undefined where there were none of late, or one of the two was never measured. */
export function arithmeticShare({ macs_per_second: now, macs_per_second_max: most }: Engine): number | undefined {
  return now === null || most === null || most <= 0 ? undefined : now / most
}

/** `290 GMAC/s` */
export function macs(perSecond: number): string {
  const [value, unit] = perSecond >= 1e12 ? [perSecond / 1e12, 'T'] : [perSecond / 1e9, 'G']
  return `${value >= 100 ? value.toFixed(0) : Number(value.toPrecision(2))} ${unit}MAC/s`
}

/** Why an engine that lives is given nothing; undefined: it is. */
export function unreadyText({ ready, not_ready_reason: reason }: Engine): string | undefined {
  if (ready) return undefined
  return reason === 'canary_timeout' ? 'Not ready: a test request got no answer' : 'Not ready: a test request failed'
}

export const share = (part: number, whole: number): number => (whole <= 0 ? 0 : part / whole)

/** Blocks that no sequence holds, and that are given up on demand. Cached ones that are in use count as used. */
export const cachedOnly = (used: number, cached: number, total: number): number =>
  Math.max(0, Math.min(cached - used, total - used))

/** What the engine's own model says a step takes at its present load; undefined before it has measured enough. */
export function predictedStepMs(engine: Engine): number | undefined {
  const model = engine.step_model
  if (model === null) return undefined
  return (
    model.base_ms + model.decode_sequence_ms * engine.sequences_running + model.kv_token_ms * engine.decode_kv_tokens
  )
}

/** What somebody asked for and the worker has not got to yet. */
export function pendingOf(backend: Backend): string[] {
  const { desired, models } = backend
  if (desired === null) return []
  const drains = models.some(({ draining }) => draining) || backend.state === 'draining'
  const pending: string[] = []
  if (desired.draining && !drains) pending.push('Asked to drain')
  if (!desired.draining && drains) pending.push('Asked to take work again')
  for (const engine of models) {
    const role = engine.engine === null ? undefined : desired.roles[engine.engine]
    if (role !== undefined && role !== engine.role) pending.push(`${engine.engine} asked to be ${role}`)
  }
  return pending
}

/** Roles as they would be, by engine; what is not asked for stays. */
type Roles = Readonly<Record<string, EngineRole>>

const finishes = (role: EngineRole): boolean => role !== 'prefill'

/** By model: on how many other workers that report an engine finishes requests. */
export function othersServing(backends: readonly Backend[], without: Backend): ReadonlyMap<string, number> {
  const models = new Set(without.models.filter(({ role }) => finishes(role)).map(({ model }) => model))
  const serving = (model: string) =>
    backends.filter(
      (one) =>
        one.id !== without.id &&
        one.state === 'live' &&
        one.models.some((engine) => engine.model === model && finishes(engine.role) && !engine.draining),
    ).length
  return new Map([...models].map((model) => [model, serving(model)]))
}

/** Models that nobody would finish requests of, were this worker out of service. */
export const leftAlone = (backends: readonly Backend[], without: Backend): string[] =>
  [...othersServing(backends, without)].flatMap(([model, others]) => (others === 0 ? [model] : []))

/** Models of the worker that nobody in the fleet would finish requests of, had its engines these roles. */
export function unservedWith(backends: readonly Backend[], backend: Backend, roles: Roles): string[] {
  const models = new Set(backend.models.map(({ model }) => model))
  const here = (model: string) =>
    backend.models.some(
      (engine) => engine.model === model && finishes((engine.engine && roles[engine.engine]) || engine.role),
    )
  const elsewhere = (model: string) =>
    backends.some(
      (one) =>
        one.id !== backend.id && one.state === 'live' && one.models.some((e) => e.model === model && finishes(e.role)),
    )
  return [...models].filter((model) => !here(model) && !elsewhere(model))
}

/** Roles to send: what was asked for before, with this change; engines without a wish are left out, and go back to their start. */
export function rolesAfter(before: Roles, change: Readonly<Record<string, EngineRole | 'start'>>): Roles {
  const after: Record<string, EngineRole> = { ...before }
  for (const [engine, role] of Object.entries(change)) {
    if (role === 'start') delete after[engine]
    else after[engine] = role
  }
  return after
}
