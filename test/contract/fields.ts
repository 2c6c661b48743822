// Every parameter that the vendors publish for the routes this gateway has, with a value that asks for something. Owns the
// values; that none is missing is the compiler's to say, because each table has the keys of the official client's type.
import type Anthropic from '@anthropic-ai/sdk'
import type { ChatCompletionCreateParams } from 'openai/resources/chat/completions'
import type { CompletionCreateParams } from 'openai/resources/completions'
import type { EmbeddingCreateParams } from 'openai/resources/embeddings'
import type { ResponseCreateParams } from 'openai/resources/responses/responses'
import { parseMessages } from '../../gateway/routes/messages-requests.ts'
import { parseChat, parseCompletion, parseEmbedding } from '../../gateway/routes/openai-requests.ts'
import { parseResponse } from '../../gateway/routes/responses-requests.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Result } from '../../protocol/result.ts'

/** A value, or several under names of their own where the parameter can ask for different things. */
type Sample = { value: unknown } | { values: Record<string, unknown> }
type KeysOf<T> = T extends unknown ? keyof T : never
/** Beside the published ones those that the vendor still takes and its client's type has dropped. */
type Fields<T> = Record<Extract<KeysOf<T>, string>, Sample> & Record<string, Sample>

export type Route = {
  name: string
  /** The least that the route takes. */
  base: Record<string, unknown>
  /** What a parameter needs beside itself to make sense. */
  beside?: Record<string, Record<string, unknown>>
  fields: Record<string, Sample>
  parse: (body: unknown) => Result<unknown, Failure>
}

const is = (value: unknown): Sample => ({ value })
const either = (values: Record<string, unknown>): Sample => ({ values })

const SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
}
const chatTool = { type: 'function', function: { name: 'weather', parameters: SCHEMA } }
const PIXEL = 'data:image/png;base64,iVBORw0KGgo='

const chat: Fields<ChatCompletionCreateParams> = {
  messages: either({
    text: [{ role: 'user', content: 'Hello.' }],
    images: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: PIXEL } }] }],
    audio: [{ role: 'user', content: [{ type: 'input_audio', input_audio: { data: 'AAAA', format: 'wav' } }] }],
    files: [{ role: 'user', content: [{ type: 'file', file: { file_id: 'file-1' } }] }],
  }),
  model: is('another-model'),
  audio: is({ format: 'wav', voice: 'alloy' }),
  frequency_penalty: is(0.5),
  function_call: is({ name: 'weather' }),
  functions: is([{ name: 'weather', parameters: SCHEMA }]),
  logit_bias: is({ '50256': -100 }),
  logprobs: is(true),
  max_completion_tokens: is(10),
  max_tokens: is(10),
  metadata: is({ run: '1' }),
  modalities: either({ text: ['text'], audio: ['text', 'audio'] }),
  moderation: is({ model: 'omni-moderation-latest' }),
  n: is(2),
  parallel_tool_calls: is(false),
  prediction: is({ type: 'content', content: 'x' }),
  presence_penalty: is(0.5),
  prompt_cache_key: is('tenant-1'),
  prompt_cache_options: is({ mode: 'explicit' }),
  prompt_cache_retention: is('24h'),
  reasoning_effort: is('low'),
  response_format: either({
    text: { type: 'text' },
    json_object: { type: 'json_object' },
    json_schema: { type: 'json_schema', json_schema: { name: 'city', schema: SCHEMA } },
  }),
  safety_identifier: is('customer-1'),
  seed: is(7),
  service_tier: either({ auto: 'auto', flex: 'flex' }),
  stop: is(['END']),
  store: is(true),
  stream: is(true),
  stream_options: is({ include_usage: true }),
  temperature: is(0.5),
  tool_choice: either({
    required: 'required',
    'one tool': { type: 'function', function: { name: 'weather' } },
    allowed_tools: {
      type: 'allowed_tools',
      allowed_tools: { mode: 'auto', tools: [{ type: 'function', function: { name: 'weather' } }] },
    },
  }),
  tools: either({ functions: [chatTool], custom: [{ type: 'custom', custom: { name: 'x' } }] }),
  top_logprobs: is(3),
  top_p: is(0.5),
  user: is('customer-1'),
  verbosity: is('low'),
  web_search_options: is({}),
}

const completion: Fields<CompletionCreateParams> = {
  model: is('another-model'),
  prompt: either({ text: 'Hello.', texts: ['a', 'b'], 'token ids': [1, 2, 3] }),
  best_of: is(2),
  echo: is(true),
  frequency_penalty: is(0.5),
  logit_bias: is({ '50256': -100 }),
  logprobs: is(2),
  max_tokens: is(10),
  n: is(2),
  presence_penalty: is(0.5),
  seed: is(7),
  stop: is(['END']),
  stream: is(true),
  stream_options: is({ include_usage: true }),
  suffix: is('end'),
  temperature: is(0.5),
  top_p: is(0.5),
  user: is('customer-1'),
}

const embedding: Fields<EmbeddingCreateParams> = {
  input: either({ text: 'Hello.', texts: ['a', 'b'], 'token ids': [1, 2, 3] }),
  model: is('another-model'),
  dimensions: is(64),
  encoding_format: is('base64'),
  user: is('customer-1'),
}

const responseTool = { type: 'function', name: 'weather', parameters: SCHEMA, strict: true }

const response: Fields<ResponseCreateParams> = {
  access_programs: is(['x']),
  image: is({ quality: 'low' }),
  background: is(true),
  context_management: is([{ type: 'compaction', compact_threshold: 1000 }]),
  conversation: is('conv_1'),
  include: either({
    'reasoning.encrypted_content': ['reasoning.encrypted_content'],
    'message.output_text.logprobs': ['message.output_text.logprobs'],
    'file_search_call.results': ['file_search_call.results'],
  }),
  input: either({
    text: 'Hello.',
    items: [{ role: 'user', content: [{ type: 'input_text', text: 'Hello.' }] }],
    images: [{ role: 'user', content: [{ type: 'input_image', image_url: PIXEL, detail: 'auto' }] }],
    files: [{ role: 'user', content: [{ type: 'input_file', file_id: 'file-1' }] }],
  }),
  instructions: is('Be brief.'),
  max_output_tokens: is(100),
  max_tool_calls: is(1),
  metadata: is({ run: '1' }),
  model: is('another-model'),
  moderation: is({ model: 'omni-moderation-latest' }),
  parallel_tool_calls: is(false),
  previous_response_id: is('resp_0123456789abcdef0123456789abcdef'),
  prompt: is({ id: 'pmpt_1' }),
  prompt_cache_key: is('tenant-1'),
  prompt_cache_options: is({ mode: 'explicit' }),
  prompt_cache_retention: is('24h'),
  reasoning: is({ effort: 'low', summary: 'auto' }),
  safety_identifier: is('customer-1'),
  service_tier: either({ auto: 'auto', flex: 'flex' }),
  store: is(false),
  stream: is(true),
  stream_options: is({ include_obfuscation: false }),
  temperature: is(0.5),
  text: either({
    json_schema: { format: { type: 'json_schema', name: 'city', schema: SCHEMA } },
    verbosity: { verbosity: 'low' },
  }),
  tool_choice: either({ required: 'required', 'one tool': { type: 'function', name: 'weather' } }),
  tools: either({
    functions: [responseTool],
    web_search: [{ type: 'web_search' }],
    mcp: [{ type: 'mcp', server_label: 'x' }],
  }),
  top_logprobs: is(3),
  top_p: is(0.5),
  truncation: either({ disabled: 'disabled', auto: 'auto' }),
  user: is('customer-1'),
}

const messagesTool = { name: 'weather', input_schema: SCHEMA }
const image = { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'iVBORw0KGgo=' } }

const messages: Fields<Anthropic.MessageCreateParams> = {
  max_tokens: is(200),
  messages: either({
    text: [{ role: 'user', content: 'Hello.' }],
    images: [{ role: 'user', content: [image] }],
    documents: [
      { role: 'user', content: [{ type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'x' } }] },
    ],
    cache_control: [
      { role: 'user', content: [{ type: 'text', text: 'Hello.', cache_control: { type: 'ephemeral' } }] },
    ],
  }),
  model: is('another-model'),
  cache_control: is({ type: 'ephemeral' }),
  container: is('container_1'),
  diagnostics: is({ previous_message_id: 'msg_1' }),
  inference_geo: is('us'),
  metadata: is({ user_id: 'customer-1' }),
  output_config: either({
    format: { format: { type: 'json_schema', schema: SCHEMA } },
    effort: { effort: 'low' },
  }),
  service_tier: either({ standard_only: 'standard_only', auto: 'auto' }),
  speed: is('fast'),
  stop_sequences: is(['END']),
  stream: is(true),
  system: is('Be brief.'),
  temperature: is(0.5),
  thinking: either({
    enabled: { type: 'enabled', budget_tokens: 1024 },
    adaptive: { type: 'adaptive' },
    between_tools: { type: 'between_tools' },
    disabled: { type: 'disabled' },
  }),
  tool_choice: either({ any: { type: 'any' }, tool: { type: 'tool', name: 'weather' }, none: { type: 'none' } }),
  tools: either({ custom: [messagesTool], web_search: [{ type: 'web_search_20250305', name: 'web_search' }] }),
  top_k: is(5),
  top_p: is(0.5),
  user_profile_id: is('profile_1'),
  workspace_id: is('workspace_1'),
}

const streamed = { stream: true }

export const ROUTES: Route[] = [
  {
    name: 'POST /v1/chat/completions',
    base: { model: 'm', messages: [{ role: 'user', content: 'Hi.' }] },
    beside: {
      top_logprobs: { logprobs: true },
      stream_options: streamed,
      tool_choice: { tools: [chatTool] },
      parallel_tool_calls: { tools: [chatTool] },
    },
    fields: chat,
    parse: parseChat,
  },
  {
    name: 'POST /v1/completions',
    base: { model: 'm', prompt: 'Hi.' },
    beside: { stream_options: streamed },
    fields: completion,
    parse: parseCompletion,
  },
  { name: 'POST /v1/embeddings', base: { model: 'm', input: 'Hi.' }, fields: embedding, parse: parseEmbedding },
  {
    name: 'POST /v1/responses',
    base: { model: 'm', input: 'Hi.' },
    beside: {
      stream_options: streamed,
      tool_choice: { tools: [responseTool] },
      parallel_tool_calls: { tools: [responseTool] },
      top_logprobs: { include: ['message.output_text.logprobs'] },
    },
    fields: response,
    parse: parseResponse,
  },
  {
    name: 'POST /v1/messages',
    base: { model: 'm', max_tokens: 100, messages: [{ role: 'user', content: 'Hi.' }] },
    beside: {
      tool_choice: { tools: [messagesTool] },
      thinking: { max_tokens: 4096 },
    },
    fields: messages,
    parse: parseMessages,
  },
]

export type Outcome = 'acts' | 'accepted' | 'refused'
export type FieldOutcome = { field: string; asks?: string; outcome: Outcome; param?: string }

/** What each parameter does, found out by asking. */
export function outcomesOf({ base, beside = {}, fields, parse }: Route): FieldOutcome[] {
  return Object.entries(fields).flatMap(([field, sample]) => {
    const without = { ...base, ...beside[field] }
    const plain = parse(without)
    if (!plain.ok) throw new Error(`the plain request is refused: ${plain.error.message}`)
    const values = 'values' in sample ? Object.entries(sample.values) : [[undefined, sample.value] as const]
    return values.map(([asks, value]): FieldOutcome => {
      const named = asks === undefined ? { field } : { field, asks }
      const parsed = parse({ ...without, [field]: value })
      if (!parsed.ok) {
        return {
          ...named,
          outcome: 'refused',
          ...(parsed.error.param === undefined ? {} : { param: parsed.error.param }),
        }
      }
      const isSame = JSON.stringify(parsed.value) === JSON.stringify(plain.value)
      return { ...named, outcome: isSame ? 'accepted' : 'acts' }
    })
  })
}
