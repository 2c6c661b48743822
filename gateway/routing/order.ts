// In which order a model's targets are tried for one request, and why. Owns the strategies and how they go together:
//
//   hints filter ─▶ strategy orders ─▶ sticky picks the first ─▶ canary ─▶ the caller's own order ─▶ resting ones last
//
// A cascade keeps the order of the catalog. Pure: what is known of the targets, and randomness, are arguments. What happens
// when one fails is verdict.ts.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { ModelPolicy } from '../policy/model-policy.ts'
import type { Plan, Target } from '../policy/plan.ts'
import type { Standing } from './breaker.ts'
import { hashShare, rendezvous } from './conversation.ts'
import { type Hints, nothingLeft, targetName, wantedPlace, withinHints } from './hints.ts'

/** What stands beside the plan. */
export type Known = {
  standing: (target: Target) => Standing
  /** Expected duration of an answer, and of its first content; undefined: not measured lately. */
  expectedMs: (target: Target) => number | undefined
  firstContentMs: (target: Target) => number | undefined
  /** Attempts from this isolate that are open. */
  inFlight: (target: Target) => number
  /** Of this request; undefined: no price is known. */
  worstCost: (target: Target) => bigint | undefined
  /** What requests that belong together have in common, salted by organisation: nobody finds out another's. */
  stickyText: string
  /** Whether the request generates: an embedding has no output to be priced. */
  hasOutput: boolean
}

export type Reason = ModelPolicy['strategy'] | 'sticky' | 'canary' | 'hint' | 'cascade'

/** One target in its turn, with what put it there. */
export type Place = {
  target: Target
  /** In the catalog, from 0. */
  index: number
  reason: Reason
  standing: Standing
  /** What the strategy compared: milliseconds, open attempts, nano-USD, or the weight; absent where it compared nothing. */
  figure?: number
}

export type Decision = { places: Place[]; excluded: { target: Target; hint: string }[] }

type Choosable = { target: Target; index: number; figure?: number }

/**
 * @param random In [0, 1), a new one each time.
 * @returns at least one place; Failure `invalid_request` where the hints leave none.
 */
export function orderTargets(plan: Plan, hints: Hints, known: Known, random: () => number): Result<Decision, Failure> {
  const { policy } = plan
  const all: Choosable[] = plan.targets.map((target, index) => ({ target, index }))
  // Its answers are thrown away: it is on trial, and no caller is to see one. Alone it would leave nothing to serve.
  const answering = all.filter(({ index }) => all.length === 1 || index !== policy.shadow?.target)
  const { left, excluded } = withinHints(answering, hints, known.firstContentMs, known.hasOutput)
  if (left.length === 0) return err(nothingLeft(plan.model, excluded))

  const standing = new Map(left.map((one) => [one.index, known.standing(one.target)]))
  const isWell = ({ index }: Choosable): boolean => {
    const now = standing.get(index)
    return now === 'closed' || now === 'half_open'
  }
  let ordered: (Choosable & { reason: Reason })[]
  if (policy.cascade !== undefined) {
    ordered = left.map((one) => ({ ...one, reason: 'cascade' }))
  } else {
    ordered = byStrategy(left, policy, known, random).map((one) => ({ ...one, reason: policy.strategy }))
    if (policy.sticky !== undefined) {
      const weight = ({ target }: Choosable) => (policy.strategy === 'weighted' ? (target.weight ?? 1) : 1)
      const well = ordered.filter(isWell).filter(({ index }) => index !== policy.canary?.target)
      const stuck = rendezvous(
        known.stickyText,
        well.map((one) => ({ of: one, name: targetName(one.target), weight: weight(one) })),
      )
      if (stuck !== undefined) ordered = first(ordered, stuck, 'sticky')
    }
    ordered = withCanary(ordered, policy, known, random)
  }
  if (hints.order !== undefined) {
    const names = hints.order
    ordered = ordered
      .map((one) => ({ one, wanted: wantedPlace(one.target, names) }))
      .toSorted((a, b) => a.wanted - b.wanted)
      .map(({ one, wanted }) => (wanted < names.length ? { ...one, reason: 'hint' } : one))
  }
  const places = [...ordered.filter(isWell), ...ordered.filter((one) => !isWell(one))].map((one) => ({
    ...one,
    standing: standing.get(one.index) ?? 'closed',
  }))
  return ok({ places, excluded })
}

function byStrategy(left: Choosable[], { strategy }: ModelPolicy, known: Known, random: () => number): Choosable[] {
  switch (strategy) {
    case 'ordered':
      return left
    case 'weighted':
      return byDraw(left, random)
    case 'cheapest':
      return byCost(left, known)
    case 'fastest':
      // What was never measured has to be asked once to be known.
      return byFigure(left, ({ target }) => known.expectedMs(target), Number.NEGATIVE_INFINITY)
    case 'least_busy':
      return byFigure(shuffled(left, random), ({ target }) => known.inFlight(target), 0)
    default:
      return strategy satisfies never
  }
}

/** Ascending; what has no figure stands where `missing` would. Equals keep their order. */
function byFigure(
  left: readonly Choosable[],
  figureOf: (one: Choosable) => number | undefined,
  missing: number,
): Choosable[] {
  return left
    .map((one) => {
      const figure = figureOf(one)
      return { one: figure === undefined ? one : { ...one, figure }, key: figure ?? missing }
    })
    .toSorted((a, b) => (a.key === b.key ? 0 : a.key - b.key))
    .map(({ one }) => one)
}

/** A price nobody knows is no low one. */
function byCost(left: readonly Choosable[], known: Known): Choosable[] {
  return left
    .map((one) => ({ one, cost: known.worstCost(one.target) }))
    .toSorted((a, b) => {
      if (a.cost === b.cost) return 0
      if (a.cost === undefined) return 1
      return b.cost === undefined || a.cost < b.cost ? -1 : 1
    })
    .map(({ one, cost }) => (cost === undefined ? one : { ...one, figure: Number(cost) }))
}

/**
 * A random order in which each next one is drawn by weight among those left: by −ln(random) / weight, ascending (Efraimidis
 * and Spirakis, 2006). Weight 0 comes after all others, in the order of the catalog.
 */
function byDraw(left: readonly Choosable[], random: () => number): Choosable[] {
  return left
    .map((one) => {
      const weight = one.target.weight ?? 1
      return {
        one: { ...one, figure: weight },
        key: weight === 0 ? Number.POSITIVE_INFINITY : -Math.log(1 - random()) / weight,
      }
    })
    .toSorted((a, b) => (a.key === b.key ? 0 : a.key - b.key))
    .map(({ one }) => one)
}

const shuffled = (left: readonly Choosable[], random: () => number): Choosable[] =>
  left
    .map((one) => ({ one, key: random() }))
    .toSorted((a, b) => a.key - b.key)
    .map(({ one }) => one)

/** Its share of the requests goes to it first; for the others it is the last one to ask. */
function withCanary<T extends Choosable & { reason: Reason }>(
  ordered: T[],
  { canary, sticky }: ModelPolicy,
  known: Known,
  random: () => number,
): T[] {
  const bird = ordered.find(({ index }) => index === canary?.target)
  if (canary === undefined || bird === undefined) return ordered
  // One conversation is drawn once, not turn by turn.
  const draw = sticky === undefined ? random() : hashShare(`canary\n${known.stickyText}`)
  if (draw * 100 < canary.percent) return first(ordered, bird, 'canary')
  return [...ordered.filter((one) => one !== bird), bird]
}

const first = <T extends { reason: Reason }>(ordered: readonly T[], one: T, reason: Reason): T[] => [
  { ...one, reason },
  ...ordered.filter((other) => other !== one),
]
