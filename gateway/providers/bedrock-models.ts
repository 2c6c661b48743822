// What the model families on Bedrock understand beyond what its Converse interface has for all. Owns the families, told by
// the model's id; what Claude's generations know is claude-models.ts. Pure.
import { isClaude } from './claude-models.ts'

/** `unknown` also where an id is that of a profile or a copy of one's own, which does not tell. */
export type BedrockFamily = 'claude' | 'nova' | 'gpt' | 'mistral' | 'cohere' | 'unknown'

/** Before the family stand a region or an ARN. */
const FAMILIES: readonly [RegExp, BedrockFamily][] = [
  [/(^|[./:])amazon\.nova/, 'nova'],
  [/(^|[./:])openai\./, 'gpt'],
  [/(^|[./:])mistral\./, 'mistral'],
  [/(^|[./:])cohere\./, 'cohere'],
]

export function bedrockFamily(model: string): BedrockFamily {
  if (isClaude(model)) return 'claude'
  return FAMILIES.find(([pattern]) => pattern.test(model.toLowerCase()))?.[1] ?? 'unknown'
}

/** The ids of calls that the family takes. */
export const toolIdPattern = (family: BedrockFamily): RegExp =>
  family === 'mistral' ? /^[A-Za-z0-9]{9}$/ : /^[A-Za-z0-9_.:-]{1,64}$/

/** Keeps the beginning of prompts where it is told to; the others refuse to be told. */
export const hasCache = (family: BedrockFamily): boolean => family === 'claude' || family === 'nova'

/** Where a largest number of candidate tokens goes; undefined: the family knows none. */
export function topKFields(family: BedrockFamily, topK: number): Record<string, unknown> | undefined {
  switch (family) {
    case 'claude':
    case 'mistral':
      return { top_k: topK }
    case 'nova':
      return { inferenceConfig: { topK } }
    case 'cohere':
      return { k: topK }
    case 'gpt':
    case 'unknown':
      return undefined
    default:
      return family satisfies never
  }
}
