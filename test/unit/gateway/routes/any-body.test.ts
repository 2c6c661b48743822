import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseCount, parseMessages } from '../../../../gateway/routes/messages-requests.ts'
import { parseChat, parseCompletion, parseEmbedding } from '../../../../gateway/routes/openai-requests.ts'
import { CountTokensRequest, MessagesRequest } from '../../../../protocol/dialects/messages.ts'
import { ChatCompletionRequest, CompletionRequest, EmbeddingRequest } from '../../../../protocol/dialects/openai.ts'

const words = fc.constantFrom(
  ...[
    'user',
    'assistant',
    'tool',
    'system',
    'text',
    'image',
    'image_url',
    'tool_use',
    'tool_result',
    'thinking',
    'function',
  ],
  ...['auto', 'any', 'ephemeral', 'base64', 'url', 'data:image/png;base64,AAAA', 'json_schema', 'enabled', 'c', ''],
)
const keys = fc.constantFrom(
  ...[
    'type',
    'role',
    'content',
    'text',
    'source',
    'id',
    'name',
    'input',
    'function',
    'arguments',
    'tool_calls',
    'tool_call_id',
  ],
  ...[
    'tool_use_id',
    'cache_control',
    'image_url',
    'url',
    'data',
    'media_type',
    'thinking',
    'signature',
    'schema',
    '__proto__',
  ],
)
const { tree } = fc.letrec((tie) => ({
  tree: fc.oneof(
    { maxDepth: 5 },
    tie('leaf'),
    fc.array(tie('tree'), { maxLength: 4 }),
    fc.dictionary(keys, tie('tree')),
  ),
  leaf: fc.oneof(words, fc.jsonValue({ maxDepth: 0 }), fc.constantFrom(0, 1, 2048)),
}))

describe.each([
  ['chat', parseChat, ChatCompletionRequest, { model: 'm', messages: [{ role: 'user', content: 'x' }] }],
  ['completion', parseCompletion, CompletionRequest, { model: 'm', prompt: 'x' }],
  ['embedding', parseEmbedding, EmbeddingRequest, { model: 'm', input: 'x' }],
  [
    'messages',
    parseMessages,
    MessagesRequest,
    { model: 'm', max_tokens: 1, messages: [{ role: 'user', content: 'x' }] },
  ],
  ['count', parseCount, CountTokensRequest, { model: 'm', messages: [{ role: 'user', content: 'x' }] }],
] as const)('any %s body', (_, parse, schema, whole) => {
  test('is read, or refused by name in a short sentence', () => {
    const field = fc.constantFrom(...Object.keys(schema.shape))
    fc.assert(
      fc.property(fc.dictionary(field, tree, { maxKeys: 3 }), (some) => {
        const parsed = parse({ ...whole, ...some })
        if (parsed.ok) return
        expect(parsed.error.code).toBe('invalid_request')
        expect(parsed.error.message.length).toBeGreaterThan(5)
        expect(parsed.error.message.length).toBeLessThan(1000)
      }),
      { numRuns: 300 },
    )
  })

  test('with a field of a megabyte for a name is not answered with it', () => {
    const name = 'x'.repeat(1_000_000)
    for (const body of [
      { ...whole, [name]: 1 },
      { ...whole, logit_bias: { [name]: 1 } },
    ]) {
      const parsed = parse(body)
      expect(JSON.stringify(parsed).length).toBeLessThan(1000)
    }
  })
})
