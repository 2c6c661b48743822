// What is promised of OpenAI's Responses API, registered as the only route for conversations; Azure's and other servers' are the same.
import type { Answer, Claim, Promised } from '../promise.ts'
import { MARKED_SINCE, OPENAI_CLAIMS, OWN_DEFAULT, refused } from './openai-claims.ts'

const text = (words: string) => ({ type: 'text' as const, text: words })
const thought = (words: string, value?: string) => ({
  type: 'thought' as const,
  text: words,
  ...(value === undefined
    ? {}
    : { seal: { by: 'openai', value, ...(words === '' ? { isRedacted: true as const } : {}) } }),
})
const call = (id: string, name: string, args: string) => ({ type: 'tool_call' as const, id, name, arguments: args })
const NOT_THERE = 'The route has no such field: on the chat route it is honoured.'
const gone = (param: string): Claim => ({ ...refused(param), note: NOT_THERE })

const ANSWERS: Answer[] = [
  {
    fixture: 'text.http',
    choices: [{ parts: [text('Four°C, 雪.')], finish: 'stop' }],
    usage: { inputUncached: 14, outputText: 6 },
  },
  {
    fixture: 'text-whole.http',
    choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
    usage: { inputUncached: 14, outputText: 4 },
  },
  {
    fixture: 'text-only-at-the-end.http',
    choices: [{ parts: [text('Only now.')], finish: 'stop' }],
    usage: { inputUncached: 9, outputText: 3 },
  },
  {
    fixture: 'thinking.http',
    choices: [
      {
        parts: [thought('**Asking myself**\n\n**Deciding**', 'rs_0b10:gAAAAB-x1_=='), text('Oslo.')],
        finish: 'stop',
      },
    ],
    usage: { inputUncached: 78, inputCacheRead: 1408, outputText: 139, outputReasoning: 512 },
  },
  {
    fixture: 'thinking-hidden.http',
    choices: [{ parts: [thought('', 'rs_0b20:gAAAAB-y2'), text('Oslo.')], finish: 'stop' }],
    usage: { inputUncached: 78, outputText: 6, outputReasoning: 64 },
  },
  {
    fixture: 'thinking-in-full.http',
    choices: [{ parts: [thought('Cold there.'), text('4 °C')], finish: 'stop' }],
    usage: { inputUncached: 20, outputText: 6, outputReasoning: 25 },
  },
  {
    fixture: 'thinking-and-tools.http',
    choices: [
      {
        parts: [thought('A look.', 'rs_0b40:gAAAAB-z3'), call('call_8kQ', 'weather', '{"city":"Tromsø"}')],
        finish: 'tool_calls',
      },
    ],
    usage: { inputUncached: 60, outputText: 18, outputReasoning: 64 },
  },
  {
    fixture: 'thinking-and-tools-whole.http',
    choices: [
      {
        parts: [thought('A look.', 'rs_0b50:gAAAAB-z4'), call('call_z9', 'weather', '{"city":"Oslo"}')],
        finish: 'tool_calls',
      },
    ],
    usage: { inputUncached: 60, outputText: 21, outputReasoning: 64 },
  },
  {
    fixture: 'tools-parallel.http',
    choices: [
      {
        parts: [text('Asking.'), call('call_a1', 'weather', '{"city":"Oslo"}'), call('call_b2', 'clock', '{}')],
        finish: 'tool_calls',
      },
    ],
    usage: { inputUncached: 60, outputText: 40 },
  },
  {
    fixture: 'tools-no-arguments.http',
    choices: [{ parts: [call('call_c3', 'clock', '{}')], finish: 'tool_calls' }],
    usage: { inputUncached: 40, outputText: 9 },
  },
  {
    fixture: 'tools-side-by-side.http',
    choices: [
      {
        parts: [call('call_d4', 'weather', '{"city":"Oslo"}'), call('call_e5', 'clock', '{"zone":1}')],
        finish: 'tool_calls',
      },
    ],
    usage: { inputUncached: 60, outputText: 24 },
  },
  {
    fixture: 'refusal.http',
    choices: [{ parts: [{ type: 'refusal', text: "I can't help with that." }], finish: 'stop' }],
    usage: { inputUncached: 30, outputText: 9 },
  },
  {
    fixture: 'length.http',
    choices: [{ parts: [text('Once upon')], finish: 'length' }],
    usage: { inputUncached: 8, outputText: 16 },
  },
  {
    fixture: 'length-in-thought.http',
    choices: [{ parts: [thought('', 'rs_0d30:gAAAAB-w5')], finish: 'length' }],
    usage: { inputUncached: 8, outputReasoning: 16 },
  },
  {
    fixture: 'content-filter.http',
    choices: [{ parts: [text('First,')], finish: 'content_filter' }],
    usage: { inputUncached: 11, outputText: 2 },
  },
  {
    fixture: 'content-filter-at-once.http',
    choices: [{ parts: [], finish: 'content_filter' }],
    usage: { inputUncached: 11 },
  },
  {
    fixture: 'logprobs.http',
    request: { logprobs: { top: 2 } },
    choices: [
      {
        parts: [text('Ja.')],
        finish: 'stop',
        logprobs: [
          ['Ja', -0.25, ['Ja', 'Yes']],
          ['.', -0.5, ['.']],
        ],
      },
    ],
    usage: { inputUncached: 9, outputText: 3 },
  },
  {
    fixture: 'tier-other.http',
    serviceTier: 'priority',
    choices: [{ parts: [text('Ok.')], finish: 'stop' }],
    usage: { inputUncached: 3, outputText: 2 },
    isInconsistent: true,
  },
  {
    fixture: 'usage-cached.http',
    choices: [{ parts: [text('Ok.')], finish: 'stop' }],
    usage: { inputUncached: 80, inputCacheRead: 1024, inputCacheWrite5m: 896, outputText: 2 },
  },
  { fixture: 'failed.http', failure: { code: 'upstream_error', kind: 'in_band', says: 'The server had an error' } },
  { fixture: 'failed-limit.http', failure: { code: 'overloaded', kind: 'rate_limited', retryAfterMs: 6000 } },
  { fixture: 'failed-context-length.http', failure: { code: 'context_length_exceeded', kind: 'context_length' } },
  { fixture: 'failed-policy.http', failure: { code: 'content_filtered', kind: 'content_filter' } },
  {
    fixture: 'failed-image.http',
    failure: { code: 'invalid_request', kind: 'refused', param: 'messages', says: 'Failed to download' },
  },
  {
    fixture: 'failed-midway.http',
    failure: { code: 'upstream_error', kind: 'in_band', says: 'The server had an error' },
    usage: { inputUncached: 12, outputText: 7 },
  },
  {
    fixture: 'failed-whole.http',
    failure: { code: 'upstream_error', kind: 'ok_with_error', says: 'The server had an error' },
  },
  {
    fixture: 'in-band-error.http',
    failure: { code: 'upstream_error', kind: 'in_band', says: 'The server had an error' },
  },
  { fixture: 'in-band-quota.http', failure: { code: 'upstream_error', kind: 'credentials' } },
  { fixture: 'ok-with-error.http', failure: { code: 'overloaded', kind: 'overloaded' } },
]

export const openAiResponses: Promised = {
  title: 'OpenAI Responses',
  kind: 'openai',
  folder: 'openai-responses',
  baseUrl: 'https://api.openai.com/v1',
  model: 'gpt-5.6',
  secret: 'sk-test-0123456789',
  options: { api: 'responses', reasoningSummary: true },
  usageDialect: 'openai',
  sealBy: 'openai',
  url: 'https://api.openai.com/v1/responses',
  headers: { authorization: 'Bearer sk-test-0123456789' },
  strangers: [
    ': a comment',
    'event: response.tomorrow\ndata: {"type":"response.tomorrow","sequence_number":7,"output_index":0,"delta":"x"}',
    'event: keepalive\ndata: {"type":"keepalive","sequence_number":7}',
    'data: {"of":1}',
  ],
  claims: {
    ...OPENAI_CLAIMS,
    cache_hint: {
      is: 'honoured',
      body: {
        'input[0].content[0]': {
          type: 'input_text',
          text: 'A long handbook.',
          prompt_cache_breakpoint: { mode: 'explicit' },
        },
      },
      note: MARKED_SINCE,
    },
    system: { is: 'honoured', body: { 'input[0]': { type: 'message', role: 'system', content: 'Be brief.' } } },
    image_data: {
      is: 'honoured',
      body: { 'input[0].content[0].type': 'input_text', 'input[0].content[1].type': 'input_image' },
    },
    image_url: {
      is: 'honoured',
      body: { 'input[0].content[1].image_url': 'https://images.example.com/oslo.png' },
    },
    tools: {
      is: 'honoured',
      body: {
        'tools[0].type': 'function',
        'tools[0].name': 'weather',
        'tools[0].parameters.required': ['city'],
        'tools[0].strict': false,
        tool_choice: undefined,
      },
    },
    tool_results: {
      is: 'honoured',
      body: {
        'input[1]': { type: 'function_call', call_id: 'call_1', name: 'weather', arguments: '{"city":"Oslo"}' },
        'input[2]': { type: 'function_call_output', call_id: 'call_1', output: '4 °C' },
      },
    },
    tool_result_error: {
      is: 'translated',
      body: { 'input[2].output': 'The tool failed.\nno such city' },
      note: 'The dialect has no field for it: the result itself says so.',
    },
    tool_result_image: {
      is: 'honoured',
      body: { 'input[2].type': 'function_call_output', 'input[2].output[0].type': 'input_image' },
    },
    tool_choice_named: { is: 'honoured', body: { tool_choice: { type: 'function', name: 'weather' } } },
    strict_tools: { is: 'honoured', body: { 'tools[0].strict': true } },
    json_schema: {
      is: 'honoured',
      body: {
        'text.format.type': 'json_schema',
        'text.format.name': 'place',
        'text.format.strict': true,
        'text.format.schema.required': ['city'],
      },
    },
    json_object: { is: 'honoured', body: { text: { format: { type: 'json_object' } } } },
    reasoning_effort: { is: 'honoured', body: { reasoning: { effort: 'low' } } },
    reasoning_budget: { ...OPENAI_CLAIMS.reasoning_budget, is: 'translated', body: { reasoning: { effort: 'low' } } },
    thoughts_shown: {
      is: 'honoured',
      body: { reasoning: { effort: 'low', summary: 'auto' } },
      note: 'In summary, to organisations that the vendor has verified; only with `reasoning_summary: true`.',
    },
    thoughts_returned: {
      is: 'honoured',
      body: {
        store: false,
        include: ['reasoning.encrypted_content'],
        'input[1]': {
          type: 'reasoning',
          encrypted_content: 'c2lnbmVk',
          summary: [{ type: 'summary_text', text: 'Ask the tool.' }],
        },
        'input[2].type': 'function_call',
      },
    },
    temperature_of_one: { is: 'left_out', note: OWN_DEFAULT },
    presence_penalty: gone('presencePenalty'),
    frequency_penalty: gone('frequencyPenalty'),
    logit_bias: gone('logitBias'),
    seed: { is: 'left_out' },
    stop: gone('stop'),
    n: gone('n'),
    logprobs: {
      is: 'honoured',
      body: { top_logprobs: 2, include: ['reasoning.encrypted_content', 'message.output_text.logprobs'] },
    },
    verbosity: { is: 'honoured', body: { text: { verbosity: 'low' } } },
  },
  answers: ANSWERS,
  errors: [
    {
      fixture: 'error-400-summary.http',
      code: 'invalid_request',
      kind: 'refused',
      param: 'reasoning',
      says: 'shows no thoughts',
    },
    { fixture: 'error-400-thinks-not.http', code: 'invalid_request', kind: 'refused', param: 'reasoning' },
    { fixture: 'error-400-proof.http', code: 'invalid_request', kind: 'refused', param: 'messages' },
    { fixture: 'error-400-context-length.http', code: 'context_length_exceeded', kind: 'context_length' },
    { fixture: 'error-400-content-filter.http', code: 'content_filtered', kind: 'content_filter' },
    { fixture: 'error-404.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-404-route.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-429.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 1500 },
  ],
}
