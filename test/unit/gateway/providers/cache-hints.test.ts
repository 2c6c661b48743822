// What OpenAI's servers are told of prompt caches: which parts are marked, and that nothing else is to be kept, on both of its routes.
import { describe, expect, test } from 'vitest'
import type { ProviderConfig } from '../../../../gateway/policy/plan.ts'
import { azureOpenAi } from '../../../../gateway/providers/azure-openai.ts'
import { openAi } from '../../../../gateway/providers/openai.ts'
import { openAiCompatible } from '../../../../gateway/providers/openai-compatible.ts'
import type { Vendor } from '../../../../gateway/providers/vendor.ts'
import { type ChatMessage, type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const CACHE = { ttl: '1h' as const }
const BREAKPOINT = { mode: 'explicit' }
const PNG = { type: 'image' as const, source: { kind: 'data' as const, mediaType: 'image/png', data: 'QUJD' } }
const marked: ChatMessage[] = [
  { role: 'system', content: [{ type: 'text', text: 'Rules.', cache: CACHE }] },
  { role: 'assistant', content: [{ type: 'text', text: 'Hello.', cache: CACHE }] },
  {
    role: 'user',
    content: [
      { ...PNG, cache: CACHE },
      { type: 'text', text: 'hi' },
    ],
  },
]
const asked = (messages: ChatMessage[]): InferenceRequest => ({
  model: 'm',
  input: { kind: 'chat', messages },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  tools: [{ name: 'look', cache: CACHE }],
  reasoning: { effort: 'none' },
  promptCacheMode: 'explicit',
})

type Sent = { messages: { content: unknown }[]; tools: object[]; prompt_cache_options?: object }
type Kind = 'openai' | 'azure_openai' | 'openai_compatible'

async function sentBy(
  vendor: Vendor,
  kind: Kind,
  model: string,
  api: 'chat_completions' | 'responses' = 'chat_completions',
): Promise<Sent> {
  const config: ProviderConfig = {
    name: 'p',
    kind,
    baseUrl: 'https://api.example.com/v1',
    reach: 'public',
    options: { api },
    usageDialect: 'openai',
    cutoff: 'cancel',
    keys: [],
  }
  const target = { provider: 'p', model, contextTokens: 8192, price: undefined }
  const key = { name: 'k', secret: 's', weight: 1 }
  const call = await vendor.encode(asked(marked), target, { config, key, requestId: 'r', nowMs: () => 0 })
  if (!call.ok) throw new Error(call.error.message)
  return JSON.parse(call.value.body)
}

describe('marks for prompt caches', () => {
  test.each(['gpt-5.6', 'gpt-5.6-luna-2026-07-01', 'gpt-6-astra'])(
    'are breakpoints for %s, but not on tools and on what was answered',
    async (model) => {
      const { messages, tools } = await sentBy(openAi, 'openai', model)
      expect(messages.map(({ content }) => content)).toEqual([
        [{ type: 'text', text: 'Rules.', prompt_cache_breakpoint: BREAKPOINT }],
        'Hello.',
        [
          { type: 'image_url', image_url: { url: 'data:image/png;base64,QUJD' }, prompt_cache_breakpoint: BREAKPOINT },
          { type: 'text', text: 'hi' },
        ],
      ])
      expect(JSON.stringify(tools)).not.toContain('cache')
    },
  )

  test.each(['chat_completions', 'responses'] as const)(
    'are all that is kept where the caller says so, on the route for %s: else the vendor keeps more, and charges for it',
    async (api) => {
      expect((await sentBy(openAi, 'openai', 'gpt-5.6', api)).prompt_cache_options).toEqual({ mode: 'explicit' })
    },
  )

  test.each([
    ['an older model', openAi, 'openai', 'gpt-5.5'],
    ['a model of another name', openAi, 'openai', 'ours'],
    ['Azure', azureOpenAi, 'azure_openai', 'gpt-5.6'],
    ['a server of which nothing is known', openAiCompatible, 'openai_compatible', 'gpt-5.6'],
  ] as const)('are left out for %s', async (_, vendor, kind, model) => {
    for (const api of ['chat_completions', 'responses'] as const) {
      expect(JSON.stringify(await sentBy(vendor, kind, model, api))).not.toContain('cache')
    }
  })
})
