// How much a Gemini model is asked to think. Owns which generation of models knows budgets and which knows levels; the rest
// of the request is gemini-encoder.ts. Pure.
import type { Reasoning, ReasoningEffort } from '../../protocol/request.ts'
import { effortOf } from './reasoning-effort.ts'

/** Models before the second generation with `.5` think nothing, and refuse to be asked. */
const NEVER_THINKS = /(^|\/)gemini-((1(\.\d+)?|2\.0)(-|$)|pro(-vision)?$)/i
/** The generation that is asked with a number of tokens; later ones, aliases and unknown names are asked with a level. */
const ASKED_IN_TOKENS = /(^|\/)gemini-2\.5(-|$)/i
const IS_PRO = /-pro(-|$)/i
/** Pro models of this name know two levels. */
const LOW_OR_HIGH = /(^|\/)gemini-3-pro(-|$)/i
/** Flash models whose least is `LOW`: from 3.7 on, and the alias of the newest. */
const FLASH_WITH_LOW = /(^|\/)(gemini-3\.([7-9]|\d{2,})-flash(?!-lite)|gemini-flash-latest)/i
/** These know levels alone, of which the least is `LOW`. */
const SINCE_FOUR = /(^|\/)gemini-([4-9]|\d{2,})(\.\d+)?(-|$)/i
const IS_LITE = /-flash-lite/i

export const isSinceFour = (model: string): boolean => SINCE_FOUR.test(model)

/** The budgets that Google's own OpenAI-compatible route takes for these words. */
const EFFORT_TOKENS = { minimal: 1024, low: 1024, medium: 8192, high: 24_576 } as const
const FLASH_TOKENS_MAX = 24_576
const PRO_TOKENS_MAX = 32_768
/** Pro models of 2.5 cannot be kept from thinking; this is the least they take. */
const PRO_TOKENS_MIN = 128

/** `thinkingConfig` of the request; undefined where there is nothing to say, or nobody to say it to. */
export function thinkingConfig(reasoning: Reasoning | undefined, model: string): Record<string, unknown> | undefined {
  if (reasoning === undefined || NEVER_THINKS.test(model)) return undefined
  const { budgetTokens, show } = reasoning
  const config: Record<string, unknown> = {}
  const isInTokens = ASKED_IN_TOKENS.test(model)
  const isInLevels = isSinceFour(model)
  const effort = isInLevels ? effortOf(reasoning) : reasoning.effort
  // A number says more than a word, and both together are refused.
  if (budgetTokens !== undefined && !isInLevels) {
    config.thinkingBudget = isInTokens ? Math.min(budgetTokens, tokensMax(model)) : budgetTokens
  } else if (effort !== undefined) {
    if (isInTokens) config.thinkingBudget = tokensOf(effort, model)
    else config.thinkingLevel = levelOf(effort, model)
  }
  if (show !== undefined) config.includeThoughts = show
  return Object.keys(config).length === 0 ? undefined : config
}

const tokensMax = (model: string): number => (IS_PRO.test(model) ? PRO_TOKENS_MAX : FLASH_TOKENS_MAX)

function tokensOf(effort: ReasoningEffort, model: string): number {
  switch (effort) {
    case 'none':
      return IS_PRO.test(model) ? PRO_TOKENS_MIN : 0
    case 'xhigh':
    case 'max':
      return tokensMax(model)
    default:
      return EFFORT_TOKENS[effort]
  }
}

const leastIsLow = (model: string): boolean =>
  IS_PRO.test(model) || FLASH_WITH_LOW.test(model) || (isSinceFour(model) && !IS_LITE.test(model))

/** These models never stop thinking: `none` is the least they know. */
function levelOf(effort: ReasoningEffort, model: string): 'MINIMAL' | 'LOW' | 'MEDIUM' | 'HIGH' {
  switch (effort) {
    case 'none':
    case 'minimal':
      return leastIsLow(model) ? 'LOW' : 'MINIMAL'
    case 'low':
      return 'LOW'
    case 'medium':
      return LOW_OR_HIGH.test(model) ? 'HIGH' : 'MEDIUM'
    case 'high':
    case 'xhigh':
    case 'max':
      return 'HIGH'
    default:
      return effort satisfies never
  }
}
