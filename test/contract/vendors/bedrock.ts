// What is promised of AWS Bedrock.
import type { Promised } from '../promise.ts'
import { FORCED_BEFORE } from './anthropic.ts'

const text = (words: string) => ({ type: 'text' as const, text: words })
const thought = (words: string, value?: string, isRedacted = false) => ({
  type: 'thought' as const,
  text: words,
  ...(value === undefined ? {} : { seal: { by: 'bedrock', value, ...(isRedacted ? { isRedacted } : {}) } }),
})
const call = (id: string, name: string, args: string) => ({ type: 'tool_call' as const, id, name, arguments: args })

const SCHEMAS_ONLY = 'Converse can hold a model to a JSON schema of an object, and to nothing else.'
const OF_CLAUDE = 'Shown for Claude 4.5: its newest generations refuse it, and of other families Bedrock decides.'

export const bedrock: Promised = {
  title: 'AWS Bedrock',
  kind: 'bedrock',
  folder: 'bedrock',
  baseUrl: 'https://bedrock-runtime.eu-west-1.amazonaws.com',
  model: 'eu.anthropic.claude-sonnet-4-5-20250929-v1:0',
  secret: 'AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
  options: { region: 'eu-west-1' },
  usageDialect: 'bedrock',
  sealBy: 'bedrock',
  url:
    'https://bedrock-runtime.eu-west-1.amazonaws.com' +
    '/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream',
  headers: { 'x-amz-date': '20261122T120000Z' },
  strangers: ['event tomorrow {"of":1}'],
  claims: {
    system: {
      is: 'translated',
      body: { 'system[0].text': 'Be brief.', 'messages[0].role': 'user' },
      note: 'All of them go in front: the one place that all families have for instructions.',
    },
    image_data: { is: 'translated', body: { 'messages[0].content[1].image.format': 'png' } },
    image_url: {
      is: 'refused',
      param: 'messages',
      note: 'The gateway fetches nothing for a caller, and Converse takes data.',
    },
    started_answer: {
      is: 'honoured',
      body: { 'messages[1].role': 'assistant' },
      note: 'Generations that no longer take it refuse it.',
    },
    tools: {
      is: 'translated',
      body: {
        'toolConfig.tools[0].toolSpec.name': 'weather',
        'toolConfig.tools[0].toolSpec.inputSchema.json.required': ['city'],
        'toolConfig.toolChoice': undefined,
      },
    },
    tool_results: {
      is: 'translated',
      body: {
        'messages[1].role': 'assistant',
        'messages[1].content[0].toolUse': { toolUseId: 'call_1', name: 'weather', input: { city: 'Oslo' } },
        'messages[2].role': 'user',
        'messages[2].content[0].toolResult': { toolUseId: 'call_1', content: [{ text: '4 °C' }] },
      },
    },
    tool_result_error: {
      is: 'honoured',
      body: { 'messages[2].content[0].toolResult.status': 'error' },
      note: 'For Claude and Nova; the others have no field for it, and the result itself says so.',
    },
    tool_result_image: {
      is: 'translated',
      body: { 'messages[2].content[0].toolResult.content[0].image.format': 'png' },
    },
    tool_choice_none: {
      is: 'translated',
      body: { toolConfig: undefined },
      note:
        'The tools are left out. Where the conversation has calls, which Bedrock takes only beside tools, one that must not ' +
        'be called stands for them; an answer that calls it is an error.',
    },
    tool_choice_required: { is: 'honoured', body: { 'toolConfig.toolChoice': { any: {} } }, note: FORCED_BEFORE },
    tool_choice_named: {
      is: 'honoured',
      body: { 'toolConfig.toolChoice': { tool: { name: 'weather' } } },
      note: FORCED_BEFORE,
    },
    parallel_off: {
      is: 'translated',
      body: { 'additionalModelRequestFields.tool_choice': { type: 'auto', disable_parallel_tool_use: true } },
      note: 'For Claude from the generation 4.5 on; refused for other models.',
    },
    strict_tools: {
      is: 'honoured',
      body: { 'toolConfig.tools[0].toolSpec.strict': true },
      note: 'For Claude 4.5 and 4.6; others promise nothing.',
    },
    json_schema: {
      is: 'translated',
      body: { 'outputConfig.textFormat.type': 'json_schema' },
      note: 'Models that cannot are refused by Bedrock.',
    },
    json_object: { is: 'refused', param: 'outputFormat', note: SCHEMAS_ONLY },
    choice: { is: 'refused', param: 'outputFormat', note: SCHEMAS_ONLY },
    regex: { is: 'refused', param: 'outputFormat' },
    grammar: { is: 'refused', param: 'outputFormat' },
    reasoning_effort: {
      is: 'translated',
      body: { 'additionalModelRequestFields.thinking': { type: 'enabled', budget_tokens: 2000 } },
      note: 'Claude as at Anthropic; GPT and Nova 2 in their own words; other families think as they like.',
    },
    reasoning_budget: {
      is: 'honoured',
      body: { 'additionalModelRequestFields.thinking': { type: 'enabled', budget_tokens: 2000 } },
      note: 'For Claude, as at Anthropic; an effort for GPT and Nova 2; refused for families that cannot be told to think.',
    },
    thoughts_shown: { is: 'left_out', note: 'Claude shows its thoughts up to 4.5; later ones are asked to.' },
    thoughts_returned: {
      is: 'honoured',
      body: {
        'messages[1].content[0].reasoningContent': { reasoningText: { text: 'Ask the tool.', signature: 'c2lnbmVk' } },
        // With its thoughts the turn may go on thinking.
        'additionalModelRequestFields.thinking.type': 'enabled',
      },
    },
    temperature: { is: 'honoured', body: { 'inferenceConfig.temperature': 0.5 }, note: OF_CLAUDE },
    top_p: { is: 'honoured', body: { 'inferenceConfig.topP': 0.9 }, note: OF_CLAUDE },
    temperature_of_one: { is: 'left_out', note: 'It is the default of Claude; sent to other families.' },
    top_k: {
      is: 'translated',
      body: { 'additionalModelRequestFields.top_k': 40 },
      note: 'For Claude up to 4.6, Nova, Mistral and Cohere; refused for other families.',
    },
    min_p: { is: 'refused', param: 'minP' },
    presence_penalty: { is: 'refused', param: 'presencePenalty' },
    frequency_penalty: { is: 'refused', param: 'frequencyPenalty' },
    repetition_penalty: { is: 'refused', param: 'repetitionPenalty' },
    logit_bias: { is: 'refused', param: 'logitBias' },
    seed: { is: 'left_out' },
    stop: { is: 'honoured', body: { 'inferenceConfig.stopSequences': ['END', '###'] } },
    n: { is: 'refused', param: 'n' },
    logprobs: { is: 'refused', param: 'logprobs' },
    verbosity: { is: 'left_out' },
    cache_hint: {
      is: 'translated',
      body: { 'system[1].cachePoint': { type: 'default', ttl: '1h' } },
      note: 'For Claude and Nova, at most four: the last ones stay. Left out for other families.',
    },
    cache_key: { is: 'left_out' },
    service_tier: {
      is: 'honoured',
      body: { serviceTier: { type: 'priority' } },
      note: '`optimized` asks for the faster machines of the standard tier.',
    },
    end_user: { is: 'left_out' },
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
      fixture: 'text-counted-first.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 14, outputText: 7 },
    },
    { fixture: 'text-uncounted.http', choices: [{ parts: [text('4 °C.')], finish: 'stop' }] },
    {
      fixture: 'text-whole.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 14, outputText: 7 },
    },
    {
      fixture: 'tools.http',
      choices: [
        { parts: [text("I'll look."), call('tooluse_A9-x_1', 'weather', '{"city": "Tromsø"}')], finish: 'tool_calls' },
      ],
      usage: { inputUncached: 380, outputText: 58 },
    },
    {
      fixture: 'tools-no-arguments.http',
      choices: [{ parts: [call('tooluse_B1', 'clock', '{}')], finish: 'tool_calls' }],
      usage: { inputUncached: 120, outputText: 31 },
    },
    {
      fixture: 'tools-parallel.http',
      choices: [
        {
          parts: [
            call('tooluse_C1', 'weather', '{"city": "Oslo"}'),
            call('tooluse_C2', 'weather', '{"city": "Bergen"}'),
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
          parts: [text("I'll look."), call('tooluse_D1', 'weather', '{"city":"Oslo","days":3}')],
          finish: 'tool_calls',
        },
      ],
      usage: { inputUncached: 380, outputText: 44 },
    },
    {
      fixture: 'tool-forbidden.http',
      failure: { code: 'upstream_error', kind: 'malformed', says: 'was to be without' },
    },
    {
      fixture: 'thinking.http',
      choices: [
        {
          parts: [thought('Oslo lies further north.', 'ErUBCkYICxgCKkD5nmk8Vw=='), text('Oslo is colder.')],
          finish: 'stop',
        },
      ],
      usage: { inputUncached: 21, outputText: 48 },
    },
    {
      fixture: 'thinking-redacted.http',
      choices: [{ parts: [thought('', 'EmwKAhgBEgy3va3pzix/LafPsn4a', true), text('Oslo.')], finish: 'stop' }],
      usage: { inputUncached: 21, outputText: 40 },
    },
    {
      fixture: 'thinking-unsigned.http',
      choices: [{ parts: [thought('Hm.'), text('Oslo.')], finish: 'stop' }],
      usage: { inputUncached: 21, outputText: 9 },
    },
    {
      fixture: 'thinking-whole.http',
      choices: [{ parts: [thought('Compare.', 'CAISqwQKhwEIEBgC'), text('Oslo.')], finish: 'stop' }],
      usage: { inputUncached: 51, outputText: 169 },
    },
    {
      fixture: 'stop-string.http',
      request: { stop: ['three', 'four'] },
      choices: [{ parts: [text('One, two, ')], finish: 'stop', stopString: 'three' }],
      usage: { inputUncached: 14, outputText: 6 },
    },
    {
      fixture: 'stop-string-untold.http',
      request: { stop: ['three'] },
      choices: [{ parts: [text('One, two, ')], finish: 'stop', stopString: 'three' }],
      usage: { inputUncached: 14, outputText: 6 },
    },
    {
      fixture: 'length.http',
      choices: [{ parts: [text('Once upon a time')], finish: 'length' }],
      usage: { inputUncached: 14, outputText: 4 },
    },
    {
      fixture: 'content-filter.http',
      choices: [{ parts: [text('First, take')], finish: 'content_filter' }],
      usage: { inputUncached: 18, outputText: 4 },
    },
    {
      fixture: 'guardrail.http',
      choices: [{ parts: [text('Sorry, I cannot help with that.')], finish: 'content_filter' }],
      usage: { inputUncached: 18, outputText: 8 },
    },
    { fixture: 'malformed-call.http', failure: { code: 'upstream_error', kind: 'malformed', says: 'cannot read' } },
    {
      fixture: 'usage-cached.http',
      choices: [{ parts: [text('Chapter 2.')], finish: 'stop' }],
      usage: {
        inputUncached: 240,
        inputCacheRead: 800,
        inputCacheWrite5m: 50,
        inputCacheWrite1h: 100,
        outputText: 20,
      },
    },
    {
      fixture: 'tier-other.http',
      serviceTier: 'priority',
      choices: [{ parts: [text('Ok.')], finish: 'stop' }],
      usage: { inputUncached: 3, outputText: 2 },
      isInconsistent: true,
    },
    { fixture: 'in-band-throttled.http', failure: { code: 'overloaded', kind: 'rate_limited' } },
    { fixture: 'in-band-model-error.http', failure: { code: 'upstream_error', kind: 'in_band' } },
    { fixture: 'in-band-unavailable.http', failure: { code: 'overloaded', kind: 'overloaded' } },
    {
      fixture: 'in-band-too-long.http',
      failure: { code: 'context_length_exceeded', kind: 'context_length', says: 'too long' },
    },
    { fixture: 'in-band-error.http', failure: { code: 'upstream_error', kind: 'in_band' } },
    { fixture: 'ok-with-error.http', failure: { code: 'upstream_error', kind: 'ok_with_error' } },
  ],
  errors: [
    { fixture: 'error-400.http', code: 'invalid_request', kind: 'refused', says: 'messages.0.content' },
    { fixture: 'error-400-context-length.http', code: 'context_length_exceeded', kind: 'context_length' },
    { fixture: 'error-400-model.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-400-on-demand.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-400-quota.http', code: 'overloaded', kind: 'rate_limited' },
    { fixture: 'error-403.http', code: 'upstream_error', kind: 'credentials' },
    {
      fixture: 'error-403-signature.http',
      code: 'upstream_error',
      kind: 'credentials',
      says: 'does not accept the credentials',
    },
    { fixture: 'error-404.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-408.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-424.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-429.http', code: 'overloaded', kind: 'rate_limited' },
    { fixture: 'error-429-not-ready.http', code: 'overloaded', kind: 'overloaded', retryAfterMs: 5000 },
    { fixture: 'error-500.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-503.http', code: 'overloaded', kind: 'overloaded' },
  ],
}
