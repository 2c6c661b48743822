// What one history is about: who asks for what, under which limits, and what will go wrong. Owns the generator; every
// choice comes from the seed. Histories are small and dense: few requests, limits about as large as what is asked, and
// times around the edges of windows.
import type { Subject } from '../../gateway/account/contract.ts'
import type { ConcurrencyLimit, CountedLimit, LimitRule, RuleBook } from '../../gateway/account/limit.ts'
import { LIMIT_SCOPES, LIMIT_WINDOWS } from '../../gateway/account/limit.ts'
import type { PriceQuote } from '../../gateway/meter/price.ts'
import type { HostFaults } from './account-host.ts'
import type { Leaving, Visit } from './client.ts'
import type { Order, Target } from './isolate.ts'
import type { Script } from './provider-model.ts'
import type { Random } from './random.ts'
import type { RecordFaults } from './record-model.ts'
import { ZONE_NAMES } from './windows-model.ts'

/** Shortly before windows end: a day and month of UTC, the short day of Berlin's clock change, months there and in India. */
const EDGES_MS = [
  Date.UTC(2031, 1, 1),
  Date.UTC(2031, 2, 29, 23),
  Date.UTC(2031, 2, 31, 22),
  Date.UTC(2031, 4, 31, 18, 30),
]
const BEFORE_EDGE_MS = 5_000
/** Seeds of one block share an edge, because the first look at a zone's calendar is dear. */
const EDGE_BLOCK = 256

export type AdminAct =
  | { kind: 'book'; atMs: number; book: RuleBook }
  | { kind: 'revoke'; atMs: number; keyId: string; revoked: boolean }
  | { kind: 'flush'; atMs: number }

export type Mishap =
  | { kind: 'outage'; atMs: number; forMs: number }
  | { kind: 'clock'; atMs: number; of: 'account' | 'isolate'; byMs: number }
  /** An isolate ends with all that runs in it. */
  | { kind: 'death'; atMs: number }

export type Plan = {
  startMs: number
  /** When the window ends that everything gathers around. */
  edgeMs: number
  orgId: string
  book: RuleBook
  visits: Visit[]
  /** After everything was written and the storage was lost. */
  later: Visit[]
  admin: AdminAct[]
  mishaps: Mishap[]
  isolates: number
  /** Longest way of a message to the account, and back. */
  latencyMs: number
  skewMs: { account: number; isolates: number[] }
  faultsMax: number
  crashChance: number
  hostFaults: HostFaults
  recordFaults: RecordFaults
}

const MODELS = ['small', 'large']
const PROJECTS = 2

export function makePlan(seed: number, random: Random): Plan {
  const edgeMs = EDGES_MS[Math.floor(seed / EDGE_BLOCK) % EDGES_MS.length] ?? 0
  const orgId = random.uuid()
  const subjects = makeSubjects(orgId, random)
  const prices = [makePrice(random), makePrice(random)]
  const limits = many(random, 1, 3, () => makeLimit(orgId, subjects, random))
  const book: RuleBook = { version: 1, limits, ...(random.chance(0.3) ? { credit: makeCredit(random) } : {}) }
  const order = () => makeOrder(random.pick(subjects), prices, random)
  const loses = random.chance(0.08)
  // Calm histories are as much worth as wild ones: refusals and the last unit of a limit are seen best in them.
  const wild = random.pick([0, 1, 1, 2])
  const rate = (most: number) => (wild === 0 ? 0 : random.chance(0.5) ? most * wild * 0.5 : 0)
  return {
    startMs: edgeMs - BEFORE_EDGE_MS,
    edgeMs,
    orgId,
    book,
    visits: Array.from({ length: random.pick([1, 2, 2, 3]) }, () => makeVisit(order, random)),
    later: loses ? many(random, 1, 2, () => makeVisit(order, random)) : [],
    admin: many(random, 0, 2, (index) => makeAct(index, book, orgId, subjects, random)),
    mishaps: wild === 0 ? [] : makeMishaps(random),
    isolates: random.between(1, 2),
    latencyMs: random.pick([5, 30, 400]),
    skewMs: {
      account: random.chance(0.5) ? 0 : random.between(-3_000, 3_000),
      isolates: [0, 1].map(() => (random.chance(0.7) ? 0 : random.between(-3_000, 3_000))),
    },
    faultsMax: random.between(5, 15),
    crashChance: rate(0.02),
    hostFaults: {
      request: rate(0.12),
      reply: rate(0.12),
      duplicate: rate(0.15),
      eviction: rate(0.1),
      alarm: rate(0.15),
    },
    recordFaults: { unanswered: rate(0.25), late: rate(0.2), serialisation: rate(0.15) },
  }
}

function many<T>(random: Random, from: number, to: number, make: (index: number) => T): T[] {
  return Array.from({ length: random.between(from, to) }, (_, index) => make(index))
}

function makeSubjects(orgId: string, random: Random): Subject[] {
  const projects = many(random, 1, PROJECTS, () => random.uuid())
  const users = many(random, 1, 2, () => random.uuid())
  const teamId = random.chance(0.5) ? random.uuid() : undefined
  return many(random, 1, 3, () => ({
    orgId,
    projectId: random.pick(projects),
    keyId: random.uuid(),
    userId: random.chance(0.7) ? random.pick(users) : undefined,
    teamId: random.chance(0.7) ? teamId : undefined,
    endUser: random.chance(0.5) ? random.pick(['ann', 'bob']) : undefined,
  }))
}

/** Nano-dollars per token, so that sums stay readable; fractions and mark-ups make rounding matter. */
function makePrice(random: Random): PriceQuote | undefined {
  if (random.chance(0.06)) return undefined
  const per = () => BigInt(random.between(1, 3)) * 1_000_000n + (random.chance(0.3) ? 333_333n : 0n)
  const table = () => ({ inputUncached: per(), inputCacheRead: per() / 2n, outputText: per() })
  return {
    priceVersionId: random.uuid(),
    perMillion: table(),
    ...(random.chance(0.2) ? { contextTiers: [{ aboveInputTokens: 120, perMillion: table() }] } : {}),
    ...(random.chance(0.2) ? { basisPoints: random.pick([0, 5_000, 12_345]) } : {}),
  }
}

function makeLimit(orgId: string, subjects: Subject[], random: Random): LimitRule {
  const subject = random.pick(subjects)
  const scope = random.pick(LIMIT_SCOPES)
  const id = {
    org: orgId,
    project: subject.projectId,
    team: subject.teamId,
    user: subject.userId,
    key: subject.keyId,
    end_user: subject.endUser,
  }[scope]
  const where = {
    limitId: random.uuid(),
    scope,
    scopeId: scope !== 'org' && (id === undefined || random.chance(0.4)) ? '*' : (id ?? orgId),
    model: random.chance(0.2) ? random.pick(MODELS) : undefined,
    hard: random.chance(0.85),
  }
  if (random.chance(0.2))
    return { ...where, meter: 'concurrency', max: random.between(1, 2) } satisfies ConcurrencyLimit
  const span = { window: random.pick(LIMIT_WINDOWS), timeZone: random.pick(ZONE_NAMES) }
  const meter = random.pick(['money', 'money', 'requests', 'input_tokens', 'output_tokens'] as const)
  const rule: CountedLimit =
    meter === 'money'
      ? { ...where, ...span, meter, maxNanoUsd: maxNanoUsd(random) }
      : { ...where, ...span, meter, max: meter === 'requests' ? random.between(0, 3) : random.between(100, 900) }
  return rule
}

const maxNanoUsd = (random: Random): bigint => BigInt(random.between(200, 3_000))

const makeCredit = (random: Random) => ({
  grantedNanoUsd: BigInt(random.between(-200, 3_000)),
  overdraftNanoUsd: random.chance(0.3) ? BigInt(random.between(0, 500)) : 0n,
})

/** Raises, lowers, adds, removes: one change to the book each, under rising versions. */
function makeAct(index: number, first: RuleBook, orgId: string, subjects: Subject[], random: Random): AdminAct {
  const atMs = random.below(20_000)
  if (random.chance(0.15)) return { kind: 'flush', atMs }
  if (random.chance(0.25)) return { kind: 'revoke', atMs, keyId: random.pick(subjects).keyId, revoked: true }
  const kept = first.limits.filter(() => random.chance(0.8)).map((rule) => changed(rule, random))
  const limits = random.chance(0.4) ? [...kept, makeLimit(orgId, subjects, random)] : kept
  const credit = random.chance(0.3) ? makeCredit(random) : first.credit
  return { kind: 'book', atMs, book: { version: index + 2, limits, ...(credit === undefined ? {} : { credit }) } }
}

function changed(rule: LimitRule, random: Random): LimitRule {
  if (random.chance(0.5)) return rule
  if (rule.meter === 'money') return { ...rule, maxNanoUsd: maxNanoUsd(random) }
  if (rule.meter === 'concurrency') return { ...rule, max: random.between(0, 3) }
  return { ...rule, max: rule.meter === 'requests' ? random.between(0, 4) : random.between(50, 1_200) }
}

/** At most one of each: how far clocks can be apart has a bound. */
function makeMishaps(random: Random): Mishap[] {
  const death: Mishap = { kind: 'death', atMs: random.between(2_000, 16_000) }
  const all = [makeOutage(random), makeStep('account', random), makeStep('isolate', random), death]
  return all.filter(() => random.chance(0.35))
}

const makeOutage = (random: Random): Mishap => ({
  kind: 'outage',
  atMs: random.below(20_000),
  forMs: random.between(1_000, 90_000),
})

/**
 * An account whose clock leaps ahead expires what still runs. An isolate that is more than a minute ahead of an account
 * which has just read its counters from the record meets windows that the account takes for empty: beyond what is promised.
 */
const makeStep = (of: 'account' | 'isolate', random: Random): Mishap => ({
  kind: 'clock',
  atMs: random.below(20_000),
  of,
  byMs: random.chance(0.4) ? -random.between(1, 3_000) : random.between(1, of === 'account' ? 150_000 : 45_000),
})

function makeOrder(subject: Subject, prices: (PriceQuote | undefined)[], random: Random): Order {
  const index = random.below(MODELS.length)
  const model = MODELS[index] ?? ''
  const estimate = { inputTokens: random.between(20, 200), outputTokens: random.between(20, 200), calls: 0 }
  const target = (): Target => ({
    provider: random.pick(['fleet', 'vendor']),
    model: `${model}-served`,
    price: prices[index],
    estimate,
    script: makeScript(estimate, random),
  })
  return {
    subject,
    model,
    stream: random.chance(0.7),
    deadlineMs: random.between(4_000, 30_000),
    deadlineIsCallers: random.chance(0.3),
    targets: many(random, 1, 2, target),
    idempotency: random.chance(0.5) ? { keyHash: sha256Like(random), bodyHash: sha256Like(random) } : undefined,
  }
}

/** 64 hex digits, of which the first 32 tell one from another. */
const sha256Like = (random: Random): string => random.uuid().replaceAll('-', '').padEnd(64, '0')

function makeScript(estimate: { inputTokens: number; outputTokens: number }, random: Random): Script {
  const lies = random.chance(0.05)
  const inputTokens = lies ? estimate.inputTokens * 2 : random.between(1, estimate.inputTokens)
  const pieces = random.between(1, 3)
  const each = Math.max(1, Math.floor(((lies ? 2 : 1) * estimate.outputTokens) / pieces))
  return {
    opening: random.pick(['accepts', 'accepts', 'accepts', 'accepts', 'accepts', 'accepts', 'refuses', 'silent']),
    inputTokens,
    cachedTokens: random.chance(0.3) ? random.below(inputTokens + 1) : 0,
    pieces: Array.from({ length: pieces }, () => ({
      delayMs: random.chance(0.65) ? random.below(300) : random.below(7_900),
      tokens: random.between(1, each),
    })),
    ending: random.pick(['usage', 'usage', 'usage', 'usage', 'no_usage', 'error', 'cut', 'stall']),
    usageDelayMs: random.chance(0.8) ? random.below(50) : random.below(7_900),
    providerCostNanoUsd: random.chance(0.2) ? BigInt(random.between(1, 500)) : undefined,
  }
}

const LEAVINGS: Leaving[] = ['never', 'never', 'never', 'before_head', 'at_first_content', 'in_the_middle', 'after_end']

function makeVisit(order: () => Order, random: Random): Visit {
  const made = order()
  const forges = made.idempotency !== undefined && random.chance(0.1)
  // Many at the very edge of the window: a millisecond decides to which one they belong.
  const afterMs = random.chance(0.2) ? BEFORE_EDGE_MS - random.pick([0, 0, 1]) : random.below(2 * BEFORE_EDGE_MS)
  return {
    order: made,
    afterMs,
    leaves: random.pick(LEAVINGS),
    leavesAfterMs: random.below(6_000),
    retriesMax: made.idempotency === undefined ? 0 : random.below(3),
    isForgetful: random.chance(0.3),
    twice: made.idempotency !== undefined && random.chance(0.15),
    forged:
      forges && made.idempotency !== undefined
        ? { ...order(), subject: made.subject, idempotency: { ...made.idempotency, bodyHash: sha256Like(random) } }
        : undefined,
  }
}
