// From a kind of provider to the file that knows it. Owns the table.

import { anthropic } from './anthropic.ts'
import { azureOpenAi } from './azure-openai.ts'
import { bedrock } from './bedrock.ts'
import { gemini } from './gemini.ts'
import type { ProviderKind } from './kinds.ts'
import { openAi } from './openai.ts'
import { openAiCompatible } from './openai-compatible.ts'
import type { Vendor } from './vendor.ts'

const VENDORS: Partial<Record<ProviderKind, Vendor>> = {
  anthropic,
  bedrock,
  gemini,
  openai: openAi,
  azure_openai: azureOpenAi,
  openai_compatible: openAiCompatible,
}

/** @throws Error for a kind that this build does not know: a row of a newer deployment. */
export function vendorOf(kind: ProviderKind): Vendor {
  const vendor = VENDORS[kind]
  if (vendor === undefined) throw new Error(`no vendor of kind ${kind}`)
  return vendor
}
