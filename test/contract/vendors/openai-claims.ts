// What a server of OpenAI's dialect is promised to be sent. Owns the promise for a server of which nothing is known; what
// OpenAI itself and each preset have of their own is said beside them.
import type { FeatureName } from '../features.ts'
import type { Claim } from '../promise.ts'

/** Sampling that equals it is the same with and without the field. */
export const OWN_DEFAULT = 'It is the default there.'
export const MARKED_SINCE =
  'From GPT 5.6 on a breakpoint where the mark stands, kept for half an hour at least; not on tools, nor on answers.'
const EITHER_ROUTE =
  'Tools together with reasoning go to the responses route, with GPT 5.4 and later whatever is said of reasoning except `none`.'

const HINT: Claim = { is: 'left_out' }

/** Everything the caller asked for, in the dialect's own fields or in the extensions of self-hosted servers. */
export const COMPATIBLE_CLAIMS: Record<FeatureName, Claim> = {
  system: { is: 'honoured', body: { 'messages[0]': { role: 'system', content: 'Be brief.' } } },
  image_data: {
    is: 'honoured',
    body: { 'messages[0].content[0].type': 'text', 'messages[0].content[1].type': 'image_url' },
  },
  image_url: {
    is: 'honoured',
    body: { 'messages[0].content[1].image_url.url': 'https://images.example.com/oslo.png' },
  },
  started_answer: { is: 'refused', param: 'messages' },
  tools: {
    is: 'honoured',
    body: {
      'tools[0].type': 'function',
      'tools[0].function.name': 'weather',
      'tools[0].function.parameters.required': ['city'],
      tool_choice: undefined,
    },
  },
  tool_results: {
    is: 'honoured',
    body: {
      'messages[1].tool_calls[0]': {
        id: 'call_1',
        type: 'function',
        function: { name: 'weather', arguments: '{"city":"Oslo"}' },
      },
      'messages[2]': { role: 'tool', tool_call_id: 'call_1', content: '4 °C' },
    },
  },
  tool_result_error: {
    is: 'translated',
    body: { 'messages[2].role': 'tool', 'messages[2].content': 'The tool failed.\nno such city' },
    note: 'The dialect has no field for it: the result itself says so.',
  },
  tool_result_image: {
    is: 'translated',
    body: { 'messages[2].role': 'tool', 'messages[3].role': 'user', 'messages[3].content[1].type': 'image_url' },
    note: 'In a user message behind the results.',
  },
  tool_choice_none: { is: 'honoured', body: { tool_choice: 'none' } },
  tool_choice_required: { is: 'honoured', body: { tool_choice: 'required' } },
  tool_choice_named: { is: 'honoured', body: { tool_choice: { type: 'function', function: { name: 'weather' } } } },
  parallel_off: { is: 'honoured', body: { parallel_tool_calls: false } },
  strict_tools: { is: 'honoured', body: { 'tools[0].function.strict': true } },
  json_schema: {
    is: 'honoured',
    body: {
      'response_format.type': 'json_schema',
      'response_format.json_schema.name': 'place',
      'response_format.json_schema.strict': true,
      'response_format.json_schema.schema.required': ['city'],
    },
  },
  json_object: { is: 'honoured', body: { response_format: { type: 'json_object' } } },
  choice: { is: 'honoured', body: { structured_outputs: { choice: ['yes', 'no'] } } },
  regex: { is: 'honoured', body: { structured_outputs: { regex: '[0-9]+' } } },
  grammar: { is: 'honoured', body: { structured_outputs: { grammar: 'start: "yes" | "no"' } } },
  reasoning_effort: { is: 'honoured', body: { reasoning_effort: 'low' } },
  reasoning_budget: {
    is: 'translated',
    body: { reasoning_effort: 'low' },
    note: 'As an effort: up to 2,048 tokens low, up to 8,192 medium, else high.',
  },
  thoughts_shown: { is: 'left_out', note: 'The server shows what it shows.' },
  thoughts_returned: { is: 'left_out', note: 'The server has no place for earlier thoughts.' },
  temperature: { is: 'honoured', body: { temperature: 0.5 } },
  top_p: { is: 'honoured', body: { top_p: 0.9 } },
  temperature_of_one: { is: 'honoured', body: { temperature: 1, top_p: 1 } },
  top_k: { is: 'honoured', body: { top_k: 40 } },
  min_p: { is: 'honoured', body: { min_p: 0.1 } },
  presence_penalty: { is: 'honoured', body: { presence_penalty: 0.5 } },
  frequency_penalty: { is: 'honoured', body: { frequency_penalty: 0.5 } },
  repetition_penalty: { is: 'honoured', body: { repetition_penalty: 1.1 } },
  logit_bias: { is: 'honoured', body: { logit_bias: { 42: -100 } } },
  seed: { is: 'honoured', body: { seed: 7 } },
  stop: { is: 'honoured', body: { stop: ['END', '###'] } },
  n: { is: 'honoured', body: { n: 2 } },
  logprobs: { is: 'honoured', body: { logprobs: true, top_logprobs: 2 } },
  verbosity: HINT,
  cache_hint: HINT,
  cache_key: HINT,
  service_tier: { is: 'honoured', body: { service_tier: 'priority' } },
  end_user: HINT,
  completion: { is: 'honoured', body: { prompt: 'Once' } },
  embeddings: { is: 'honoured', body: { input: ['Once', 'Twice'], encoding_format: 'base64' } },
  dimensions: { is: 'honoured', body: { dimensions: 256 } },
}

export const refused = (param: string): Claim => ({ is: 'refused', param })

/** Servers without the extensions of self-hosted ones. */
export const NO_EXTENSIONS = {
  top_k: refused('topK'),
  min_p: refused('minP'),
  repetition_penalty: refused('repetitionPenalty'),
  choice: refused('outputFormat'),
  regex: refused('outputFormat'),
  grammar: refused('outputFormat'),
} satisfies Partial<Record<FeatureName, Claim>>

/** OpenAI's own API, wherever it is served. */
export const OPENAI_CLAIMS: Record<FeatureName, Claim> = {
  ...COMPATIBLE_CLAIMS,
  ...NO_EXTENSIONS,
  tools: { ...COMPATIBLE_CLAIMS.tools, note: EITHER_ROUTE },
  reasoning_effort: { ...COMPATIBLE_CLAIMS.reasoning_effort, note: EITHER_ROUTE },
  temperature_of_one: { is: 'left_out', note: OWN_DEFAULT },
  verbosity: { is: 'honoured', body: { verbosity: 'low' } },
  cache_key: { is: 'honoured', body: { prompt_cache_key: 'handbook-7' } },
}

const BY_RESPONSES = 'On the responses route, which is chosen for it.'

/** The same where each request takes the route that it needs. */
export const CHOSEN_CLAIMS: Record<FeatureName, Claim> = {
  ...OPENAI_CLAIMS,
  thoughts_shown: {
    is: 'left_out',
    note: 'In summary, with `reasoning_summary: true`: the vendor refuses those whose organisation it has not verified.',
  },
  thoughts_returned: {
    is: 'honoured',
    body: { 'input[1].type': 'reasoning', 'input[1].encrypted_content': 'c2lnbmVk', 'input[2].type': 'function_call' },
    note: BY_RESPONSES,
  },
}
