// What the API answers, as the dashboard reads it. Owns the types of every answer that a page uses, by route; what the fields
// mean is docs/api.md and the heads of gateway/admin/*.ts. Money is decimal text (nano-USD for sums, USD for people): never a
// number. Instants are ISO 8601 in UTC. Types alone: nothing here runs.

export type Uuid = string
/** ISO 8601, UTC. */
export type Instant = string
/** A whole number of nano-dollars as text, maybe negative: BigInt(text). */
export type NanoUsd = string
/** Dollars as decimal text with up to nine decimals. */
export type Usd = string

export type Page<T> = { data: T[]; next_cursor?: string }
/** Body of every refusal. `code` is the dialect's word, e.g. `permission_denied`, `invalid_request`, `insufficient_quota`. */
export type ErrorBody = { error: { message: string; type: string; code: string; param?: string | null } }

/** `<name>_nanousd` and `<name>_usd`. */
export type Money<Name extends string> = { [K in `${Name}_nanousd`]: NanoUsd } & { [K in `${Name}_usd`]: Usd }

// ── GET /session (owner: sign-in) ────────────────────────────────────────────────────────────────────────────────────────────

export type Role = 'owner' | 'admin' | 'billing' | 'developer' | 'viewer'
export type Session = {
  kind: 'operator' | 'member'
  org_id?: Uuid
  user_id?: Uuid
  name?: string
  email?: string
  roles: Role[]
  /** The words of gateway/auth/roles.ts, and `operator`. */
  permissions: string[]
  /** Bound to these; absent: all. Whoever is has to name `project` in every call of /usage. */
  projects?: Uuid[]
  csrf?: string
  expires_at?: Instant
}

// ── Organisations, projects, keys, people ────────────────────────────────────────────────────────────────────────────────────

/** GET /organisations */
export type Organisation = { id: Uuid; slug: string; name: string; created_at: Instant }
/** GET /organisations/:org/projects */
export type Project = Organisation & { org_id: Uuid }
/** GET /organisations/:org/teams */
export type Team = Project

export type RouteScope = string
export type Capability = 'files' | 'network' | 'code'
/** GET /organisations/:org/keys; null means unrestricted. */
export type ApiKey = {
  id: Uuid
  org_id: Uuid
  project_id: Uuid
  user_id: Uuid | null
  team_id: Uuid | null
  name: string
  prefix: string
  models: string[] | null
  routes: RouteScope[] | null
  addresses: string[] | null
  end_user: string | null
  capabilities: Capability[] | null
  cache: { ttl_s: number } | null
  created_at: Instant
  made_by: Uuid | null
  expires_at: Instant | null
  revoked_at: Instant | null
  rotated_from: Uuid | null
  rotated_to: Uuid | null
}
/** POST /organisations/:org/keys and …/rotate: the one time that the text is shown. */
export type MadeKey = ApiKey & { key: string }
/** GET /organisations/:org/key-use: last use by key, of those ever used; by start of the quarter hour. */
export type KeyUse = { data: { key_id: Uuid; last_used_at: Instant }[]; data_until: Instant }

/** GET /organisations/:org/users, …/service-accounts */
export type User = {
  id: Uuid
  org_id: Uuid
  kind: 'person' | 'service'
  email?: string
  slug?: string
  name: string
  role: Role | null
  projects: Uuid[] | null
  issuer_id: Uuid | null
  subject: string | null
  created_at: Instant
  suspended_at: Instant | null
}

// ── Usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

export type Dimension =
  | 'project'
  | 'key'
  | 'user'
  | 'team'
  | 'end_user'
  | 'model'
  | 'model_served'
  | 'provider'
  | 'status'
  | 'backend'
export type TimeStep = 'hour' | 'day' | 'month'
/** What `group_by` takes: one or two of these joined by a comma, at most one step and at most one tag. */
export type GroupWord = Dimension | TimeStep | `tag:${string}` | 'none'

export type StatusClass = 'ok' | 'cancelled' | 'caller' | 'limit' | 'target' | 'gateway'

export type PartName =
  | 'input_uncached'
  | 'input_cache_read'
  | 'input_cache_write_5m'
  | 'input_cache_write_1h'
  | 'input_audio'
  | 'input_image'
  | 'output_text'
  | 'output_reasoning'
  | 'output_audio'
  | 'output_image'
  | 'web_search_calls'
  | 'image_calls'
  | 'tool_calls'
export type Parts = Record<PartName, number>

/** Attempts beyond a request's first: what was charged for them, and what the gateway bore. */
export type RoleSums = { attempts: number } & Money<'cost'> & Money<'absorbed'>
export type AttemptRole = 'fallback' | 'retry' | 'hedge' | 'cascade' | 'shadow'

export type Sums = {
  requests: number
  /** Of them: neither `ok` nor ended by their client. Refusals by a limit never become requests. */
  failed_requests: number
  cancelled_requests: number
  /** Failed after their stream had shown its first content. */
  interrupted_requests: number
  attempts: number
  usage: Parts
  input_tokens: number
  output_tokens: number
  /** Attempts whose usage is an estimate, was counted from a broken stream, contradicts itself, or had no price. */
  estimated_attempts: number
  partial_attempts: number
  inconsistent_attempts: number
  unpriced_attempts: number
  roles: Record<AttemptRole, RoleSums>
  /** Requests answered out of the response cache. */
  cached_answers: number
  latency?: Latencies
} & Money<'cost'> &
  Money<'absorbed'> &
  Money<'provider_cost'> &
  /** What input read from providers' and own caches would have cost more at the uncached price. Only of charged attempts. */
  Money<'cache_savings'>

export type Percentiles = { count: number; p50_ms: number; p95_ms: number; p99_ms: number }
export type Latencies = { first_token: Percentiles | null; total: Percentiles | null }

/** Only the fields that were grouped by are there; null: usage without one (no user, no backend, not this tag). */
export type UsageLine = Sums & {
  project_id?: Uuid
  key_id?: Uuid
  user_id?: Uuid | null
  team_id?: Uuid | null
  /** As the caller names it; `*`: those beyond the ones that cost most. */
  end_user?: string | null
  model?: string
  model_served?: string
  provider?: string
  status?: string
  status_class?: StatusClass
  backend_id?: Uuid | null
  /** Value of the tag asked for; `*`: tags of quarter hours with too many different ones to tell apart. */
  tag?: string | null
  hour?: string
  day?: string
  month?: string
  /** Everything beyond the top: names are null. */
  other?: true
}

/** Names for the ids of an answer, of those there are: also revoked keys, removed members, deleted teams' last name. */
export type Names = {
  projects?: Record<Uuid, string>
  keys?: Record<Uuid, { name: string; prefix: string; revoked: boolean }>
  users?: Record<Uuid, string>
  teams?: Record<Uuid, string>
  backends?: Record<Uuid, string>
}

/**
 * GET /usage?org=&from=&to=&time_zone=&group_by=&top=&latency=none|total|lines and filters `project key user team model
 * model_served provider status status_class backend tag` (`tag=name=value`; `user|team|backend=none`, `tag=!name`: those
 * without).
 */
export type Usage = {
  from: Instant
  to: Instant
  time_zone: string
  group_by: string
  /** Everything recorded that started before is in. */
  data_until: Instant
  latency_error: number
  total: Sums
  truncated: boolean
  /** Values of the tag, or end users, were too many to tell apart somewhere in the range: those are the lines `*`. */
  folded: boolean
  names: Names
  data: UsageLine[]
}

/** GET /usage/tags?org=&from=&to=: names of tags in use, each with its values by requests, most first. */
export type UsageTags = { data: { name: string; values: { value: string; requests: number }[] }[]; data_until: Instant }

/**
 * GET /usage/requests?org=&from=&to=&limit=&cursor= with the filters of /usage and `end_user id_prefix min_cost_usd
 * min_duration_ms min_first_token_ms`; or `since=` (the `since` of the answer before) for the live log: what was recorded after
 * it, newest first, at most `limit`, and how many more there were; rows may come twice, know them by id.
 */
export type UsageRequests = Page<UsageRequest> & { since: string; left_out?: number; names: Names }
export type UsageRequest = SharedRow & {
  id: Uuid
  org_id: Uuid
  attempts: number
  recorded_at: Instant
  duration_ms: number
  first_token_ms: number | null
  /** One of its attempts has an estimated or partial count. */
  estimated: boolean
} & PartSums &
  Money<'cost'> &
  Money<'absorbed'>

type PartSums = { usage: Parts; input_tokens: number; output_tokens: number }

/**
 * GET /usage/client-reported?org=&from=&to=&limit=&cursor= with `project key model provider status`: calls that clients made past the
 * gateway, in their own words; newest first. Part of no other answer, and never billed.
 */
export type ClientReported = Page<ReportedCall> & { total: { calls: number } & PartSums; names: Names }
export type ReportedCall = {
  id: Uuid
  key_id: Uuid
  model: string
  provider: string
  status: 'answered' | 'failed' | 'interrupted'
  reason: string | null
  started_at: Instant
} & PartSums
type SharedRow = {
  project_id: Uuid
  key_id: Uuid
  user_id: Uuid | null
  team_id: Uuid | null
  end_user: string | null
  provider: string
  model: string
  model_served: string
  backend_id: Uuid | null
  /** By name. */
  tags: Record<string, string>
  stream: boolean
  status: string
  status_class: StatusClass
  http_status: number | null
  started_at: Instant
  first_token_at: Instant | null
  ended_at: Instant
}

/** GET /usage/requests/:id?org= */
export type UsageRequestDetail = UsageRequest & {
  names: Names
  attempt_rows: AttemptRow[]
  /**
   * Where the caller had the response stored: its text is at /usage/requests/:id/text. Null: nothing is kept; `unreachable`: whether
   * anything is cannot be told now.
   */
  stored_response: { id: string; state: 'running' | 'ended' | 'unreachable' } | null
}
/** GET /usage/requests/:id/text?org= (permission audit.read; audited): items before the answer, and the response object. */
export type StoredText = { id: string; input: unknown[]; response: unknown }

export type AttemptRow = SharedRow & {
  attempt: number
  /** Corrections follow the attempt they correct, and carry differences. */
  kind: 'attempt' | 'adjustment' | 'reversal'
  charge: 'customer' | 'absorbed'
  usage_source: 'provider' | 'stream_partial' | 'estimated'
  inconsistent: boolean
  pricing: 'priced' | 'part_missing' | 'price_missing'
  price_version_id: string | null
  unit_prices: UnitPrices | null
  /** The provider's own usage object as JSON text. */
  raw_usage: string | null
  route: RouteFacts | null
  recorded_at: Instant
  /** From the start of the request: the bars of the waterfall. */
  offset_ms: { start: number; first_token: number | null; end: number }
  provider_cost_nanousd?: NanoUsd
  provider_cost_usd?: Usd
} & PartSums &
  Money<'cost'> &
  Money<'cache_savings'>

export type UnitPrices = {
  nanousd_per_million: Partial<Record<PartName, string>>
  context_tiers?: { above_input_tokens: number; nanousd_per_million: Partial<Record<PartName, string>> }[]
  /** What the organisation pays of the list price, in hundredths of a per cent. */
  basis_points?: number
}

/** Why an attempt was made where it was. `key`, `figure` and `fleet` are shown to the operator alone. */
export type RouteFacts = {
  role: 'primary' | 'cache' | AttemptRole
  /** What put the target in its place: the strategy's name, or sticky, canary, hint, cascade. */
  reason?: string
  /** Of the order the decision made, from 1. */
  turn?: number
  standing?: 'closed' | 'half_open' | 'resting' | 'barred'
  /** What the strategy compared: milliseconds, open attempts, nano-USD, or the weight. */
  figure?: number
  key?: string
  waited_ms?: number
  /** How it failed: connect, head_timeout, first_token_timeout, stall, broken_off, status, rate_limited, overloaded, … */
  kind?: string
  retry_after_ms?: number
  escalated?: string
  fleet?: {
    ttft_ms: number
    itl_ms: number
    prompt_tokens: number
    matched_tokens: number
    load: number
    prefill?: 'beside' | 'away'
  }
  moves?: { from: string; reason: string }[]
}
