// What is promised of Anthropic's Messages API.
import type { Promised } from '../promise.ts'
import { OWN_DEFAULT } from './openai-claims.ts'

const text = (words: string) => ({ type: 'text' as const, text: words })
const thought = (words: string, value: string, isRedacted = false) => ({
  type: 'thought' as const,
  text: words,
  seal: { by: 'anthropic', value, ...(isRedacted ? { isRedacted } : {}) },
})
const call = (id: string, name: string, args: string) => ({ type: 'tool_call' as const, id, name, arguments: args })

const SCHEMAS_ONLY =
  'Claude can be held to a JSON schema of an object, from the generation 4.5 on, and to nothing else.'
/** Of Bedrock too. */
export const FORCED_BEFORE =
  'Refused for Opus and Sonnet from 5.5 on, and for Fable and Mythos from 5.1 on: the vendor forces no call of theirs.'
const NO_SAMPLING = 'Claude takes it up to the generation 4.6, and not while it thinks; the later ones refuse it.'

export const anthropic: Promised = {
  title: 'Anthropic',
  kind: 'anthropic',
  folder: 'anthropic',
  baseUrl: 'https://api.anthropic.com',
  model: 'claude-opus-5',
  secret: 'sk-ant-api03-test-0123456789',
  usageDialect: 'anthropic',
  sealBy: 'anthropic',
  url: 'https://api.anthropic.com/v1/messages',
  headers: { 'x-api-key': 'sk-ant-api03-test-0123456789', 'anthropic-version': '2023-06-01' },
  strangers: ['event: ping\ndata: {"type":"ping"}', ': a comment', 'event: tomorrow\ndata: {"type":"tomorrow","of":1}'],
  claims: {
    system: {
      is: 'translated',
      body: { 'system[0].text': 'Be brief.', 'messages[0].role': 'user' },
      note:
        'Those in the middle of a conversation stay there for Claude 4.8 and later, where the vendor allows it; ' +
        'else they go in front.',
    },
    image_data: {
      is: 'honoured',
      body: { 'messages[0].content[1].source.type': 'base64', 'messages[0].content[1].source.media_type': 'image/png' },
    },
    image_url: {
      is: 'honoured',
      body: { 'messages[0].content[1].source': { type: 'url', url: 'https://images.example.com/oslo.png' } },
    },
    started_answer: {
      is: 'honoured',
      body: { 'messages[1]': { role: 'assistant', content: [{ type: 'text', text: 'It is' }] } },
      note: 'Generations that no longer take it refuse it.',
    },
    tools: {
      is: 'translated',
      body: { 'tools[0].name': 'weather', 'tools[0].input_schema.required': ['city'], tool_choice: undefined },
    },
    tool_results: {
      is: 'translated',
      body: {
        'messages[1].role': 'assistant',
        'messages[1].content[0]': { type: 'tool_use', id: 'call_1', name: 'weather', input: { city: 'Oslo' } },
        'messages[2].role': 'user',
        'messages[2].content[0]': {
          type: 'tool_result',
          tool_use_id: 'call_1',
          content: [{ type: 'text', text: '4 °C' }],
        },
      },
    },
    tool_result_error: { is: 'honoured', body: { 'messages[2].content[0].is_error': true } },
    tool_result_image: { is: 'honoured', body: { 'messages[2].content[0].content[0].type': 'image' } },
    tool_choice_none: { is: 'honoured', body: { tool_choice: { type: 'none' } } },
    tool_choice_required: { is: 'honoured', body: { tool_choice: { type: 'any' } }, note: FORCED_BEFORE },
    tool_choice_named: {
      is: 'honoured',
      body: { tool_choice: { type: 'tool', name: 'weather' } },
      note: FORCED_BEFORE,
    },
    parallel_off: { is: 'honoured', body: { tool_choice: { type: 'auto', disable_parallel_tool_use: true } } },
    strict_tools: {
      is: 'honoured',
      body: { 'tools[0].strict': true },
      note: 'From the generation 4.5 on; earlier ones promise nothing.',
    },
    json_schema: {
      is: 'honoured',
      body: { 'output_config.format.type': 'json_schema', 'output_config.format.schema.required': ['city'] },
      note: 'From the generation 4.5 on.',
    },
    json_object: { is: 'refused', param: 'outputFormat', note: SCHEMAS_ONLY },
    choice: { is: 'refused', param: 'outputFormat', note: SCHEMAS_ONLY },
    regex: { is: 'refused', param: 'outputFormat' },
    grammar: { is: 'refused', param: 'outputFormat' },
    reasoning_effort: {
      is: 'honoured',
      body: { thinking: { type: 'adaptive' }, 'output_config.effort': 'low' },
      note:
        'Claude up to 4.5 is given a share of the output as a budget: low 20 %, medium 50 %, high 80 %. `none` is `between_tools` ' +
        'for Sonnet from 5.5 on, and the least effort for those that always think: Fable, Mythos, and Opus from 5.5 on.',
    },
    reasoning_budget: {
      is: 'translated',
      body: { thinking: { type: 'adaptive' }, 'output_config.effort': 'low' },
      note: 'As it is up to the generation 4.6; the later ones know efforts alone: up to 4096 tokens low, up to 16384 medium.',
    },
    thoughts_shown: { is: 'honoured', body: { thinking: { type: 'adaptive', display: 'summarized' } } },
    thoughts_returned: {
      is: 'honoured',
      body: {
        'messages[1].content[0]': { type: 'thinking', thinking: 'Ask the tool.', signature: 'c2lnbmVk' },
        'messages[1].content[1].type': 'tool_use',
      },
    },
    temperature: { is: 'refused', param: 'temperature', note: NO_SAMPLING },
    top_p: { is: 'refused', param: 'topP', note: NO_SAMPLING },
    temperature_of_one: { is: 'left_out', note: OWN_DEFAULT },
    top_k: { is: 'refused', param: 'topK', note: NO_SAMPLING },
    min_p: { is: 'refused', param: 'minP' },
    presence_penalty: { is: 'refused', param: 'presencePenalty' },
    frequency_penalty: { is: 'refused', param: 'frequencyPenalty' },
    repetition_penalty: { is: 'refused', param: 'repetitionPenalty' },
    logit_bias: { is: 'refused', param: 'logitBias' },
    seed: { is: 'left_out' },
    stop: { is: 'honoured', body: { stop_sequences: ['END', '###'] } },
    n: { is: 'refused', param: 'n' },
    logprobs: { is: 'refused', param: 'logprobs' },
    verbosity: { is: 'left_out' },
    cache_hint: {
      is: 'honoured',
      body: { 'system[0].cache_control': { type: 'ephemeral', ttl: '1h' } },
      note: 'At most four: the last ones stay.',
    },
    cache_key: { is: 'left_out' },
    service_tier: { is: 'honoured', body: { service_tier: 'priority' } },
    end_user: {
      is: 'translated',
      body: { 'metadata.user_id': '780faa5bc96d96cacf312035a612f04d03846e8411f2e19460c3c144d55a50b8' },
      note: 'A digest of it: the vendor learns who is the same, not who it is.',
    },
    completion: { is: 'refused', param: 'prompt' },
    embeddings: { is: 'refused', param: 'input' },
    dimensions: { is: 'refused', param: 'input' },
  },
  answers: [
    {
      fixture: 'text.http',
      choices: [{ parts: [text('In Oslo it is **4 °C** today ☁️.\n')], finish: 'stop' }],
      usage: { inputUncached: 14, outputText: 16 },
    },
    {
      fixture: 'text-whole.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 14, outputText: 7 },
    },
    {
      fixture: 'text-without-end-mark.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 14, outputText: 7 },
    },
    {
      fixture: 'text-started-twice.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 17, outputText: 227 },
    },
    {
      fixture: 'tools.http',
      choices: [
        { parts: [text("I'll look."), call('toolu_01A9', 'weather', '{"city": "Tromsø"}')], finish: 'tool_calls' },
      ],
      usage: { inputUncached: 380, outputText: 58 },
    },
    {
      fixture: 'tools-no-arguments.http',
      choices: [{ parts: [call('toolu_01B1', 'clock', '{}')], finish: 'tool_calls' }],
      usage: { inputUncached: 120, outputText: 31 },
    },
    {
      fixture: 'tools-parallel.http',
      choices: [
        {
          parts: [
            call('toolu_01C1', 'weather', '{"city": "Oslo"}'),
            call('toolu_01C2', 'weather', '{"city": "Bergen"}'),
          ],
          finish: 'tool_calls',
        },
      ],
      usage: { inputUncached: 390, outputText: 92 },
    },
    {
      fixture: 'tools-whole.http',
      choices: [
        {
          parts: [text("I'll look."), call('toolu_01D1', 'weather', '{"city":"Oslo","days":3}')],
          finish: 'tool_calls',
        },
      ],
      usage: { inputUncached: 380, outputText: 44 },
    },
    {
      fixture: 'thinking.http',
      choices: [
        {
          parts: [thought('Oslo lies further north.', 'ErUBCkYICxgCKkD5nmk8Vw=='), text('Oslo is colder.')],
          finish: 'stop',
        },
      ],
      usage: { inputUncached: 21, outputText: 9, outputReasoning: 39 },
    },
    {
      fixture: 'thinking-not-shown.http',
      choices: [{ parts: [thought('', 'EuYBCkQYAiJAw2=='), text('Oslo.')], finish: 'stop' }],
      usage: { inputUncached: 21, outputText: 3, outputReasoning: 37 },
    },
    {
      fixture: 'thinking-redacted.http',
      choices: [{ parts: [thought('', 'EmwKAhgBEgy3va3pzix/LafPsn4a', true), text('Oslo.')], finish: 'stop' }],
      usage: { inputUncached: 21, outputText: 40 },
    },
    {
      fixture: 'thinking-and-tools.http',
      choices: [
        {
          parts: [thought('Ask the tool.', 'EqQBCgIYAhIM1gbc'), call('toolu_01E1', 'weather', '{"city": "Oslo"}')],
          finish: 'tool_calls',
        },
      ],
      usage: { inputUncached: 401, outputText: 47, outputReasoning: 30 },
    },
    {
      fixture: 'thinking-whole.http',
      choices: [{ parts: [thought('Compare.', 'CAISqwQKhwEIEBgC'), text('Oslo.')], finish: 'stop' }],
      usage: { inputUncached: 51, outputText: 1560, outputReasoning: 139 },
    },
    {
      fixture: 'stop-string.http',
      request: { stop: ['three', 'four'] },
      choices: [{ parts: [text('One, two, ')], finish: 'stop', stopString: 'three' }],
      usage: { inputUncached: 14, outputText: 6 },
    },
    {
      fixture: 'length.http',
      choices: [{ parts: [text('Once upon a time')], finish: 'length' }],
      usage: { inputUncached: 14, outputText: 4 },
    },
    {
      fixture: 'length-window.http',
      choices: [{ parts: [text('Once upon')], finish: 'length' }],
      usage: { inputUncached: 14, outputText: 3 },
    },
    {
      fixture: 'turn-paused.http',
      choices: [{ parts: [text('Searching')], finish: 'length' }],
      usage: { inputUncached: 14, outputText: 3 },
    },
    {
      fixture: 'refused-at-once.http',
      choices: [
        {
          parts: [],
          finish: 'content_filter',
          refusal: {
            category: 'cyber',
            explanation: 'This request was declined because it could enable cyber harm.',
          },
        },
      ],
      usage: { inputUncached: 18, outputText: 5 },
    },
    {
      fixture: 'refused-midway.http',
      choices: [{ parts: [text('First, take')], finish: 'content_filter', refusal: { category: 'bio' } }],
      usage: { inputUncached: 18, outputText: 4 },
    },
    {
      fixture: 'refused-after-thought.http',
      choices: [{ parts: [thought('Hm.', 'EqQBrefused')], finish: 'content_filter' }],
      usage: { inputUncached: 18, outputText: 9 },
    },
    {
      fixture: 'server-tools.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 5321, outputText: 97, webSearchCalls: 1 },
    },
    {
      fixture: 'usage-cached.http',
      choices: [{ parts: [text('Chapter 2.')], finish: 'stop' }],
      // The split of the beginning leaves 269 of the writes out: they are priced as the dearer ones.
      usage: {
        inputUncached: 6,
        inputCacheRead: 6289,
        inputCacheWrite5m: 3068,
        inputCacheWrite1h: 269,
        outputText: 198,
      },
    },
    {
      fixture: 'usage-compaction.http',
      choices: [{ parts: [text('We spoke of Oslo.')], finish: 'stop' }],
      usage: { inputUncached: 60_997, outputText: 3341 },
    },
    {
      fixture: 'usage-advisor.http',
      choices: [{ parts: [text('Advised.')], finish: 'stop' }],
      usage: { inputUncached: 7455, outputText: 7271 },
      isInconsistent: true,
    },
    {
      fixture: 'usage-other-model.http',
      choices: [{ parts: [text('Around 1440.')], finish: 'stop' }],
      usage: { inputUncached: 412, outputText: 264 },
      isInconsistent: true,
    },
    { fixture: 'in-band-overloaded.http', failure: { code: 'overloaded', kind: 'overloaded' } },
    { fixture: 'in-band-before-content.http', failure: { code: 'upstream_error', kind: 'in_band' } },
    { fixture: 'in-band-limit.http', failure: { code: 'overloaded', kind: 'rate_limited' } },
    { fixture: 'ok-with-error.http', failure: { code: 'overloaded', kind: 'overloaded' } },
    { fixture: 'began-again.http', failure: { code: 'upstream_error', kind: 'malformed', says: 'another answer' } },
    { fixture: 'no-reason.http', failure: { code: 'upstream_error', kind: 'malformed', says: 'without a reason' } },
    { fixture: 'not-json.http', failure: { code: 'upstream_error', kind: 'malformed', says: 'not JSON' } },
  ],
  errors: [
    { fixture: 'error-400.http', code: 'invalid_request', kind: 'refused', says: 'tools.0.name' },
    {
      fixture: 'error-400-context-length.http',
      code: 'context_length_exceeded',
      kind: 'context_length',
      says: '1000000',
    },
    { fixture: 'error-400-window.http', code: 'context_length_exceeded', kind: 'context_length', says: '200000' },
    { fixture: 'error-400-credit.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-400-hold.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-400-content-filter.http', code: 'content_filtered', kind: 'content_filter' },
    { fixture: 'error-401.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-402.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-403.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-404.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-413.http', code: 'request_too_large', kind: 'refused' },
    { fixture: 'error-429.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 12_000 },
    { fixture: 'error-429-reset.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 40_000 },
    { fixture: 'error-429-spend.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-500.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-503.http', code: 'overloaded', kind: 'overloaded', retryAfterMs: 3000 },
    { fixture: 'error-504.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-529.http', code: 'overloaded', kind: 'overloaded' },
  ],
}
