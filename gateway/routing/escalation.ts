// Whether the answer of a small model is good enough, or a larger one is to be asked. Owns the rules of a cascade. Pure.
import type { InferenceRequest } from '../../protocol/request.ts'
import type { ModelPolicy } from '../policy/model-policy.ts'
import type { CollectedChoice } from '../stream/collect.ts'

type Cascade = NonNullable<ModelPolicy['cascade']>
export type EscalationRule = Cascade['escalate_on'][number]

/** The first rule, in the policy's order, that one of the choices falls under; undefined: the answer stands. */
export const escalationOf = (
  { escalate_on, confidence_min }: Cascade,
  choices: readonly CollectedChoice[],
  request: InferenceRequest,
): EscalationRule | undefined =>
  escalate_on.find((rule) => choices.some((choice) => holds(rule, choice, request, confidence_min)))

function holds(
  rule: EscalationRule,
  choice: CollectedChoice,
  request: InferenceRequest,
  confidenceMin: number | undefined,
): boolean {
  switch (rule) {
    case 'length':
      return choice.finish === 'length'
    case 'content_filter':
      return choice.finish === 'content_filter'
    case 'refusal':
      return choice.parts.some(({ type }) => type === 'refusal')
    case 'empty':
      return choice.values === undefined && choice.text.trim() === '' && calls(choice).length === 0
    case 'invalid_json':
      return (
        calls(choice).some((call) => call.arguments.trim() !== '' && !isJson(call.arguments)) ||
        (asksForJson(request) && calls(choice).length === 0 && !isJson(choice.text))
      )
    case 'low_confidence': {
      const { logprobs } = choice
      if (confidenceMin === undefined || logprobs.length === 0) return false
      const sum = logprobs.reduce((total, { logprob }) => total + Math.exp(logprob), 0)
      return sum / logprobs.length < confidenceMin
    }
    default:
      return rule satisfies never
  }
}

const calls = (choice: CollectedChoice) => choice.parts.filter((part) => part.type === 'tool_call')

const asksForJson = ({ outputFormat }: InferenceRequest): boolean =>
  outputFormat?.kind === 'json_object' || outputFormat?.kind === 'json_schema' || outputFormat?.kind === 'json'

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
