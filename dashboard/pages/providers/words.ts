// How a model chooses among its targets, in sentences. Owns the words: they stand under the picture, and are the picture for whoever
// does not see it. ○ Pure.
import { count, duration, percent } from '../../app/format.ts'
import type { Model, ModelPolicy, Target } from '../../app/wire-admin.ts'

const DEFAULT_POLICY: ModelPolicy = { strategy: 'ordered', fallback_on: [], attempts_max: 4 }

export const policyOf = ({ policy }: Pick<Model, 'policy'>): ModelPolicy => policy ?? DEFAULT_POLICY
export const targetName = ({ provider, model }: Pick<Target, 'provider' | 'model'>): string => `${provider}/${model}`

export const STRATEGY_WORDS: Readonly<Record<ModelPolicy['strategy'], string>> = {
  ordered: 'In order',
  weighted: 'By weight',
  cheapest: 'Cheapest',
  fastest: 'Fastest',
  least_busy: 'Least busy',
}
const STRATEGY_ABOUT: Readonly<Record<ModelPolicy['strategy'], string>> = {
  ordered: 'The targets are asked in this order',
  weighted: 'A target is drawn by weight',
  cheapest: 'The target with the lowest price of this very request in the worst case is asked first',
  fastest: 'The target that was measured to be the fastest lately is asked first, one never measured before all',
  least_busy: 'The target with the fewest requests in flight is asked first',
}
const spaced = (words: readonly string[]): string => words.map((word) => word.replaceAll('_', ' ')).join(', ')

/** The target that only gets copies never answers, unless it is alone. */
export const isShadow = ({ targets, policy }: Pick<Model, 'targets' | 'policy'>, index: number): boolean =>
  targets.length > 1 && policy?.shadow?.target === index

/**
 * Targets that answer, as they are asked after each other where all but one fail: for those that the canary does not draw, it is the
 * last one.
 */
export function answeringOf(model: Pick<Model, 'targets' | 'policy'>): { target: Target; index: number }[] {
  const all = model.targets.flatMap((target, index) => (isShadow(model, index) ? [] : [{ target, index }]))
  const canary = model.policy?.canary?.target
  return [...all.filter(({ index }) => index !== canary), ...all.filter(({ index }) => index === canary)]
}

/** Of the draws by weight; undefined where weights decide nothing. */
export function weightShare(model: Pick<Model, 'targets' | 'policy'>, index: number): number | undefined {
  const { strategy, canary } = policyOf(model)
  if (strategy !== 'weighted' || canary?.target === index || isShadow(model, index)) return undefined
  const drawn = answeringOf(model).filter((one) => one.index !== canary?.target)
  const all = drawn.reduce((sum, { target }) => sum + (target.weight ?? 1), 0)
  return all === 0 ? undefined : (model.targets[index]?.weight ?? 1) / all
}

export function sentences(model: Pick<Model, 'targets' | 'policy'>): string[] {
  const policy = policyOf(model)
  const { targets } = model
  const nameAt = (index: number) => {
    const target = targets[index]
    return target === undefined ? `target ${index}` : targetName(target)
  }
  const answering = answeringOf(model)
  const list = answering
    .filter(({ index }) => answering.length === 1 || index !== policy.canary?.target)
    .map(({ target, index }) => {
      const share = weightShare(model, index)
      return share === undefined ? targetName(target) : `${targetName(target)} (${percent(share)})`
    })
    .join(policy.strategy === 'ordered' ? ', then ' : ', ')
  const lines = [
    answering.length === 1 ? `All requests go to ${list}.` : `${STRATEGY_ABOUT[policy.strategy]}: ${list}.`,
  ]
  if (policy.cascade !== undefined) {
    const { escalate_on: rules, confidence_min: least } = policy.cascade
    lines.push(
      `Cascade: an answer that is caught by ${spaced(rules)}${least === undefined ? '' : ` (below ${least})`} is thrown away and the next target answers; every answer that was computed is charged.`,
    )
  }
  if (answering.length > 1)
    lines.push(
      `A target that fails before its first content is followed by the next, ${count(policy.attempts_max)} attempts at most.`,
    )
  if (policy.fallback_on.length > 0) lines.push(`The next is asked as well after ${spaced(policy.fallback_on)}.`)
  if (policy.canary !== undefined)
    lines.push(
      `Canary: ${policy.canary.percent} % of the requests try ${nameAt(policy.canary.target)} first; for the others it is the last to be asked.`,
    )
  if (policy.shadow !== undefined)
    lines.push(
      `Shadow: ${policy.shadow.percent} % of the requests are sent to ${nameAt(policy.shadow.target)} as well; nobody sees its answer, the operator bears its cost.`,
    )
  if (policy.hedge !== undefined)
    lines.push(
      `Hedge: callers may ask for a second target where the first is silent for ${duration(policy.hedge.after_ms)}; both are charged.`,
    )
  if (policy.sticky !== undefined)
    lines.push(
      policy.sticky === 'conversation'
        ? 'Sticky: a conversation stays at one target while that is well.'
        : 'Sticky: an end user stays at one target while that is well.',
    )
  return lines
}
