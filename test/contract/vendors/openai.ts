// What is promised of OpenAI's own API, at OpenAI and on Azure.
import type { Answer, Promised } from '../promise.ts'
import { CHOSEN_CLAIMS, MARKED_SINCE } from './openai-claims.ts'

const text = (words: string) => ({ type: 'text' as const, text: words })
const WEATHER_CALL = { type: 'tool_call' as const, name: 'weather' }

const ANSWERS: Answer[] = [
  {
    fixture: 'text.http',
    choices: [{ parts: [text('Four °C, 雪.')], finish: 'stop' }],
    usage: { inputUncached: 14, outputText: 6 },
  },
  {
    fixture: 'text-whole.http',
    choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
    usage: { inputUncached: 14, outputText: 4 },
  },
  {
    fixture: 'thinking.http',
    choices: [{ parts: [text('Oslo.')], finish: 'stop' }],
    usage: { inputUncached: 78, inputCacheRead: 1408, outputText: 139, outputReasoning: 512 },
  },
  {
    fixture: 'tools.http',
    choices: [{ parts: [{ ...WEATHER_CALL, id: 'call_8kQ', arguments: '{"city":"Tromsø"}' }], finish: 'tool_calls' }],
    usage: { inputUncached: 60, outputText: 18 },
  },
  {
    fixture: 'tools-parallel.http',
    choices: [
      {
        parts: [
          { ...WEATHER_CALL, id: 'call_a1', arguments: '{"city":"Oslo"}' },
          { type: 'tool_call', id: 'call_b2', name: 'clock', arguments: '{}' },
        ],
        finish: 'tool_calls',
      },
    ],
    usage: { inputUncached: 60, outputText: 40 },
  },
  {
    fixture: 'tools-whole.http',
    choices: [
      {
        parts: [text('Asking.'), { ...WEATHER_CALL, id: 'call_z9', arguments: '{"city":"Oslo"}' }],
        finish: 'tool_calls',
      },
    ],
    usage: { inputUncached: 60, outputText: 21 },
  },
  {
    fixture: 'refusal.http',
    choices: [{ parts: [{ type: 'refusal', text: "I can't help with that." }], finish: 'stop' }],
    usage: { inputUncached: 30, outputText: 9 },
  },
  {
    fixture: 'length.http',
    choices: [{ parts: [text('Once upon')], finish: 'length' }],
    usage: { inputUncached: 8, outputText: 2 },
  },
  {
    fixture: 'content-filter.http',
    choices: [{ parts: [text('First,')], finish: 'content_filter' }],
    usage: { inputUncached: 11, outputText: 2 },
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
    fixture: 'choices.http',
    request: { n: 2 },
    choices: [
      { parts: [text('Heads')], finish: 'stop' },
      { parts: [text('Tails')], finish: 'length' },
    ],
    usage: { inputUncached: 5, outputText: 6 },
  },
  {
    fixture: 'tier-other.http',
    serviceTier: 'priority',
    choices: [{ parts: [text('Ok.')], finish: 'stop' }],
    usage: { inputUncached: 3, outputText: 2 },
    isInconsistent: true,
  },
  {
    fixture: 'in-band-error.http',
    failure: { code: 'upstream_error', kind: 'in_band', says: 'The server had an error' },
  },
  { fixture: 'in-band-error-event.http', failure: { code: 'overloaded', kind: 'rate_limited' } },
  { fixture: 'ok-with-error.http', failure: { code: 'overloaded', kind: 'overloaded' } },
  {
    fixture: 'completion.http',
    request: { input: { kind: 'completion', prompts: [{ text: 'Once' }], echo: false } },
    choices: [{ parts: [text(' upon a time')], finish: 'length' }],
    usage: { inputUncached: 1, outputText: 3 },
  },
  {
    fixture: 'embeddings.http',
    request: { input: { kind: 'embedding', prompts: [{ text: 'a' }, { text: 'b' }] } },
    choices: [
      { parts: [], finish: 'stop', values: [0.5, -0.25, 0.125] },
      { parts: [], finish: 'stop', values: [1, 0, 0] },
    ],
    usage: { inputUncached: 5 },
  },
  {
    fixture: 'embeddings-numbers.http',
    request: { input: { kind: 'embedding', prompts: [{ text: 'a' }] } },
    choices: [{ parts: [], finish: 'stop', values: [0.5, -0.25] }],
    usage: { inputUncached: 3 },
  },
]

/** What OpenAI's dialect has nowhere a meaning for. */
export const OPENAI_STRANGERS = [
  ': a comment',
  'data: {"object":"chat.completion.tomorrow","of":1}',
  'event: tomorrow\ndata: {"of":1}',
]

export const openAi: Promised = {
  title: 'OpenAI',
  kind: 'openai',
  folder: 'openai',
  baseUrl: 'https://api.openai.com/v1',
  model: 'gpt-5.1',
  secret: 'sk-test-0123456789',
  usageDialect: 'openai',
  sealBy: 'openai',
  url: 'https://api.openai.com/v1/chat/completions',
  headers: { authorization: 'Bearer sk-test-0123456789' },
  strangers: OPENAI_STRANGERS,
  claims: { ...CHOSEN_CLAIMS, cache_hint: { is: 'left_out', note: MARKED_SINCE } },
  answers: ANSWERS,
  errors: [
    { fixture: 'error-400-field.http', code: 'invalid_request', kind: 'refused', says: 'temperature' },
    { fixture: 'error-400-context-length.http', code: 'context_length_exceeded', kind: 'context_length' },
    { fixture: 'error-400-policy.http', code: 'content_filtered', kind: 'content_filter' },
    { fixture: 'error-401.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-403.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-404.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-429-limit.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 7600 },
    { fixture: 'error-429-limit-in-words.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 62_500 },
    { fixture: 'error-429-quota.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-500.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-503.http', code: 'overloaded', kind: 'overloaded', retryAfterMs: 2000 },
  ],
}

export const azureOpenAi: Promised = {
  ...openAi,
  title: 'Azure OpenAI',
  kind: 'azure_openai',
  folder: 'azure-openai',
  sealBy: 'azure_openai',
  baseUrl: 'https://fjord.openai.azure.com',
  model: 'our-deployment',
  secret: '0123456789abcdef0123456789abcdef',
  url: 'https://fjord.openai.azure.com/openai/v1/chat/completions',
  headers: { 'api-key': '0123456789abcdef0123456789abcdef' },
  claims: CHOSEN_CLAIMS,
  answers: [
    {
      fixture: 'text.http',
      choices: [{ parts: [text('Fire °C.')], finish: 'stop' }],
      usage: { inputUncached: 14, outputText: 5 },
    },
    {
      fixture: 'text-async-filter.http',
      choices: [{ parts: [text('Hei.')], finish: 'stop' }],
      usage: { inputUncached: 9, outputText: 3 },
    },
    {
      fixture: 'content-filter.http',
      choices: [{ parts: [text('First')], finish: 'content_filter' }],
      usage: { inputUncached: 14, outputText: 2 },
    },
  ],
  errors: [
    { fixture: 'error-400-content-filter.http', code: 'content_filtered', kind: 'content_filter' },
    { fixture: 'error-401.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-404-deployment.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-408.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-429.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 12_000 },
  ],
}
