// Everything a request can ask of a target, one by one: the list that each provider is held against. Owns the requests; what
// becomes of each is the provider's promise in vendors/.
import {
  type ChatMessage,
  type ContentPart,
  type InferenceRequest,
  NEUTRAL_SAMPLING,
  type Sampling,
  type Seal,
  type Tool,
} from '../../protocol/request.ts'

const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

const text = (words: string): ContentPart => ({ type: 'text', text: words })
const user = (...content: ContentPart[]): ChatMessage => ({ role: 'user', content })
const question = user(text('How warm is it in Oslo?'))

export const WEATHER: Tool = {
  name: 'weather',
  description: 'The weather of a city.',
  parameters: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
}
const CLOCK: Tool = { name: 'clock' }

/** A request that any target takes. */
export const PLAIN_REQUEST: InferenceRequest = {
  model: 'any',
  input: { kind: 'chat', messages: [question] },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  maxOutputTokens: 100,
  stop: [],
}

/** Of one feature: the request that uses it, and the same one without it. */
export type Feature = { title: string; asked: InferenceRequest; unasked: InferenceRequest; serviceTier?: string }

const chat = (...messages: ChatMessage[]): Partial<InferenceRequest> => ({ input: { kind: 'chat', messages } })
const sampling = (more: Partial<Sampling>): Partial<InferenceRequest> => ({
  sampling: { ...NEUTRAL_SAMPLING, ...more },
})

function feature(title: string, use: Partial<InferenceRequest>, base: Partial<InferenceRequest> = {}): Feature {
  const unasked = { ...PLAIN_REQUEST, ...base }
  return { title, unasked, asked: { ...unasked, ...use } }
}

const SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
}
const PICTURE = (kind: 'data' | 'url'): ContentPart => ({
  type: 'image',
  source:
    kind === 'data'
      ? { kind, mediaType: 'image/png', data: PIXEL }
      : { kind, url: 'https://images.example.com/oslo.png' },
})
const CALL: ContentPart = { type: 'tool_call', id: 'call_1', name: 'weather', arguments: '{"city":"Oslo"}' }
const toolTurns = (call: ContentPart, ...result: ContentPart[]): ChatMessage[] => [
  question,
  { role: 'assistant', content: [call] },
  { role: 'tool', toolCallId: 'call_1', content: result },
]
const tools = { tools: [WEATHER] }

/** @param seal A proof of the vendor's own making. */
export const featuresOf = (seal: Seal) =>
  ({
    system: feature('System messages', chat({ role: 'system', content: [text('Be brief.')] }, question)),
    image_data: feature('Images as data', chat(user(text('What is this?'), PICTURE('data')))),
    image_url: feature('Images by address', chat(user(text('What is this?'), PICTURE('url')))),
    started_answer: feature('Answers begun by the caller', {
      ...chat(question, { role: 'assistant', content: [text('It is')] }),
      continuesAnswer: true,
    }),
    tools: feature('Tools', tools),
    tool_results: feature('Tool calls and results in the conversation', chat(...toolTurns(CALL, text('4 °C'))), tools),
    tool_result_error: feature(
      'Failed tool results',
      chat(
        question,
        { role: 'assistant', content: [CALL] },
        {
          role: 'tool',
          toolCallId: 'call_1',
          isError: true,
          content: [text('no such city')],
        },
      ),
      tools,
    ),
    tool_result_image: feature('Images in tool results', chat(...toolTurns(CALL, PICTURE('data'))), tools),
    tool_choice_none: feature('Tool choice: none', { toolChoice: { mode: 'none' } }, tools),
    tool_choice_required: feature('Tool choice: required', { toolChoice: { mode: 'required' } }, tools),
    tool_choice_named: feature(
      'Tool choice: one by name',
      { toolChoice: { mode: 'tool', name: 'weather' } },
      { tools: [WEATHER, CLOCK] },
    ),
    parallel_off: feature('One tool call at a time', { parallelToolCalls: false }, tools),
    strict_tools: feature('Strict tool arguments', { tools: [{ ...WEATHER, strict: true }] }, tools),
    json_schema: feature('JSON schema', {
      outputFormat: { kind: 'json_schema', name: 'place', strict: true, schema: SCHEMA },
    }),
    json_object: feature('Any JSON object', { outputFormat: { kind: 'json_object' } }),
    choice: feature('One of given texts', { outputFormat: { kind: 'choice', choices: ['yes', 'no'] } }),
    regex: feature('Regular expression', { outputFormat: { kind: 'regex', pattern: '[0-9]+' } }),
    grammar: feature('Grammar', { outputFormat: { kind: 'grammar', text: 'start: "yes" | "no"' } }),
    reasoning_effort: feature('Reasoning effort', { reasoning: { effort: 'low' } }, { maxOutputTokens: 10_000 }),
    reasoning_budget: feature('Reasoning budget', { reasoning: { budgetTokens: 2000 } }, { maxOutputTokens: 10_000 }),
    thoughts_shown: feature(
      'Thoughts shown',
      { reasoning: { effort: 'low', show: true } },
      { maxOutputTokens: 10_000, reasoning: { effort: 'low' } },
    ),
    thoughts_returned: feature(
      'Thoughts given back',
      chat(...toolTurns(CALL, text('4 °C')).map((message, at) => (at === 1 ? thinking(message, seal) : message))),
      { ...tools, ...chat(...toolTurns(CALL, text('4 °C'))), maxOutputTokens: 10_000, reasoning: { effort: 'low' } },
    ),
    temperature: feature('Temperature', sampling({ temperature: 0.5 })),
    top_p: feature('Top-p', sampling({ topP: 0.9 })),
    temperature_of_one: feature('Temperature and top-p of 1', sampling({ temperature: 1, topP: 1 })),
    top_k: feature('Top-k', sampling({ topK: 40 })),
    min_p: feature('Min-p', sampling({ minP: 0.1 })),
    presence_penalty: feature('Presence penalty', sampling({ presencePenalty: 0.5 })),
    frequency_penalty: feature('Frequency penalty', sampling({ frequencyPenalty: 0.5 })),
    repetition_penalty: feature('Repetition penalty', sampling({ repetitionPenalty: 1.1 })),
    logit_bias: feature('Bias on tokens', sampling({ logitBias: [{ tokenId: 42, bias: -100 }] })),
    seed: feature('Seed', sampling({ seed: 7 })),
    stop: feature('Stop strings', { stop: ['END', '###'] }),
    n: feature('Several choices', { n: 2 }),
    logprobs: feature('Log probabilities', { logprobs: { top: 2 } }),
    verbosity: feature('Verbosity', { verbosity: 'low' }),
    cache_hint: feature(
      'Marks for prompt caches',
      chat({ role: 'system', content: [{ type: 'text', text: 'A long handbook.', cache: { ttl: '1h' } }] }, question),
      chat({ role: 'system', content: [text('A long handbook.')] }, question),
    ),
    cache_key: feature('Key for prompt caches', { promptCacheKey: 'handbook-7' }),
    service_tier: { ...feature('Service tier of the target', {}), serviceTier: 'priority' },
    end_user: feature('End user', { endUser: 'customer-1' }),
    completion: feature('Text completions', {
      input: { kind: 'completion', prompts: [{ text: 'Once' }], echo: false },
    }),
    embeddings: feature('Embeddings', { input: { kind: 'embedding', prompts: [{ text: 'Once' }, { text: 'Twice' }] } }),
    dimensions: feature(
      'Length of embeddings',
      { input: { kind: 'embedding', prompts: [{ text: 'Once' }], dimensions: 256 } },
      { input: { kind: 'embedding', prompts: [{ text: 'Once' }] } },
    ),
  }) satisfies Record<string, Feature>

function thinking(message: ChatMessage, seal: Seal): ChatMessage {
  return { ...message, content: [{ type: 'thought', text: 'Ask the tool.', seal }, ...message.content] }
}

export type FeatureName = keyof ReturnType<typeof featuresOf>
