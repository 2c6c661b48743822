// How a model's targets are chosen among and what happens when one fails: the operator's part of routing. Owns the stored
// form, which is also the admin API's and the configuration file's; who acts on it is routing/ and attempts.ts. Pure.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { type StoredTargets, TARGETS_MAX } from './targets.ts'

/**
 * `ordered`: as listed. `weighted`: at random by weight. `cheapest`: by the price of this request's worst case.
 * `fastest`: by the measured time to first token and token rate for an answer of `TYPICAL_OUTPUT_TOKENS`; what was never
 * measured is tried first. `least_busy`: by requests in flight from this isolate.
 */
export const STRATEGIES = ['ordered', 'weighted', 'cheapest', 'fastest', 'least_busy'] as const

const percent = late(() => z.number().min(0).max(100))
const distinct = (items: readonly string[]) => new Set(items).size === items.length
const REPEATED = 'names something twice'
/** Position in the model's list of targets, from 0. */
const targetIndex = late(() =>
  z
    .number()
    .int()
    .min(0)
    .max(TARGETS_MAX - 1),
)
const durationMs = (most: number) => z.number().int().min(1).max(most)

export const ModelPolicy = late(() =>
  z.strictObject({
    strategy: z.enum(STRATEGIES).default('ordered'),
    /** Requests of one conversation go to one target while it is well: providers' prompt caches stay warm. */
    sticky: z.enum(['conversation', 'end_user']).exactOptional(),
    /** This share of the requests tries the target first, whatever the strategy says. */
    canary: z.strictObject({ target: targetIndex, percent }).exactOptional(),
    /** This share is sent to the target as well; its answer is thrown away and the operator bears its cost. */
    shadow: z.strictObject({ target: targetIndex, percent }).exactOptional(),
    /**
     * Smallest model first: the answer of a target is held against the rules, and where one of them holds the next
     * target is asked instead. Streams wait for the whole answer of all but the last.
     */
    cascade: z
      .strictObject({
        escalate_on: z
          .array(z.enum(['length', 'refusal', 'content_filter', 'invalid_json', 'empty', 'low_confidence']))
          .min(1)
          .refine(distinct, REPEATED),
        /** For `low_confidence`: the mean of the tokens' probabilities; targets without logprobs never escalate by it. */
        confidence_min: z.number().gt(0).lt(1).exactOptional(),
      })
      .exactOptional(),
    /** Callers may ask for a second target to be asked when the first is silent for so long; both are charged. */
    hedge: z.strictObject({ after_ms: durationMs(60_000) }).exactOptional(),
    /** Failures of a caller's request at one target that another is tried after, beside the target's own faults. */
    fallback_on: z
      .array(z.enum(['content_filter', 'context_length', 'refused']))
      .refine(distinct, REPEATED)
      .default([]),
    /** Attempts at most, the first included. */
    attempts_max: z.number().int().min(1).max(8).default(4),
    /** From sending an attempt to its first content, and between two pieces of content. */
    first_token_timeout_ms: durationMs(600_000).exactOptional(),
    idle_timeout_ms: durationMs(600_000).exactOptional(),
    /**
     * Own fleet only. What it promises for this model: a request that no backend is predicted to begin, or to go on with, as fast as
     * that is not sent to it but to the next target. Never where nothing is measured.
     */
    first_token_target_ms: durationMs(600_000).exactOptional(),
    inter_token_target_ms: durationMs(60_000).exactOptional(),
    /** Own fleet only. Higher goes first; default 0. */
    priority: z.number().int().min(-100).max(100).exactOptional(),
  }),
)
export type ModelPolicy = z.infer<typeof ModelPolicy>

/** Of a model for which its operator said nothing. */
export const defaultModelPolicy = (): ModelPolicy => ModelPolicy.parse({})

/** What is wrong with a policy or with targets beside it. */
export type PolicyFault = { path: (string | number)[]; message: string }

/**
 * Whether a policy makes sense for these targets; the forms of both were checked before.
 * @returns the first thing that does not, with its path from the model on: `['policy', 'canary', 'target']`.
 */
export function policyFault(policy: ModelPolicy, targets: StoredTargets): PolicyFault | undefined {
  const { strategy, sticky, canary, shadow, cascade, hedge } = policy
  const fault = (path: (string | number)[], message: string): PolicyFault => ({ path: ['policy', ...path], message })
  const missing = `is not the position of a target; there are ${targets.length}, counted from 0`
  if (canary !== undefined && canary.target >= targets.length) return fault(['canary', 'target'], missing)
  if (shadow !== undefined && shadow.target >= targets.length) return fault(['shadow', 'target'], missing)
  if (shadow !== undefined && targets.length < 2) return fault(['shadow'], 'needs a second target, which answers')
  if (canary !== undefined && canary.target === shadow?.target) {
    return fault(['canary', 'target'], 'is the shadow target, whose answers no caller is given')
  }
  const answering = targets.filter((_, index) => index !== shadow?.target)
  if (strategy === 'weighted' && answering.every(({ weight }) => weight === 0)) {
    const index = shadow?.target === 0 ? 1 : 0
    return { path: ['targets', index, 'weight'], message: 'is 0 for every target: a weighted choice needs one above 0' }
  }
  if (hedge !== undefined && answering.length < 2) return fault(['hedge'], 'needs a second target that answers')
  if (cascade === undefined) return undefined
  if (answering.length < 2) return fault(['cascade'], 'needs a second target to escalate to')
  if (strategy !== 'ordered')
    return fault(['strategy'], 'must be "ordered": a cascade asks the targets as they are listed')
  if (hedge !== undefined) return fault(['hedge'], 'cannot stand beside a cascade, which waits for each answer')
  if (canary !== undefined)
    return fault(['canary'], 'cannot stand beside a cascade, which begins with its first target')
  if (sticky !== undefined)
    return fault(['sticky'], 'cannot stand beside a cascade, which begins with its first target')
  const byConfidence = cascade.escalate_on.includes('low_confidence')
  if (byConfidence && cascade.confidence_min === undefined) {
    return fault(['cascade', 'confidence_min'], 'is needed for "low_confidence"')
  }
  return !byConfidence && cascade.confidence_min !== undefined
    ? fault(['cascade', 'confidence_min'], 'needs "low_confidence" among escalate_on')
    : undefined
}
