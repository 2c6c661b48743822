// What the API answers about limits, money, catalog, fleet and audit, as the dashboard reads it; usage and people are wire.ts.
// Owns the types of those answers; what the fields mean is docs/api.md and the heads of gateway/admin/*.ts. Types alone.
import type { Instant, Money, Names, NanoUsd, Page, PartName, Parts, Percentiles, Usd, Uuid } from './wire.ts'

// ── Limits and budgets ───────────────────────────────────────────────────────────────────────────────────────────────────────

export type LimitScope = 'org' | 'project' | 'team' | 'user' | 'key' | 'end_user'
export type LimitWindow = 'minute' | 'hour' | 'day' | 'month' | 'lifetime'
export type LimitMeter = 'requests' | 'input_tokens' | 'output_tokens' | 'money' | 'concurrency'

/** GET and PUT /organisations/:org[/projects|teams|users|keys|end-users/:id]/limits; `*` for the id: one for each. */
export type Limits = {
  scope: LimitScope
  scope_id: string
  /** Sent back as `expected_version`, so that nobody's change in between is lost unseen. */
  version: string
  limits: Limit[]
}
export type Limit = {
  id: Uuid
  meter: LimitMeter
  model?: string
  hard: boolean
  /** Not of concurrency. */
  window?: LimitWindow
  time_zone?: string
  /** Requests, tokens, running requests; money has `max_usd`. */
  max?: number
  max_usd?: Usd
}

/**
 * GET /organisations/:org/limits/state: what admission sees, from the account itself. Numbers are whole numbers as text, of
 * nano-USD for the meter `money`.
 */
export type LimitsState = {
  org_id: Uuid
  as_of: Instant
  /** Null: the account has not read its rules yet; then `data` is empty. */
  rules_version: number | null
  data: LimitState[]
  /** More subjects of `*` limits than are shown: of each limit the fullest are. */
  truncated: boolean
  names: Names
} & Money<'held'>
export type LimitState = {
  limit_id: Uuid
  scope: LimitScope
  /** As the limit has it: an id, or `*`. */
  scope_id: string
  /** Whose counter this is: an id of that scope. Null: a `*` limit that nobody has counted under in this window. */
  subject: string | null
  model: string | null
  meter: LimitMeter
  hard: boolean
  window: LimitWindow | null
  time_zone: string | null
  /** Null: since ever, without end, or not a matter of windows. */
  window_start: Instant | null
  window_end: Instant | null
  max: string
  /** Null: the account does not know it yet (it reads the record at the next request that the limit applies to). */
  settled: string | null
  /** Set aside by requests that run now; for concurrency the requests themselves. */
  held: string
  /** Never below zero. Null with `settled`. */
  remaining: string | null
  /** Settled, continued to the window's end at the pace of the window so far; null early in a window and where none ends. */
  projection: { method: 'linear'; value: string; exceeds: boolean; reaches_max_at: Instant | null } | null
}

/** GET /organisations/:org/limit-events?kind=&limit_id= */
export type LimitEvents = Page<{
  limit_id: Uuid
  kind: 'passed' | 'refused'
  subject: string
  window: string
  max: string
  value: string
  occurred_at: Instant
}>

// ── Money ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

export type Billing = { org_id: Uuid; mode: 'prepaid' | 'postpaid' } & Money<'overdraft'>
/** GET /organisations/:org/credit. `available` of prepaid organisations alone. */
export type Credit = Billing & { outbox_rows: number } & Money<'paid'> &
  Money<'promoted'> &
  Money<'balance'> &
  Money<'held'> &
  Partial<Money<'available'>>
/** GET /organisations/:org/credit/grants */
export type Grant = {
  id: Uuid
  org_id: Uuid
  kind: 'payment' | 'promotion'
  note: string
  occurred_at: Instant
} & Money<'amount'>

/** GET /ledger/entries?org=&account=&from=&to= */
export type LedgerEntry = {
  transfer_id: Uuid
  account: string
  purpose: 'usage' | 'provider_cost' | 'hold' | 'grant'
  request_id: Uuid | null
  attempt: number | null
  kind: 'attempt' | 'adjustment' | 'reversal' | null
  occurred_at: Instant
} & Money<'amount'>

/** GET /organisations/:org/statements?time_zone=: months from the first entry of the ledger on, newest first. */
export type StatementMonths = {
  time_zone: string
  data: { month: string; from: Instant; to: Instant; over: boolean }[]
}

/**
 * GET /organisations/:org/statements/:month?time_zone=&format=json|csv. By the time of the ledger's entries, which is when an
 * attempt ended. `usage` is the sum over `lines`, and what the ledger took for usage in the month.
 */
export type Statement = {
  org_id: Uuid
  organisation: string
  month: string
  time_zone: string
  from: Instant
  to: Instant
  /** The month is over. Corrections of it can still come: they stand in the month in which they ended. */
  over: boolean
  created_at: Instant
  lines: StatementLine[]
  credits: Grant[]
  /** Whether the lines and the ledger agree to the nano-dollar; false is a fault to report. */
  matches_ledger: boolean
  names: Names
} & Money<'opening_balance'> &
  Money<'usage'> &
  Money<'corrections'> &
  Money<'credit'> &
  Money<'closing_balance'>
export type StatementLine = {
  /** `correction`: differences to estimates that were charged before. */
  kind: 'usage' | 'correction'
  project_id: Uuid
  key_id: Uuid
  model: string
  provider: string
  model_served: string
  attempts: number
  /** Of them: charged by an estimate or a partial count. */
  estimated_attempts: number
  usage: Parts
  /** Null: no price was known. */
  price_version_id: string | null
  basis_points: number | null
  parts: StatementPart[]
  /** What rounding each attempt once leaves between the parts and the amount; null where parts have no amounts. */
  rounding_nanousd: NanoUsd | null
} & Money<'amount'>
/** Amounts are null where they are not one product: prices by length of prompt, or a part that was charged by another's price. */
export type StatementPart = {
  part: PartName
  units: number
  /** With the mark-up: nano-USD per million as decimal text. */
  unit_price_nanousd_per_million: string | null
  amount_nanousd: NanoUsd | null
}

export type PriceTable = Partial<Record<PartName, Usd>>
/** GET /prices?provider=&model=&service_tier= */
export type Price = {
  id: string
  provider: string
  model: string
  service_tier: string
  effective_from: Instant
  effective_to?: Instant
  created_at: Instant
  usd_per_million: PriceTable
  context_tiers?: { above_input_tokens: number; usd_per_million: PriceTable }[]
  source?: string
  source_date?: string
}
/** GET /organisations/:org/markups; provider and model `*`: any. */
export type Markup = {
  id: Uuid
  org_id: Uuid
  provider: string
  model: string
  basis_points: number
  effective_from: Instant
  created_at: Instant
}

// ── Providers, models, configuration (operator) ──────────────────────────────────────────────────────────────────────────────

export type ProviderKey = {
  name: string
  weight: number
  disabled: boolean
  created_at: Instant
  disabled_at: Instant | null
}
/** GET /providers */
export type Provider = {
  name: string
  kind: string
  base_url: string
  allow_private: boolean
  preset?: string
  options: Record<string, unknown>
  usage_dialect: string
  cutoff: 'drain' | 'cancel' | 'cancel_free'
  keys: ProviderKey[]
  created_at: Instant
  updated_at: Instant
}

/** GET /models */
export type Model = {
  name: string
  targets: Target[]
  policy?: ModelPolicy
  created_at: Instant
  updated_at: Instant
}
export type Target = {
  provider: string
  model: string
  context_tokens: number
  output_tokens_max?: number
  service_tier?: string
  weight?: number
  region?: string
  image_tokens_max?: number
}
export type ModelPolicy = {
  strategy: 'ordered' | 'weighted' | 'cheapest' | 'fastest' | 'least_busy'
  sticky?: 'conversation' | 'end_user'
  /** Targets by position, from 0. */
  canary?: { target: number; percent: number }
  shadow?: { target: number; percent: number }
  cascade?: { escalate_on: string[]; confidence_min?: number }
  hedge?: { after_ms: number }
  fallback_on: string[]
  attempts_max: number
  first_token_timeout_ms?: number
  idle_timeout_ms?: number
  first_token_target_ms?: number
  inter_token_target_ms?: number
  priority?: number
}

/** GET /providers/health: attempts of all organisations, by the rows that have reached the database. */
export type ProvidersHealth = {
  as_of: Instant
  windows_minutes: [5, 60]
  data: TargetHealth[]
  /** Breakers as the isolate that answered knows them: others may know better, and a quiet one knows nothing. */
  breakers: { scope: 'this isolate'; targets: TargetBreaker[]; keys: KeyBreaker[] }
}
export type TargetHealth = {
  provider: string
  model_served: string
  /** Of a registered provider. Null: own machines, stored answers, or rows that do not say. */
  key: string | null
  last_5_minutes: HealthWindow
  last_60_minutes: HealthWindow
}
export type HealthWindow = {
  attempts: number
  ok: number
  /** Ended by the caller or by another target that was faster. */
  cancelled: number
  failed: number
  /** Failures by what went wrong: connect, status, rate_limited, stall, …, or else the status. */
  failures: Record<string, number>
  attempts_per_minute: number
  output_tokens_per_second: number | null
  first_token: Percentiles | null
  total: Percentiles | null
}
export type BreakerStanding = 'closed' | 'half_open' | 'resting' | 'barred'
type Breaker = {
  standing: BreakerStanding
  /** Of a rest. */
  until: Instant | null
  failures_in_row: number
}
export type TargetBreaker = Breaker & {
  provider: string
  model: string
  in_flight: number
  expected_first_token_ms: number | null
}
export type KeyBreaker = Breaker & { provider: string; key: string /** Null: for every model. */; model: string | null }

export type ConfigChange = {
  object: 'provider' | 'model'
  name: string
  action: 'add' | 'change' | 'remove'
  fields: { path: string; before?: unknown; after?: unknown }[]
}
export type ConfigVersion = { version: number; checksum: string; applied_at: Instant; actor: string; note?: string }
/** GET /config */
export type Config = { version: number; document: unknown; drift?: ConfigChange[] }
/** GET /config/versions/:version */
export type ConfigVersionDocument = ConfigVersion & { document: unknown }
/** GET /config/diff?from=&to=: what turns one version into the other; `to` left out: into what stands. */
export type ConfigDiff = {
  from: number
  to: number | null
  changes: ConfigChange[]
  summary: { added: number; changed: number; removed: number }
}
/** POST /config/apply and /config/rollback */
export type ConfigPlan = {
  dry_run: boolean
  version: number
  changes: ConfigChange[]
  secrets: unknown[]
  summary: { added: number; changed: number; removed: number; secrets: number }
}

// ── Fleet (operator) ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export type EngineRole = 'both' | 'prefill' | 'decode'
/** GET /backends answers {data}; GET /backends/events is a stream of these as `snapshot` events (FleetEvent). */
export type Backend = {
  id: Uuid
  url: string
  label: string
  enrolled_at: Instant
  state: 'live' | 'stale' | 'draining' | 'absent'
  report_age_ms: number | null
  /** What was asked for with PATCH /backends/:id {draining?, roles?: {engine: role}}. */
  desired: { revision: number; draining: boolean; roles: Record<string, EngineRole> } | null
  kv_chunks: number
  kv_chunks_left_out: number
  models: Engine[]
}
export type Engine = {
  model: string
  engine: string | null
  role: EngineRole
  draining: boolean
  context_tokens: number
  requests_queued: number
  requests_queued_max: number
  sequences_running: number
  sequences_waiting: number
  sequences_max: number
  kv_blocks_used: number
  kv_blocks_cached: number
  kv_blocks_total: number
  block_tokens: number
  prefill_tokens_queued: number
  decode_kv_tokens: number
  step_ms: number
  prefill_tokens_per_second: number | null
  decode_tokens_per_second: number | null
  /** Bytes of weights and K/V moved per second by the last steps, and the ceiling measured when the engine started. */
  memory_bytes_per_second: number | null
  memory_bytes_per_second_max: number | null
  /** Multiply-adds per second of the last steps that computed prompts, the ceiling measured at the start, and the numbers of both. */
  macs_per_second: number | null
  macs_per_second_max: number | null
  macs_type: 'int8' | 'f32' | null
  /** Of the last seconds, the share that was spent in steps. */
  busy_share: number | null
  /** False: it lives, and is given nothing, because a canary request went wrong. */
  ready: boolean
  not_ready_reason: 'canary_wrong' | 'canary_timeout' | null
  transfer: {
    fingerprint: string
    host: string
    remote: boolean
    bytes_per_token: number
    measured_bytes_per_second: number | null
    reservations: number
  } | null
  step_model: {
    base_ms: number
    prefill_token_ms: number
    decode_sequence_ms: number
    kv_token_ms: number
  } | null
}
/**
 * Data of an event `snapshot`. The stream opens with one and sends another each second that something changed; between
 * them comments keep it alive. It ends by itself after some minutes, and EventSource comes back after the `retry` that it names.
 */
export type FleetEvent = { as_of: Instant; data: Backend[] }

// ── Audit ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** GET /audit?org_id=&actor=&action=&object_id=&from=&to=; GET /audit/export?…&format=csv|json has the same rows. */
export type AuditEntry = {
  id: Uuid
  occurred_at: Instant
  actor: 'operator' | 'member'
  user_id: Uuid | null
  key_id: Uuid | null
  address: string | null
  action: string
  org_id: Uuid | null
  object_id: string
  request_id: Uuid
  details: Record<string, unknown>
}
