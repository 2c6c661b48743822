// The independent books: what callers asked, what the account answered, and what follows from it. Owns a second opinion
// on every answer of the account, by plain sums over all attempts; keeps no counter and shares no arithmetic with the
// product.
import type {
  AccountCall,
  AccountReply,
  Denial,
  Hold,
  ReserveAsk,
  Settled,
  SettleEnd,
} from '../../gateway/account/contract.ts'
import type { ConcurrencyLimit, CountedLimit, CreditTerms, LimitRule, RuleBook } from '../../gateway/account/limit.ts'
import type { Usage } from '../../gateway/meter/usage.ts'
import { NO_USAGE, outputTokens } from '../../gateway/meter/usage.ts'
import { costOf, inputsOf, outputsOf, owedOf, worstOf } from './prices-model.ts'
import { subjectAt } from './record-model.ts'
import { windowName } from './windows-model.ts'
import { Violation, type World } from './world.ts'

/** A hold waits this long after its deadline. */
const EXPIRY_GRACE_MS = 60_000

/** How long a request whose attempts have all ended waits for another one, less what a clock may be set back meanwhile. */
const CLOSE_GRACE_MS = 60_000 - 4_000
/** How long after a failure the account may still leave the record alone. */
const TROUBLE_MS = 10_000
/** A reading of counters takes no longer than this where nothing is wrong. */
const RULES_SETTLE_MS = 2_000
const MINUTE_MS = 60_000

export type Payer = 'customer' | 'absorbed'

/** One attempt as the books have it. */
export type Booked = {
  ask: ReserveAsk
  holdId: string
  heldNanoUsd: bigint
  state: 'held' | 'ended' | 'expired' | 'late'
  checkpoint: Usage
  dueAtMs: number
  /** What it used and who pays, as far as is known; in every state but `held`. */
  usage: Usage
  costNanoUsd: bigint
  payer: Payer
  status: string
  /** What the target charges for it. */
  owedNanoUsd: bigint
  /** An end said that the request ends with it. */
  final: boolean
  /** By the account's clock. */
  endedAtMs: number
  /** It began when its request had ended, for all the account could know: the request's row is silent about it. */
  isBelated: boolean
  /** The account has lost what it knew of it. */
  isForgotten: boolean
}

type Amounts = { settled: bigint; held: bigint }

export class Books {
  readonly attempts = new Map<string, Booked>()
  /** In force at the account, as far as it was told. */
  rules: RuleBook | undefined
  readonly revoked = new Set<string>()
  /** Which request had a key last, and with what body. */
  readonly keys = new Map<string, { requestId: string; bodyHash: string }>()
  #rulesToldAtMs = Number.NEGATIVE_INFINITY
  readonly #world: World
  /** The account's own. */
  readonly #clock: () => number

  constructor(world: World, clock: () => number) {
    this.#world = world
    this.#clock = clock
  }

  broken(detail: string): never {
    throw new Violation('answers_fit', detail)
  }

  rulesTold(book: RuleBook): void {
    if (this.rules !== undefined && book.version <= this.rules.version) return
    this.rules = book
    this.#rulesToldAtMs = this.#world.nowMs
  }

  keyRevoked(keyId: string, revoked: boolean): void {
    if (revoked) this.revoked.add(keyId)
    else this.revoked.delete(keyId)
  }

  /** What only the storage knew is gone; what stands in the record is not. */
  storageLost(): void {
    for (const one of this.attempts.values()) one.isForgotten = true
    this.rules = undefined
    this.keys.clear()
    // Revocations bridge the caches of isolates, which have forgotten the key by the time a storage is replaced.
    this.revoked.clear()
  }

  /** The account had its turn at this time of its own clock. */
  alarmRang(nowMs: number): void {
    for (const one of this.attempts.values()) {
      if (one.state !== 'held' || one.dueAtMs > nowMs) continue
      this.#world.note('hold expired')
      if (one.checkpoint !== NO_USAGE) this.#world.note('hold expired with a checkpoint')
      one.state = 'expired'
      one.usage = one.checkpoint
      one.costNanoUsd = costOf(one.usage, one.ask.price)
      one.owedNanoUsd = owedOf(one.usage, one.ask, undefined)
      one.payer = 'customer'
      one.status = 'deadline_exceeded'
      one.endedAtMs = nowMs
    }
  }

  answered(call: AccountCall, reply: AccountReply): void {
    if (reply.kind === 'failed') return this.#failed(call, reply.error)
    if (reply.kind !== call.kind) this.broken(`${call.kind} was answered as ${reply.kind}`)
    switch (call.kind) {
      case 'reserve':
        if (reply.kind !== 'reserve') return
        if (reply.result.ok) return this.#granted(call.ask, reply.result.value)
        return this.#denied(call.ask, reply.result.error)
      case 'checkpoint': {
        const one = this.attempts.get(call.holdId)
        if (one?.state === 'held' && outputTokens(call.usage) >= outputTokens(one.checkpoint))
          one.checkpoint = call.usage
        return
      }
      case 'settle':
        if (reply.kind === 'settle') this.#settled(call.end, reply.settled)
        return
      default:
        return call satisfies never
    }
  }

  /** What a limit has counted, open holds apart. @param except A request that does not count. */
  amounts(
    of: Pick<CountedLimit, 'scope' | 'scopeId' | 'meter' | 'window' | 'timeZone' | 'model'>,
    subject: string,
    atMs: number,
  ): Amounts {
    const window = windowName(of.window, of.timeZone, atMs)
    const sums: Amounts = { settled: 0n, held: 0n }
    for (const one of this.attempts.values()) {
      const { ask } = one
      if (subjectAt(ask, of.scope) !== subject) continue
      if (of.model !== undefined && of.model !== ask.modelRequested) continue
      if (windowName(of.window, of.timeZone, ask.startedAtMs) !== window) continue
      if (one.state === 'held') sums.held += asked(ask, one.heldNanoUsd, of.meter)
      else sums.settled += used(one, of.meter)
    }
    return sums
  }

  /** Distinct requests that run at a place. */
  running(limit: ConcurrencyLimit, subject: string, exceptRequestId: string): number {
    const requests = new Set<string>()
    for (const { ask, state } of this.attempts.values())
      if (
        state === 'held' &&
        ask.requestId !== exceptRequestId &&
        subjectAt(ask, limit.scope) === subject &&
        (limit.model === undefined || limit.model === ask.modelRequested)
      )
        requests.add(ask.requestId)
    return requests.size
  }

  #granted(ask: ReserveAsk, hold: Hold): void {
    if (hold.holdId !== `${ask.requestId}.${ask.attempt}`)
      this.broken(`${ask.requestId}.${ask.attempt} was told ${hold.holdId}`)
    const known = this.attempts.get(hold.holdId)
    if (known !== undefined) {
      this.#world.note('reserve repeated')
      if (known.state !== 'held') throw new Violation('one_end', `${hold.holdId} was granted again after its end`)
      if (known.heldNanoUsd !== hold.heldNanoUsd) this.broken(`${hold.holdId} holds another amount when asked again`)
      return
    }
    const { rules } = this
    if (rules === undefined) throw new Violation('limit_kept', `${hold.holdId} was granted under no known rules`)
    if (this.revoked.has(ask.keyId))
      throw new Violation('revoked_refused', `${hold.holdId} was granted to a revoked key`)
    const moneyIsBound =
      rules.credit !== undefined ||
      rules.limits.some((rule) => rule.meter === 'money' && rule.hard && applies(rule, ask))
    const worst = worstOf(ask)
    if (worst === undefined && moneyIsBound)
      throw new Violation('limit_kept', `${hold.holdId} was granted at no known price under a money limit`)
    if (hold.heldNanoUsd !== (worst ?? 0n))
      throw new Violation('limit_kept', `${hold.holdId} holds ${hold.heldNanoUsd} where ${worst} can be spent`)
    for (const rule of rules.limits) this.#mustFit(rule, ask, worst ?? 0n)
    if (rules.credit !== undefined) this.#mustFitCredit(rules.credit, ask, worst ?? 0n)
    this.#mustBeFirst(ask)
    this.#world.note('granted')
    if (ask.attempt > 1) this.#world.note('granted: fallback')
    this.attempts.set(hold.holdId, {
      ask,
      holdId: hold.holdId,
      heldNanoUsd: hold.heldNanoUsd,
      state: 'held',
      checkpoint: NO_USAGE,
      dueAtMs: ask.deadlineAtMs + EXPIRY_GRACE_MS,
      usage: NO_USAGE,
      costNanoUsd: 0n,
      payer: 'customer',
      status: '',
      owedNanoUsd: 0n,
      final: false,
      endedAtMs: 0,
      isBelated: this.#isOver(ask.requestId),
      isForgotten: false,
    })
  }

  #mustFit(rule: LimitRule, ask: ReserveAsk, worst: bigint): void {
    const subject = subjectAt(ask, rule.scope)
    if (!rule.hard || subject === undefined || !applies(rule, ask)) return
    if (rule.meter === 'concurrency') {
      const running = this.running(rule, subject, ask.requestId)
      if (running >= rule.max)
        throw new Violation('limit_kept', `${ask.requestId} runs beside ${running} others, ${rule.max} may run`)
      return
    }
    // A fallback is the same request, counted with its first attempt.
    if (rule.meter === 'requests' && ask.attempt > 1) return
    const { settled, held } = this.amounts(rule, subject, ask.startedAtMs)
    const more = asked(ask, worst, rule.meter)
    const max = maxOf(rule)
    if (settled + held + more > max)
      throw new Violation('limit_kept', `${describe(rule)}: ${settled} used + ${held} held + ${more} asked > ${max}`)
    if (settled + held + more === max) this.#world.note('limit filled to the last unit')
  }

  #mustFitCredit(credit: CreditTerms, ask: ReserveAsk, worst: bigint): void {
    const { settled, held } = this.amounts(creditOf(ask), ask.orgId, ask.startedAtMs)
    const max = credit.grantedNanoUsd + credit.overdraftNanoUsd
    if (settled + held + worst > max)
      throw new Violation('limit_kept', `credit: ${settled} used + ${held} held + ${worst} asked > ${max}`)
  }

  /** Whether the account may have closed a request: somebody said so, or nothing was heard of it for its time of grace. */
  #isOver(requestId: string): boolean {
    const attempts = [...this.attempts.values()].filter(({ ask }) => ask.requestId === requestId)
    const nowMs = this.#clock()
    // An expiry closes at once: whoever ran the request has not been heard of for a minute and more.
    const isSilent = ({ state, endedAtMs }: Booked) =>
      state === 'expired' || state === 'late' || (state !== 'held' && nowMs - endedAtMs > CLOSE_GRACE_MS)
    return attempts.length > 0 && (attempts.some(({ final }) => final) || attempts.every(isSilent))
  }

  /** One key, one running or answered request. */
  #mustBeFirst(ask: ReserveAsk): void {
    if (ask.idempotency === undefined) return
    const { keyHash, bodyHash } = ask.idempotency
    const before = this.keys.get(keyHash)
    this.keys.set(keyHash, { requestId: ask.requestId, bodyHash })
    if (before === undefined) return
    if (before.bodyHash !== bodyHash)
      throw new Violation('idempotent', `${ask.requestId} runs under the key of ${before.requestId} with another body`)
    const attempts = [...this.attempts.values()].filter((one) => one.ask.requestId === before.requestId)
    // Whoever ran the request said that it is over: a hold whose grant never reached him stays unused until it expires.
    const isOver = attempts.some(({ final }) => final)
    for (const one of attempts) {
      if (one.state === 'held' && !isOver)
        throw new Violation('idempotent', `${ask.requestId} runs while ${one.holdId} does`)
      if (one.status === 'ok')
        throw new Violation('idempotent', `${ask.requestId} runs after ${one.holdId} was answered`)
    }
    this.#world.note('key used again after a failure')
  }

  #denied(ask: ReserveAsk, denial: Denial): void {
    this.#world.note(`refused: ${denial.reason}`)
    const no = (detail: string): never => {
      throw new Violation('refusal_justified', `${denial.reason} for ${ask.requestId}.${ask.attempt}: ${detail}`)
    }
    switch (denial.reason) {
      case 'key_revoked':
        return this.revoked.has(ask.keyId) ? undefined : no('the key is not revoked')
      case 'attempt_ended': {
        const one = this.attempts.get(`${ask.requestId}.${ask.attempt}`)
        return one !== undefined && one.state !== 'held' ? undefined : no('the attempt goes on')
      }
      case 'request_closed':
        return ask.attempt > 1 && this.#isOver(ask.requestId) ? undefined : no('the request goes on')
      case 'price_unknown':
        return worstOf(ask) === undefined ? undefined : no('the price is known')
      case 'concurrency_limited': {
        const rule = this.#ruleInForce(denial.rule, ask) ?? no('no such limit is in force')
        const subject = subjectAt(ask, rule.scope) ?? no('the limit is on somebody else')
        const running =
          rule.meter === 'concurrency' ? this.running(rule, subject, ask.requestId) : no('of another kind')
        if (rule.meter !== 'concurrency' || running < rule.max) no(`${running} are running`)
        if (running !== denial.running || !rule.hard) no(`${running} are running, told were ${denial.running}`)
        return
      }
      case 'rate_limited': {
        const { used: settled, held, asked: more } = denial
        return this.#mustExceed(denial.rule, ask, { settled, held, more }, no)
      }
      case 'budget_exhausted': {
        const { settledNanoUsd: settled, heldNanoUsd: held, askNanoUsd: more } = denial
        return this.#mustExceed(denial.rule, ask, { settled, held, more }, no)
      }
      case 'credit_exhausted': {
        const { credit, settledNanoUsd, heldNanoUsd, askNanoUsd } = denial
        const { settled, held } = this.amounts(creditOf(ask), ask.orgId, ask.startedAtMs)
        if (settled !== settledNanoUsd || held !== heldNanoUsd) no(`${settled} are used and ${held} held`)
        if (settled + held + askNanoUsd <= credit.grantedNanoUsd + credit.overdraftNanoUsd) no('it fits')
        return
      }
      case 'idempotency_conflict':
      case 'idempotency_running':
      case 'idempotency_answered': {
        const before = this.keys.get(ask.idempotency?.keyHash ?? '')
        if (before?.requestId !== denial.requestId) return no(`the key is not known as that of ${denial.requestId}`)
        const sameBody = before.bodyHash === ask.idempotency?.bodyHash
        if (sameBody === (denial.reason === 'idempotency_conflict')) no('the body says otherwise')
        return
      }
      case 'outbox_full':
      case 'unavailable':
        return this.#unavailable(ask, no)
      default:
        return denial satisfies never
    }
  }

  /** Only trouble with the record, or a window further back than counters go, is a reason not to know. */
  #unavailable(ask: ReserveAsk, no: (detail: string) => never): void {
    const { nowMs, troubleAtMs } = this.#world
    if (nowMs - troubleAtMs <= TROUBLE_MS) return
    // Counters that were being read may belong to limits that are gone, and other limits have come.
    if (nowMs - this.#rulesToldAtMs <= RULES_SETTLE_MS) return
    const isBound = this.rules?.limits.some(
      (rule) => rule.hard && rule.meter !== 'concurrency' && rule.window === 'minute' && applies(rule, ask),
    )
    if (isBound === true && this.#clock() - ask.startedAtMs > MINUTE_MS)
      return this.#world.note('asked for a window long past')
    no('nothing was wrong')
  }

  #mustExceed(
    limit: LimitRule,
    ask: ReserveAsk,
    told: Amounts & { more: bigint },
    no: (detail: string) => never,
  ): void {
    const rule = this.#ruleInForce(limit, ask) ?? no('no such limit is in force')
    const subject = subjectAt(ask, rule.scope) ?? no('the limit is on somebody else')
    if (rule.meter === 'concurrency' || !rule.hard) return no('the limit refuses nothing of this kind')
    const { settled, held } = this.amounts(rule, subject, ask.startedAtMs)
    if (settled !== told.settled || held !== told.held)
      no(`${describe(rule)}: ${settled} are used, ${held} held; told ${told.settled}, ${told.held}`)
    if (settled + held + told.more <= maxOf(rule)) no(`${describe(rule)}: it fits`)
  }

  #ruleInForce(limit: LimitRule, ask: ReserveAsk): LimitRule | undefined {
    return this.rules?.limits.find((rule) => rule.limitId === limit.limitId && applies(rule, ask))
  }

  #settled(end: SettleEnd, settled: Settled): void {
    const one = this.attempts.get(end.holdId)
    if (one === undefined)
      throw new Violation('answers_fit', `an end of ${end.holdId} was taken, which was never granted`)
    if (end.final) one.final = true
    if (one.state === 'ended' || one.state === 'late') {
      this.#world.note('settle repeated')
      if (!settled.repeated || settled.costNanoUsd !== one.costNanoUsd)
        throw new Violation('one_end', `${end.holdId} was ended twice: ${one.costNanoUsd}, then ${settled.costNanoUsd}`)
      return
    }
    if (settled.repeated) throw new Violation('one_end', `the first end of ${end.holdId} was taken for a second one`)
    if (one.state === 'expired') this.#world.note('settle after expiry')
    one.state = one.state === 'expired' ? 'late' : 'ended'
    one.usage = end.usage
    one.costNanoUsd = costOf(end.usage, one.ask.price)
    one.payer = end.charge
    if (one.endedAtMs === 0) one.endedAtMs = this.#clock()
    one.status = end.status
    one.owedNanoUsd = owedOf(end.usage, one.ask, end.providerCostNanoUsd)
    if (settled.costNanoUsd !== one.costNanoUsd)
      throw new Violation('charge_true', `${end.holdId} costs ${settled.costNanoUsd}, its usage ${one.costNanoUsd}`)
    const { estimate } = one.ask
    const isWithin = inputsOf(end.usage) <= estimate.inputTokens && outputsOf(end.usage) <= estimate.outputTokens
    if (isWithin && one.costNanoUsd > one.heldNanoUsd)
      throw new Violation(
        'limit_kept',
        `${end.holdId} held ${one.heldNanoUsd} and cost ${one.costNanoUsd} within its estimate`,
      )
    if (!isWithin) this.#world.note('more used than estimated')
  }

  #failed(call: AccountCall, error: string): void {
    const holdId =
      call.kind === 'reserve'
        ? `${call.ask.requestId}.${call.ask.attempt}`
        : call.kind === 'settle'
          ? call.end.holdId
          : call.holdId
    const one = this.attempts.get(holdId)
    this.#world.note(`failed: ${call.kind}`)
    // What waited in an isolate while the account lost everything comes too late; the record has the estimate.
    if (call.kind === 'settle' && one?.isForgotten === true) return
    throw new Violation('answers_fit', `${call.kind} of ${holdId} failed: ${error}`)
  }
}

export const maxOf = (rule: CountedLimit): bigint => (rule.meter === 'money' ? rule.maxNanoUsd : BigInt(rule.max))

const creditOf = (ask: ReserveAsk) =>
  ({ scope: 'org', scopeId: ask.orgId, meter: 'money', window: 'lifetime', timeZone: 'UTC', model: undefined }) as const

export function applies(rule: LimitRule, ask: ReserveAsk): boolean {
  const subject = subjectAt(ask, rule.scope)
  if (subject === undefined) return false
  return (
    (rule.scopeId === '*' || rule.scopeId === subject) &&
    (rule.model === undefined || rule.model === ask.modelRequested)
  )
}

function asked(ask: ReserveAsk, worst: bigint, meter: CountedLimit['meter']): bigint {
  switch (meter) {
    case 'requests':
      return ask.attempt === 1 ? 1n : 0n
    case 'input_tokens':
      return BigInt(ask.estimate.inputTokens)
    case 'output_tokens':
      return BigInt(ask.estimate.outputTokens)
    case 'money':
      return worst
    default:
      return meter satisfies never
  }
}

function used(one: Booked, meter: CountedLimit['meter']): bigint {
  if (meter === 'requests') return one.ask.attempt === 1 ? 1n : 0n
  if (one.payer !== 'customer') return 0n
  if (meter === 'money') return one.costNanoUsd
  return BigInt(meter === 'input_tokens' ? inputsOf(one.usage) : outputsOf(one.usage))
}

const describe = (rule: CountedLimit): string => `${rule.scope} ${rule.meter} per ${rule.window}`
