// One prompt on its way from the engine that computes it to the one that decodes it. Owns the order of RESERVE, PUSH and
// TRANSFERRED, every wait's deadline, the lease, and letting go on both sides; whether it is worth it is decision.ts, the
// sequences that wait for it are sequences.ts.
//
//   decide ─▶ RESERVE ─▶ decide again ─▶ PUSH ─▶ TRANSFERRED 1 ─▶ the sequences that name the reservation
//     │          │             │           │           │
//     └──────────┴─────────────┴───────────┴───────────┴─▶ RELEASE, CANCEL: the decode engine computes what it lacks
//
// Nothing that goes wrong here is a failure of the request: the worst is a prompt that is computed twice.
import type { PrefillPlace } from '../../protocol/dispatch.ts'
import type { Draw } from '../../protocol/engine-handoff.ts'
import type { EngineConnection } from '../engine/client.ts'
import type { Reservation } from '../engine/reservations.ts'
import type { ChunkEnd } from '../prompt-chunks.ts'
import { type Computer, type Decision, decide, type Facts, type Helper } from './decision.ts'
import type { PushAsk, PushEnd } from './prefill-desk.ts'

export const HANDOVER_OUTCOMES = [
  'arrived', // computed elsewhere
  'present', // the decode engine had all of it
  'short', // too little was missing
  'cheaper', // computing it there cost less
  'no_time', // its deadline left no room for a second try
  'nobody', // it would have paid, and nobody could be asked
  'no_room', // the decode engine could not set the blocks aside
  'refused', // everybody who was asked said no
  'failed', // the transfer broke off
  'late', // it took much longer than expected
  'lost', // the decode engine died
  'cancelled', // nobody wants it any more
] as const
export type HandoverOutcome = (typeof HANDOVER_OUTCOMES)[number]

export type HelperPort = Helper & {
  push: (ask: PushAsk, signal: AbortSignal) => Promise<PushEnd>
  /** What moving the blocks took, where that is known. */
  measured: (bytes: number, leftOverMs: number) => void
}

export type HandoverAsk = {
  connection: Pick<EngineConnection, 'reserve' | 'ready' | 'closed'>
  /** Everything that the sequence begins with. */
  tokens: readonly number[]
  /** The first tokens of the sequences that wait for it by then. */
  draw: () => Draw | undefined
  chunks: readonly ChunkEnd[]
  own: () => Computer
  helpers: readonly HelperPort[]
  /** As in Facts. */
  missed: Helper['way']
  bytesPerToken: number
  priority: number
  tenant: string
  tenantNumber: bigint
  salt: bigint
  /** On the clock that `nowMs` reads. */
  deadlineAtMs: number
  nowMs: () => number
  timing: HandoverTiming
}

export type HandoverTiming = {
  leaseMs: number
  reserveWaitMs: number
  settleWaitMs: number
  countWaitMs: number
  patienceMinMs: number
}

export const HANDOVER_TIMING: HandoverTiming = {
  // Long enough that a busy agent renews in time, short enough that what a dead one forgot comes back soon.
  leaseMs: 15_000,
  // The engine answers between two steps; one that does not would not begin a sequence either.
  reserveWaitMs: 5000,
  // Between the end of the push on one connection and the news of it on the other.
  settleWaitMs: 5000,
  // The blocks may be here, and a short answer over, a step before who computed them says what it had.
  countWaitMs: 1000,
  // On top of the estimate: a cold engine's first prompt takes longer than any later one.
  patienceMinMs: 3000,
}
/** A hand-over that takes longer than this many times its estimate is given up. */
const PATIENCE_FACTOR = 4
/** Renewals per lease: one may be late. */
const RENEWALS = 3

export type Handover = {
  outcome: HandoverOutcome
  /** Blocks that are there, until its sequence is admitted. */
  lease?: Lease
  /** Of the prompt, what was not computed for this request; absent: as the decode engine counts it. */
  cachedTokens?: () => number
  /** Settles when `cachedTokens` is the last word; absent or undefined: it is. */
  counting?: () => Promise<unknown> | undefined
  transferredTokens: number
}

/** Renews a reservation until somebody says what became of it. */
class Lease {
  readonly reservation: Reservation
  readonly #timer: NodeJS.Timeout

  constructor(reservation: Reservation, leaseMs: number) {
    this.reservation = reservation
    this.#timer = setInterval(() => reservation.renew(leaseMs), Math.max(1, Math.floor(leaseMs / RENEWALS)))
    this.#timer.unref()
  }

  /** The sequence has the blocks, or is over without having been refused. */
  taken(): void {
    clearInterval(this.#timer)
    this.reservation.taken()
  }

  release(): void {
    clearInterval(this.#timer)
    this.reservation.release()
  }
}

/** Where the caller is told the prompt was computed; `undefined`: it depends on what the engine finds in its cache. */
export function placeOf(outcome: HandoverOutcome): PrefillPlace | undefined {
  switch (outcome) {
    case 'arrived':
      return 'handed_over'
    case 'refused':
    case 'failed':
    case 'late':
      return 'degraded'
    case 'nobody':
      return undefined
    case 'present':
    case 'short':
    case 'cheaper':
    case 'no_time':
    case 'no_room':
    case 'lost':
    case 'cancelled':
      return 'local'
    default:
      return outcome satisfies never
  }
}

/** What is decided where `cachedTokens` of the tokens are in the decode engine's cache. */
export function decideFor(ask: HandoverAsk, cachedTokens: number): Decision {
  const { blockTokens } = ask.connection.ready
  const missingTokens = wholeTokens(ask) - cachedTokens
  const facts: Facts = {
    wholeTokens: wholeTokens(ask),
    missingTokens,
    missingBytes: missingTokens * ask.bytesPerToken,
    blockTokens,
    leftMs: ask.deadlineAtMs - ask.nowMs(),
    own: ask.own(),
    helpers: ask.helpers,
    missed: ask.missed,
  }
  return decide(facts)
}

/** What a cache may have of it: the last token is always computed by the engine that draws the next, with the rest of its block. */
const wholeTokens = ({ tokens, connection }: HandoverAsk) =>
  Math.floor((tokens.length - 1) / connection.ready.blockTokens) * connection.ready.blockTokens

/** Never throws. @param signal nobody wants the prompt any more. */
export async function handOver(ask: HandoverAsk, signal: AbortSignal): Promise<Handover> {
  const { connection, timing } = ask
  const ended = (outcome: HandoverOutcome): Handover => ({ outcome, transferredTokens: 0 })
  // Were nothing of it there: asking for blocks that are not needed takes room from others.
  const before = decideFor(ask, 0)
  if (before.place === 'local') return ended(before.reason)

  const tokens = [...ask.tokens]
  const reservation = connection.reserve(tokens, ask.salt, timing.leaseMs)
  const answered = await within(reservation.answer, timing.reserveWaitMs, signal)
  if (answered.kind !== 'value') {
    reservation.release()
    return ended(answered.kind === 'aborted' ? 'cancelled' : 'late')
  }
  const granted = answered.value
  if (granted === undefined) return ended('lost')
  if (granted.code !== 'ok') return ended(granted.code === 'invalid' ? 'refused' : 'no_room')

  const lease = new Lease(reservation, timing.leaseMs)
  const letGo = (outcome: HandoverOutcome): Handover => {
    lease.release()
    return ended(connection.closed ? 'lost' : outcome)
  }
  const heldTokens = granted.cachedBlocks * connection.ready.blockTokens
  if (granted.cachedBlocks >= granted.blocks) return { outcome: 'present', lease, transferredTokens: 0 }
  const decision = decideFor(ask, heldTokens)
  if (decision.place === 'local') return letGo(decision.reason)

  const nowMs = ask.nowMs()
  const patienceMs = PATIENCE_FACTOR * decision.expectedMs + timing.patienceMinMs
  const lateAtMs = Math.min(nowMs + patienceMs, ask.deadlineAtMs - decision.localMs)
  // Where there was no room for the rest it is not expected, and nothing is drawn behind it.
  const expected = tokens.slice(0, granted.blocks * connection.ready.blockTokens)
  const draw = expected.length < tokens.length ? undefined : ask.draw()
  const push: PushAsk = {
    tokens: expected,
    ...(draw === undefined ? {} : { draw }),
    firstBlock: granted.cachedBlocks,
    chunks: ask.chunks,
    address: connection.ready.kvAddress ?? '',
    fingerprint: connection.ready.kvFingerprint,
    grant: granted.grant,
    priority: ask.priority,
    tenant: ask.tenant,
    tenantNumber: ask.tenantNumber,
    salt: ask.salt,
    deadlineAtMs: lateAtMs,
  }
  for (const index of decision.helpers) {
    const helper = ask.helpers[index]
    if (helper === undefined) continue
    if (reservation.isOver()) return letGo('failed')
    const end = await pushBy(helper, { ask, push, reservation, heldTokens, lateAtMs }, signal)
    if (end.kind === 'refused') continue
    if (end.kind === 'over') return letGo(end.outcome)
    return {
      outcome: 'arrived',
      lease,
      cachedTokens: end.cachedTokens,
      counting: end.counting,
      transferredTokens: expected.length - heldTokens,
    }
  }
  return letGo('refused')
}

type Pushing = { ask: HandoverAsk; push: PushAsk; reservation: Reservation; heldTokens: number; lateAtMs: number }
type Pushed =
  | { kind: 'arrived'; cachedTokens: () => number; counting: () => Promise<unknown> | undefined }
  | { kind: 'refused' }
  | { kind: 'over'; outcome: HandoverOutcome }

/** One helper's try, until the blocks are there or will not come. What it leaves running, it cancels. */
async function pushBy(helper: HelperPort, pushing: Pushing, signal: AbortSignal): Promise<Pushed> {
  const { ask, push, reservation, heldTokens, lateAtMs } = pushing
  const stopping = new AbortController()
  let foundTokens: number | undefined
  const admitted = (cachedTokens: number) => {
    foundTokens = cachedTokens
  }
  const sent = helper.push({ ...push, admitted }, stopping.signal).then((end) => {
    foundTokens = end.kind === 'arrived' ? end.cachedTokens : (foundTokens ?? 0)
    if (end.kind === 'arrived' && end.leftOverMs !== undefined)
      helper.measured((push.tokens.length - heldTokens) * ask.bytesPerToken, end.leftOverMs)
    return end
  })
  const give = (outcome: HandoverOutcome): Pushed => {
    stopping.abort()
    return { kind: 'over', outcome }
  }
  // What the helper had already was not computed for this request either; its answer may come after the blocks.
  const arrived: Pushed = {
    kind: 'arrived',
    cachedTokens: () => Math.max(heldTokens, foundTokens ?? 0),
    counting: () => (foundTokens === undefined ? within(sent, ask.timing.countWaitMs, signal) : undefined),
  }
  const first = await within(Promise.race([sent, reservation.arrived]), lateAtMs - ask.nowMs(), signal)
  if (first.kind === 'aborted') return give('cancelled')
  if (first.kind === 'late') return give('late')
  if (first.value === true) return arrived
  if (first.value === false) return give('failed')
  if (first.value.kind === 'refused') return { kind: 'refused' }
  if (first.value.kind === 'failed') return give(first.value.isLate === true ? 'late' : 'failed')
  const settled = await within(reservation.arrived, ask.timing.settleWaitMs, signal)
  if (settled.kind === 'aborted') return give('cancelled')
  if (settled.kind === 'late') return give('late')
  return settled.value ? arrived : give('failed')
}

type Waited<T> = { kind: 'value'; value: T } | { kind: 'late' } | { kind: 'aborted' }

/** setTimeout's own limit. */
const TIMER_MS_MAX = 2 ** 31 - 1

/** @param promise never rejects. */
async function within<T>(promise: Promise<T>, waitMs: number, signal: AbortSignal): Promise<Waited<T>> {
  if (signal.aborted) return { kind: 'aborted' }
  return await new Promise((resolve) => {
    const end = (waited: Waited<T>) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', aborted)
      resolve(waited)
    }
    const aborted = () => end({ kind: 'aborted' })
    const timer = setTimeout(() => end({ kind: 'late' }), Math.max(0, Math.min(TIMER_MS_MAX, waitMs)))
    signal.addEventListener('abort', aborted, { once: true })
    void promise.then((value) => end({ kind: 'value', value }))
  })
}
