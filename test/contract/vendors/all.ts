// Every promised provider. Owns the list.
import type { Promised } from '../promise.ts'
import { anthropic } from './anthropic.ts'
import { bedrock } from './bedrock.ts'
import { gemini } from './gemini.ts'
import { azureOpenAi, openAi } from './openai.ts'
import { openAiResponses } from './openai-responses.ts'
import { COMPATIBLE } from './presets.ts'

export const PROVIDERS: readonly Promised[] = [
  openAi,
  openAiResponses,
  anthropic,
  gemini,
  bedrock,
  azureOpenAi,
  ...COMPATIBLE,
]
