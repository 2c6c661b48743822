// What is promised of servers of OpenAI's dialect: of any, and of those whose deviations are known. Owns what each preset
// does otherwise than a server of which nothing is known.
import type { FeatureName } from '../features.ts'
import type { Answer, Claim, ExpectedChoice, Promised } from '../promise.ts'
import { OPENAI_STRANGERS } from './openai.ts'
import { COMPATIBLE_CLAIMS, NO_EXTENSIONS, OWN_DEFAULT, refused } from './openai-claims.ts'

type Part = ExpectedChoice['parts'][number]

const text = (words: string): Part => ({ type: 'text', text: words })
const thought = (words: string): Part => ({ type: 'thought', text: words })
const call = (id: string, city: string, args = `{"city":"${city}"}`): Part => ({
  type: 'tool_call',
  id,
  name: 'weather',
  arguments: args,
})
const one = (finish: ExpectedChoice['finish'], ...parts: Part[]): ExpectedChoice[] => [{ parts, finish }]

type Own = Pick<Promised, 'title' | 'baseUrl' | 'errors'> & {
  preset?: string
  folder?: string
  usageDialect?: Promised['usageDialect']
  sealBy?: string
  claims: Partial<Record<FeatureName, Claim>>
  answers: Answer[]
}

function server({ preset, folder, claims, usageDialect = 'openai', ...own }: Own): Promised {
  return {
    kind: 'openai_compatible',
    ...(preset === undefined ? {} : { preset }),
    folder: folder ?? preset ?? 'openai-compatible',
    model: 'some/model-1',
    secret: 'secret-0123456789',
    usageDialect,
    url: `${own.baseUrl}/chat/completions`,
    headers: { authorization: 'Bearer secret-0123456789' },
    strangers: OPENAI_STRANGERS,
    claims: { ...COMPATIBLE_CLAIMS, ...claims },
    ...own,
  }
}

const NO_STRICT: Claim = { is: 'left_out', note: 'The server does not know the word.' }
const credentials = { code: 'upstream_error', kind: 'credentials' } as const
const tooLong = { code: 'context_length_exceeded', kind: 'context_length' } as const
const limited = { code: 'overloaded', kind: 'rate_limited' } as const
const unknown = { code: 'upstream_error', kind: 'unknown_model' } as const
const wrong = { code: 'invalid_request', kind: 'refused' } as const
const full = { code: 'overloaded', kind: 'overloaded' } as const
const failed = { code: 'upstream_error', kind: 'status' } as const

export const COMPATIBLE: readonly Promised[] = [
  server({
    title: 'OpenAI-compatible',
    baseUrl: 'http://127.0.0.1:8080/v1',
    claims: {},
    answers: [
      {
        fixture: 'text.http',
        choices: one('stop', text('Hei på deg.')),
        usage: { inputUncached: 12, outputText: 5 },
      },
      {
        fixture: 'text-without-end-mark.http',
        choices: one('stop', text('Hei.')),
        usage: { inputUncached: 12, outputText: 2 },
      },
      { fixture: 'text-without-usage.http', choices: one('stop', text('Hei.')) },
      {
        fixture: 'text-whole.http',
        choices: one('stop', text('Hei.')),
        usage: { inputUncached: 12, outputText: 2 },
      },
      {
        fixture: 'tools-without-ids.http',
        choices: one('tool_calls', call('call_cmpl1_0_0', 'Oslo')),
        usage: { inputUncached: 12, outputText: 9 },
      },
      {
        fixture: 'function-call.http',
        choices: one('tool_calls', call('call_cmpl1_0_0', 'Oslo')),
        usage: { inputUncached: 12, outputText: 9 },
      },
      {
        fixture: 'usage-in-every-chunk.http',
        choices: one('stop', text('ab')),
        usage: { inputUncached: 3, outputText: 2 },
      },
    ],
    errors: [
      { fixture: 'error-400-context-length.http', ...tooLong },
      { fixture: 'error-401.http', ...credentials },
      { fixture: 'error-404-page.http', ...unknown },
      { fixture: 'error-422-detail.http', ...wrong, says: 'Field required' },
      { fixture: 'error-502-page.http', ...failed },
      { fixture: 'error-503.http', ...full },
    ],
  }),
  server({
    title: 'Mistral',
    preset: 'mistral',
    baseUrl: 'https://api.mistral.ai/v1',
    claims: {
      ...NO_EXTENSIONS,
      tool_results: {
        is: 'translated',
        body: { 'messages[1].tool_calls[0].function.name': 'weather', 'messages[2].role': 'tool' },
        note: 'Ids of calls have nine letters and digits: others are exchanged for such.',
      },
      tool_result_image: {
        is: 'translated',
        body: {
          'messages[3].role': 'assistant',
          'messages[4].role': 'user',
          'messages[4].content[1].type': 'image_url',
        },
        note: 'In a user message behind the results, which a short answer of the assistant divides from them.',
      },
      tool_choice_required: { is: 'translated', body: { tool_choice: 'any' } },
      reasoning_effort: {
        is: 'translated',
        body: { reasoning_effort: 'high' },
        note: 'The server knows none and high.',
      },
      reasoning_budget: { is: 'translated', body: { reasoning_effort: 'high' } },
      thoughts_returned: {
        is: 'translated',
        body: { 'messages[1].content[0].thinking[0].text': 'Ask the tool.' },
      },
      logit_bias: refused('logitBias'),
      logprobs: refused('logprobs'),
      seed: { is: 'honoured', body: { random_seed: 7, seed: undefined } },
      completion: refused('prompts'),
      dimensions: { is: 'honoured', body: { output_dimension: 256 } },
    },
    answers: [
      {
        fixture: 'thinking.http',
        choices: one('stop', thought('A sum. 2+2=4.'), text('4.')),
        usage: { inputUncached: 10, outputText: 46 },
      },
      {
        fixture: 'tools.http',
        choices: one('tool_calls', call('gSIMJiOkT', 'Oslo', '{"city": "Oslo"}')),
        usage: { inputUncached: 43, inputCacheRead: 128, outputText: 14 },
      },
      {
        fixture: 'length-of-window.http',
        choices: one('length', text('abc')),
        usage: { inputUncached: 10, outputText: 3 },
      },
    ],
    errors: [
      { fixture: 'error-400.http', ...tooLong },
      { fixture: 'error-401.http', ...credentials },
      { fixture: 'error-422.http', ...wrong, says: 'Extra inputs are not permitted' },
      { fixture: 'error-429.http', ...limited },
    ],
  }),
  server({
    title: 'Groq',
    preset: 'groq',
    baseUrl: 'https://api.groq.com/openai/v1',
    claims: {
      ...NO_EXTENSIONS,
      strict_tools: NO_STRICT,
      logit_bias: refused('logitBias'),
      logprobs: refused('logprobs'),
      n: refused('n'),
      completion: refused('prompts'),
      embeddings: refused('prompts'),
      dimensions: refused('prompts'),
    },
    answers: [
      {
        fixture: 'thinking.http',
        choices: one('stop', thought('Cold there.'), text('4 °C')),
        usage: { inputUncached: 210, outputText: 14, outputReasoning: 11 },
      },
      {
        fixture: 'tools.http',
        choices: one('tool_calls', call('tk85n1k4m', 'Oslo')),
        usage: { inputUncached: 210, outputText: 15 },
      },
      { fixture: 'in-band-error.http', failure: { code: 'upstream_error', kind: 'in_band', says: 'Failed to call' } },
    ],
    errors: [
      { fixture: 'error-413.http', ...limited },
      { fixture: 'error-429.http', ...limited, retryAfterMs: 4000 },
      { fixture: 'error-498.http', ...full },
    ],
  }),
  server({
    title: 'DeepSeek',
    preset: 'deepseek',
    baseUrl: 'https://api.deepseek.com',
    usageDialect: 'deepseek',
    claims: {
      ...NO_EXTENSIONS,
      image_data: refused('messages'),
      image_url: refused('messages'),
      tool_result_image: refused('messages'),
      parallel_off: refused('parallelToolCalls'),
      strict_tools: NO_STRICT,
      json_schema: refused('outputFormat'),
      reasoning_effort: { is: 'honoured', body: { thinking: { type: 'enabled' }, reasoning_effort: 'low' } },
      reasoning_budget: { is: 'translated', body: { thinking: { type: 'enabled' }, reasoning_effort: 'low' } },
      thoughts_returned: { is: 'honoured', body: { 'messages[1].reasoning_content': 'Ask the tool.' } },
      logit_bias: refused('logitBias'),
      seed: { is: 'left_out', note: 'The server has none; a seed is best effort everywhere.' },
      n: refused('n'),
      embeddings: refused('prompts'),
      dimensions: refused('prompts'),
    },
    answers: [
      {
        fixture: 'thinking-tools.http',
        choices: one('tool_calls', thought('Ask it.'), call('call_00_x', 'Oslo', '{"city": "Oslo"}')),
        usage: { inputUncached: 19, inputCacheRead: 320, outputText: 44, outputReasoning: 39 },
      },
      {
        fixture: 'no-room.http',
        failure: { code: 'upstream_error', kind: 'in_band', says: 'insufficient_system_resource' },
      },
    ],
    errors: [
      { fixture: 'error-400-risk.http', code: 'content_filtered', kind: 'content_filter' },
      { fixture: 'error-402.http', ...credentials },
      { fixture: 'error-503.http', ...full },
    ],
  }),
  server({
    title: 'xAI',
    preset: 'xai',
    baseUrl: 'https://api.x.ai/v1',
    usageDialect: 'xai',
    claims: {
      ...NO_EXTENSIONS,
      logit_bias: refused('logitBias'),
      temperature_of_one: { is: 'left_out', note: OWN_DEFAULT },
      cache_key: {
        is: 'translated',
        body: {},
        headers: { 'x-grok-conv-id': 'f07f6fac2575bcf0986c248e7e8a3d07' },
        note: 'A digest of it, in the header that leads to the machine that keeps the prompt.',
      },
    },
    answers: [
      {
        fixture: 'thinking.http',
        choices: one('stop', thought('First, think'), text('Hello')),
        usage: { inputUncached: 9, inputCacheRead: 3, outputText: 2, outputReasoning: 424 },
      },
      {
        fixture: 'tools.http',
        choices: one('tool_calls', call('call_5511', 'Oslo')),
        usage: { inputUncached: 291, outputText: 26 },
      },
    ],
    errors: [
      { fixture: 'error-400.http', ...tooLong },
      { fixture: 'error-403.http', ...credentials },
      { fixture: 'error-404.http', ...unknown },
      { fixture: 'error-429.http', ...limited },
    ],
  }),
  server({
    title: 'OpenRouter',
    preset: 'openrouter',
    baseUrl: 'https://openrouter.ai/api/v1',
    sealBy: 'openrouter',
    claims: {
      choice: refused('outputFormat'),
      regex: refused('outputFormat'),
      grammar: refused('outputFormat'),
      reasoning_effort: { is: 'honoured', body: { reasoning: { effort: 'low' } } },
      reasoning_budget: { is: 'honoured', body: { reasoning: { max_tokens: 2000 } } },
      n: refused('n'),
      verbosity: { is: 'honoured', body: { verbosity: 'low' } },
      cache_hint: { is: 'honoured', body: { 'messages[0].content[0].cache_control.type': 'ephemeral' } },
      cache_key: { is: 'honoured', body: { prompt_cache_key: 'handbook-7' } },
      json_schema: {
        is: 'honoured',
        body: { 'response_format.type': 'json_schema', provider: { require_parameters: true } },
        note: 'Only servers that know what changes the answer may be chosen.',
      },
      top_k: { is: 'honoured', body: { top_k: 40, provider: { require_parameters: true } } },
      thoughts_returned: {
        is: 'translated',
        body: { 'messages[1].reasoning': 'Ask the tool.' },
        note: 'With their proofs, as they came.',
      },
    },
    answers: [
      {
        fixture: 'thinking.http',
        choices: one(
          'stop',
          {
            type: 'thought',
            text: 'Cold there.',
            seal: {
              by: 'openrouter',
              value: JSON.stringify([
                {
                  type: 'reasoning.text',
                  format: 'anthropic-claude-v1',
                  index: 0,
                  text: 'Cold there.',
                  signature: 'Er8B',
                },
              ]),
            },
          },
          text('4 °C'),
        ),
        usage: { inputUncached: 20, outputText: 6, outputReasoning: 25 },
      },
      {
        fixture: 'in-band-error.http',
        failure: { code: 'upstream_error', kind: 'in_band', says: 'Provider disconnected' },
      },
      { fixture: 'ok-with-error.http', failure: limited },
    ],
    errors: [
      { fixture: 'error-402.http', ...credentials },
      { fixture: 'error-403-moderation.http', code: 'content_filtered', kind: 'content_filter' },
      { fixture: 'error-404.http', ...unknown },
      { fixture: 'error-429.http', ...limited, retryAfterMs: 30_000 },
    ],
  }),
  server({
    title: 'Together',
    preset: 'together',
    baseUrl: 'https://api.together.xyz/v1',
    claims: {
      choice: refused('outputFormat'),
      regex: refused('outputFormat'),
      grammar: refused('outputFormat'),
      strict_tools: NO_STRICT,
      logprobs: { is: 'translated', body: { logprobs: 2, top_logprobs: undefined } },
    },
    answers: [
      {
        fixture: 'text.http',
        choices: one('stop', thought('Hm.'), text('Hei')),
        usage: { inputUncached: 70, outputText: 9 },
      },
    ],
    errors: [
      { fixture: 'error-422-length.http', ...tooLong },
      { fixture: 'error-429.http', ...limited, retryAfterMs: 2000 },
    ],
  }),
  server({
    title: 'Fireworks',
    preset: 'fireworks',
    baseUrl: 'https://api.fireworks.ai/inference/v1',
    claims: {
      choice: refused('outputFormat'),
      regex: refused('outputFormat'),
      grammar: refused('outputFormat'),
      thoughts_returned: { is: 'honoured', body: { 'messages[1].reasoning_content': 'Ask the tool.' } },
    },
    answers: [
      {
        fixture: 'thinking.http',
        choices: one('stop', thought('Hm.'), text('Hei')),
        usage: { inputUncached: 17, outputText: 9 },
      },
    ],
    errors: [
      { fixture: 'error-400-length.http', ...tooLong },
      { fixture: 'error-412.http', ...failed },
    ],
  }),
  server({
    title: 'Cerebras',
    preset: 'cerebras',
    baseUrl: 'https://api.cerebras.ai/v1',
    claims: {
      ...NO_EXTENSIONS,
      parallel_off: refused('parallelToolCalls'),
      logit_bias: refused('logitBias'),
      n: refused('n'),
      embeddings: refused('prompts'),
      dimensions: refused('prompts'),
    },
    answers: [
      {
        fixture: 'thinking.http',
        choices: one('stop', thought('The'), text('Hei')),
        usage: { inputUncached: 177, inputCacheRead: 256, outputText: 14, outputReasoning: 108 },
      },
    ],
    errors: [
      { fixture: 'error-400.http', ...tooLong },
      { fixture: 'error-429.http', ...limited, retryAfterMs: 60_000 },
    ],
  }),
  server({
    title: 'Ollama',
    preset: 'ollama',
    baseUrl: 'http://127.0.0.1:11434/v1',
    claims: {
      ...NO_EXTENSIONS,
      image_url: refused('messages'),
      tool_choice_none: { is: 'translated', body: { tools: undefined, tool_choice: undefined } },
      tool_choice_required: refused('toolChoice'),
      tool_choice_named: refused('toolChoice'),
      parallel_off: refused('parallelToolCalls'),
      strict_tools: NO_STRICT,
      logit_bias: refused('logitBias'),
      n: refused('n'),
    },
    answers: [
      {
        fixture: 'tools-all-of-index-0.http',
        choices: one('tool_calls', thought('Two.'), call('call_u1', 'Oslo'), call('call_u2', 'Bergen')),
        usage: { inputUncached: 150, outputText: 40 },
      },
    ],
    errors: [
      { fixture: 'error-400.http', ...wrong, says: 'does not support tools' },
      { fixture: 'error-404.http', ...unknown },
    ],
  }),
  server({
    title: 'vLLM',
    preset: 'vllm',
    baseUrl: 'http://10.0.0.7:8000/v1',
    claims: { thoughts_returned: { is: 'honoured', body: { 'messages[1].reasoning': 'Ask the tool.' } } },
    answers: [
      {
        fixture: 'stop-string-named.http',
        request: { stop: ['END', '###'] },
        choices: [{ parts: [thought('Hm.'), text('one two ')], finish: 'stop', stopString: '###' }],
        usage: { inputUncached: 9, outputText: 6 },
      },
      {
        fixture: 'stop-token.http',
        choices: one('stop', text('Hei.')),
        usage: { inputUncached: 9, outputText: 3 },
      },
      { fixture: 'in-band-error.http', failure: { code: 'upstream_error', kind: 'in_band', says: 'EngineCore' } },
      { fixture: 'aborted.http', failure: { code: 'upstream_error', kind: 'in_band', says: 'abort' } },
    ],
    errors: [
      { fixture: 'error-400.http', ...tooLong },
      { fixture: 'error-404.http', ...unknown },
    ],
  }),
]
