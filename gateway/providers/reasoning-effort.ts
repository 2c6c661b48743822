// How much to think, between targets that know words and callers that give a budget. Owns the thresholds. Pure.
import { REASONING_EFFORTS, type Reasoning, type ReasoningEffort } from '../../protocol/request.ts'

/** Budgets up to here are a `low` effort: what vendors spend on it for everyday questions. */
const LOW_TOKENS_MAX = 2048
/** Budgets up to here are a `medium` effort; more is `high`. */
const MEDIUM_TOKENS_MAX = 8192

/** The effort a caller asked for, or the one its budget comes to; undefined where it asked for neither. */
export function effortOf(reasoning: Reasoning): ReasoningEffort | undefined {
  if (reasoning.effort !== undefined) return reasoning.effort
  const { budgetTokens } = reasoning
  if (budgetTokens === undefined) return undefined
  if (budgetTokens === 0) return 'none'
  if (budgetTokens <= LOW_TOKENS_MAX) return 'low'
  return budgetTokens <= MEDIUM_TOKENS_MAX ? 'medium' : 'high'
}

/**
 * The nearest effort that a target knows: the next lower, else the next higher. Not to think at all is its own wish, and
 * never the nearest to another; undefined where the target cannot be told.
 */
export function nearestEffort(
  asked: ReasoningEffort,
  known: readonly ReasoningEffort[] | undefined,
): ReasoningEffort | undefined {
  if (known === undefined || known.includes(asked)) return asked
  if (asked === 'none') return undefined
  const at = REASONING_EFFORTS.indexOf(asked)
  const thinking = REASONING_EFFORTS.filter((effort) => effort !== 'none' && known.includes(effort))
  return thinking.findLast((effort) => REASONING_EFFORTS.indexOf(effort) < at) ?? thinking[0]
}
