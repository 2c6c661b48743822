// How much Claude is asked to think. Owns the translation of efforts and budgets into what a generation understands, and
// when thinking has to give way; the rest of a request is the encoders'. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { Reasoning, ReasoningEffort, Sampling, ToolChoice } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { ClaudeTraits } from './claude-models.ts'
import { refuse } from './refusal.ts'

/** The least that generations which think in budgets take. */
const BUDGET_TOKENS_MIN = 1024
/** The least top_p that goes with thinking. */
const THINKING_TOP_P_MIN = 0.95
const NOT_BEFORE_CALLS =
  'This model cannot think within a number of tokens before a call that it must make: leave out one of the two.'
/** Shares of the output that efforts mean where only a number can be asked for. */
const EFFORT_SHARE: Record<ReasoningEffort, number> = {
  none: 0,
  minimal: 0.1,
  low: 0.2,
  medium: 0.5,
  high: 0.8,
  xhigh: 0.95,
  max: 0.95,
}
/** Efforts that budgets mean where no number can be asked for: the first whose bound is not under the budget. */
const BUDGET_EFFORT = [
  { tokensMax: 4096, effort: 'low' },
  { tokensMax: 16_384, effort: 'medium' },
] as const

export type ThinkingFields = {
  thinking?: Record<string, unknown>
  effort?: string
}

export type ThinkingRules = {
  traits: ClaudeTraits
  /** Thoughts count within it. */
  maxTokens: number
  /** The model has to call a tool, before which it cannot think within a number of tokens. */
  isForced: boolean
  /** The turn that goes on has no thoughts to show, which generations with budgets refuse. */
  lacksThoughts: boolean
}

/**
 * Fields that are absent leave it to the model.
 * @returns Failure `invalid_request` where thinking itself was asked for and cannot be: only an effort gives way.
 */
export function thinkingFields(
  reasoning: Reasoning | undefined,
  rules: ThinkingRules,
): Result<ThinkingFields, Failure> {
  const { traits } = rules
  if (reasoning === undefined) return ok({})
  if (reasoning.effort === 'none' || reasoning.budgetTokens === 0) {
    if (traits.thinking === 'none') return ok({})
    return ok(traits.offWord === undefined ? { effort: 'low' } : { thinking: { type: traits.offWord } })
  }
  if (traits.thinking === 'none') return without(reasoning, 'This model does not think: leave it out.')
  const isByBudget =
    traits.thinking === 'budget' || (traits.thinking === 'either' && reasoning.budgetTokens !== undefined)
  if (isByBudget) return budgeted(reasoning, rules)
  const effort = effortWord(reasoning, traits)
  const thinking = { type: 'adaptive', ...display(reasoning) }
  return ok({ thinking, ...(effort === undefined ? {} : { effort }) })
}

/** Whether the model has to call a tool. */
export const isForced = (choice: ToolChoice | undefined): boolean =>
  choice?.mode === 'required' || choice?.mode === 'tool'

/** A call that the model may leave out is not what a caller asked for who wants one. */
export function refusedChoice(
  choice: ToolChoice | undefined,
  { hasForcedCalls }: ClaudeTraits,
): Result<never, Failure> | undefined {
  if (hasForcedCalls || !isForced(choice)) return undefined
  const message =
    "This model cannot be made to call a tool: use a tool_choice of 'auto', and say in the prompt when to call."
  return refuse('toolChoice', message)
}

/**
 * A caller that sets what a model does not take, or not while it thinks, is told so: an answer of another temperature is
 * another answer.
 */
export function refusedSampling(
  { temperature = 1, topP = 1, topK = 0 }: Sampling,
  traits: ClaudeTraits,
  { thinking }: ThinkingFields,
): Result<never, Failure> | undefined {
  const isThinking = thinking !== undefined && thinking.type !== 'disabled' && thinking.type !== 'between_tools'
  const isFixed = isThinking || !traits.hasSampling
  const why = traits.hasSampling ? ' while it thinks' : ''
  if (temperature !== 1 && isFixed) return refuse('temperature', `This model takes no temperature${why}: leave it out.`)
  if (temperature > 1) return refuse('temperature', 'This model takes temperatures from 0 to 1.')
  if (topK !== 0 && isFixed) return refuse('topK', `This model takes no top_k${why}: leave it out.`)
  const leastTopP = traits.hasSampling ? THINKING_TOP_P_MIN : 1
  if (isFixed && topP < leastTopP) return refuse('topP', `This model takes no such top_p${why}: leave it out.`)
  return undefined
}

function budgeted(reasoning: Reasoning, rules: ThinkingRules): Result<ThinkingFields, Failure> {
  if (rules.isForced) return without(reasoning, NOT_BEFORE_CALLS)
  // Nothing that the caller could mend: the turn may have begun at another provider.
  if (rules.lacksThoughts) return ok({})
  const { effort = 'none', budgetTokens } = reasoning
  const { maxTokens, traits } = rules
  if (budgetTokens !== undefined && (budgetTokens < BUDGET_TOKENS_MIN || budgetTokens >= maxTokens)) {
    const least = `This model thinks with at least ${BUDGET_TOKENS_MIN} tokens`
    return refuse('reasoning', `${least}, and fewer than the ${maxTokens} of the whole output: change one of them.`)
  }
  if (budgetTokens === undefined && effort === 'none') {
    return without(reasoning, 'This model thinks within a number of tokens: ask for one, or for an effort.')
  }
  if (maxTokens <= BUDGET_TOKENS_MIN) {
    return without(reasoning, `This model thinks with at least ${BUDGET_TOKENS_MIN} tokens: raise the largest output.`)
  }
  const asked = budgetTokens ?? Math.floor(maxTokens * EFFORT_SHARE[effort])
  const budget = Math.min(Math.max(asked, BUDGET_TOKENS_MIN), maxTokens - 1)
  const thinking = { type: 'enabled', budget_tokens: budget }
  if (traits.thinking === 'budget') return ok({ thinking })
  const word = reasoning.effort === undefined ? undefined : effortWord(reasoning, traits)
  return ok({
    thinking: { ...thinking, ...display(reasoning) },
    ...(word === undefined ? {} : { effort: word }),
  })
}

/** A budget is asked for by no other dialect than those that ask for thinking itself. */
const isRequired = ({ isRequired, budgetTokens = 0 }: Reasoning): boolean => isRequired === true || budgetTokens > 0

/** No thoughts: in silence where only an effort was asked for, else said with the reason. */
const without = (reasoning: Reasoning, why: string): Result<ThinkingFields, Failure> =>
  isRequired(reasoning) ? refuse('reasoning', why) : ok({})

const display = ({ show }: Reasoning): Record<string, unknown> =>
  show === undefined ? {} : { display: show ? 'summarized' : 'omitted' }

function effortWord({ effort, budgetTokens }: Reasoning, traits: ClaudeTraits): string | undefined {
  switch (effort) {
    case 'minimal':
    case 'low':
      return 'low'
    case 'medium':
    case 'high':
      return effort
    case 'xhigh':
    case 'max':
      return traits.highEfforts.includes(effort) ? effort : 'high'
    case 'none':
    case undefined:
      if (budgetTokens === undefined) return undefined
      return BUDGET_EFFORT.find(({ tokensMax }) => budgetTokens <= tokensMax)?.effort ?? 'high'
    default:
      return effort satisfies never
  }
}
