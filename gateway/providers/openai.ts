// OpenAI itself: chat completions, responses, completions and embeddings. Owns its address and key; an organisation or a project is
// named in the registered headers (`openai-organization`, `openai-project`). What its API lacks is the preset OPENAI. What
// only its reasoning models refuse (temperature and the like) is theirs to say: which models those are changes every month.
import { bearer, openAiVendor } from './openai-vendor.ts'
import { OPENAI } from './presets.ts'

export const openAi = openAiVendor({
  // Azure has not said that it takes them.
  preset: () => ({ ...OPENAI, cacheMarks: 'breakpoint' }),
  url: ({ baseUrl }, _, path) => `${baseUrl}${path}`,
  authorisation: bearer,
  api: () => 'auto',
  responsesMark: () => 'openai',
})
