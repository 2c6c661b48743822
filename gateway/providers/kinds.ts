// The kinds of upstream an administrator can register. Owns the list; what each kind does is the file of its name, and
// vendors.ts finds it.

export const PROVIDER_KINDS = [
  'openai',
  'anthropic',
  'gemini',
  'bedrock',
  'azure_openai',
  /** Any server with OpenAI's HTTP; its deviations are a preset. */
  'openai_compatible',
] as const
export type ProviderKind = (typeof PROVIDER_KINDS)[number]
