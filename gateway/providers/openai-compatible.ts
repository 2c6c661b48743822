// Any server that speaks OpenAI's HTTP. Owns which preset a registered one follows; the presets are presets.ts, the rest is
// openai-vendor.ts.
import { bearer, openAiVendor } from './openai-vendor.ts'
import { presetOf } from './presets.ts'

export const openAiCompatible = openAiVendor({
  preset: ({ preset }) => presetOf(preset),
  url: ({ baseUrl }, _, path) => `${baseUrl}${path}`,
  authorisation: bearer,
  sealMark: ({ preset }) => (presetOf(preset).thoughtField === 'reasoning_details' ? preset : undefined),
  api: () => 'chat_completions',
  // The other route has proofs of another form.
  responsesMark: ({ preset = 'openai_compatible' }) => `${preset}.responses`,
})
