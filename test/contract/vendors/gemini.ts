// What is promised of Google's Gemini API.
import type { Promised } from '../promise.ts'

const CONFIG = 'generationConfig'
const IGNORED = 'Models from Gemini 4 on ignore it: refused for them.'
const text = (words: string) => ({ type: 'text' as const, text: words })
const thought = (words: string, value?: string) => ({
  type: 'thought' as const,
  text: words,
  ...(value === undefined ? {} : { seal: { by: 'gemini', value } }),
})

export const gemini: Promised = {
  title: 'Google Gemini',
  kind: 'gemini',
  folder: 'gemini',
  baseUrl: 'https://generativelanguage.googleapis.com',
  model: 'gemini-3.5-flash',
  secret: 'AIzaSyTest-0123456789',
  usageDialect: 'gemini',
  sealBy: 'gemini',
  url: 'https://generativelanguage.googleapis.com/v1beta/models/gemini-3.5-flash:streamGenerateContent?alt=sse',
  headers: { 'x-goog-api-key': 'AIzaSyTest-0123456789' },
  strangers: ['data: {"modelStatus":{"modelStage":"STABLE"}}', ': a comment', 'event: tomorrow\ndata: {"of":1}'],
  claims: {
    system: {
      is: 'translated',
      body: { 'systemInstruction.parts[0].text': 'Be brief.', 'contents[0].role': 'user' },
      note: 'All of them go in front: Gemini has one place for instructions.',
    },
    image_data: { is: 'translated', body: { 'contents[0].parts[1].inlineData.mimeType': 'image/png' } },
    image_url: {
      is: 'refused',
      param: 'messages',
      note: 'The gateway fetches nothing for a caller, and Gemini takes data.',
    },
    started_answer: { is: 'refused', param: 'messages' },
    tools: {
      is: 'translated',
      body: {
        'tools[0].functionDeclarations[0].name': 'weather',
        'tools[0].functionDeclarations[0].parametersJsonSchema.required': ['city'],
        toolConfig: undefined,
      },
    },
    tool_results: {
      is: 'translated',
      body: {
        'contents[1].role': 'model',
        'contents[1].parts[0].functionCall': { id: 'call_1', name: 'weather', args: { city: 'Oslo' } },
        // Made elsewhere: Google's own word for a call without a signature.
        'contents[1].parts[0].thoughtSignature': 'skip_thought_signature_validator',
        'contents[2].role': 'user',
        'contents[2].parts[0].functionResponse': { id: 'call_1', name: 'weather', response: { output: '4 °C' } },
      },
    },
    tool_result_error: {
      is: 'translated',
      body: { 'contents[2].parts[0].functionResponse.response': { error: 'no such city' } },
    },
    tool_result_image: {
      is: 'translated',
      body: { 'contents[2].parts[0].functionResponse.parts[0].inlineData.mimeType': 'image/png' },
    },
    tool_choice_none: { is: 'translated', body: { 'toolConfig.functionCallingConfig.mode': 'NONE' } },
    tool_choice_required: { is: 'translated', body: { 'toolConfig.functionCallingConfig.mode': 'ANY' } },
    tool_choice_named: {
      is: 'translated',
      body: { 'toolConfig.functionCallingConfig': { mode: 'ANY', allowedFunctionNames: ['weather'] } },
    },
    parallel_off: { is: 'refused', param: 'parallelToolCalls' },
    strict_tools: { is: 'translated', body: { 'toolConfig.functionCallingConfig.mode': 'VALIDATED' } },
    json_schema: {
      is: 'translated',
      body: { [`${CONFIG}.responseMimeType`]: 'application/json', [`${CONFIG}.responseJsonSchema.required`]: ['city'] },
    },
    json_object: {
      is: 'translated',
      body: { [CONFIG]: { maxOutputTokens: 100, responseMimeType: 'application/json' } },
    },
    choice: {
      is: 'translated',
      body: {
        [`${CONFIG}.responseMimeType`]: 'text/x.enum',
        [`${CONFIG}.responseSchema`]: { type: 'STRING', enum: ['yes', 'no'] },
      },
    },
    regex: { is: 'refused', param: 'outputFormat' },
    grammar: { is: 'refused', param: 'outputFormat' },
    reasoning_effort: {
      is: 'translated',
      body: { [`${CONFIG}.thinkingConfig`]: { thinkingLevel: 'LOW' } },
      note: 'A level, or a budget for models of 2.5. Where thinking cannot be switched off, `none` is the least.',
    },
    reasoning_budget: { is: 'honoured', body: { [`${CONFIG}.thinkingConfig`]: { thinkingBudget: 2000 } } },
    thoughts_shown: { is: 'honoured', body: { [`${CONFIG}.thinkingConfig.includeThoughts`]: true } },
    thoughts_returned: {
      is: 'honoured',
      body: {
        'contents[1].parts[0]': { text: 'Ask the tool.', thought: true, thoughtSignature: 'c2lnbmVk' },
        'contents[1].parts[1].functionCall.name': 'weather',
      },
    },
    temperature: { is: 'honoured', body: { [`${CONFIG}.temperature`]: 0.5 }, note: IGNORED },
    top_p: { is: 'honoured', body: { [`${CONFIG}.topP`]: 0.9 }, note: IGNORED },
    temperature_of_one: { is: 'honoured', body: { [`${CONFIG}.temperature`]: 1, [`${CONFIG}.topP`]: 1 } },
    top_k: { is: 'honoured', body: { [`${CONFIG}.topK`]: 40 }, note: IGNORED },
    min_p: { is: 'refused', param: 'minP' },
    presence_penalty: { is: 'honoured', body: { [`${CONFIG}.presencePenalty`]: 0.5 } },
    frequency_penalty: { is: 'honoured', body: { [`${CONFIG}.frequencyPenalty`]: 0.5 } },
    repetition_penalty: { is: 'refused', param: 'repetitionPenalty' },
    logit_bias: { is: 'refused', param: 'logitBias' },
    seed: { is: 'honoured', body: { [`${CONFIG}.seed`]: 7 } },
    stop: { is: 'honoured', body: { [`${CONFIG}.stopSequences`]: ['END', '###'] } },
    n: { is: 'honoured', body: { [`${CONFIG}.candidateCount`]: 2 }, note: 'At most 8.' },
    logprobs: { is: 'honoured', body: { [`${CONFIG}.responseLogprobs`]: true, [`${CONFIG}.logprobs`]: 2 } },
    verbosity: { is: 'left_out' },
    cache_hint: { is: 'left_out', note: 'Gemini keeps prefixes by itself.' },
    cache_key: { is: 'left_out' },
    service_tier: { is: 'honoured', body: { serviceTier: 'priority' } },
    end_user: { is: 'left_out' },
    completion: { is: 'refused', param: 'prompt' },
    embeddings: {
      is: 'translated',
      body: {
        'requests[0]': { model: 'models/gemini-3.5-flash', content: { parts: [{ text: 'Once' }] } },
        'requests[1].content.parts[0].text': 'Twice',
      },
      note: 'At most 100 texts at once.',
    },
    dimensions: { is: 'honoured', body: { 'requests[0].outputDimensionality': 256 } },
  },
  answers: [
    {
      fixture: 'text.http',
      choices: [{ parts: [text('In Oslo it is **4 °C** today ☁️.\n')], finish: 'stop' }],
      usage: { inputUncached: 9, outputText: 13 },
    },
    {
      fixture: 'text-whole.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 9, outputText: 4 },
    },
    {
      fixture: 'text-array.http',
      choices: [{ parts: [text('4 °C.')], finish: 'stop' }],
      usage: { inputUncached: 9, outputText: 4 },
    },
    {
      fixture: 'text-reason-in-every-chunk.http',
      choices: [{ parts: [text('Four.')], finish: 'stop' }],
      usage: { inputUncached: 5, outputText: 3 },
      hasUnclearEnd: true,
    },
    {
      fixture: 'thinking.http',
      choices: [
        {
          parts: [
            thought('**Weighing**\n\nTwo cities.Oslo.'),
            text('Oslo is colder.'),
            thought('', 'EqsFCqgFAb4+9vvtAF5n87lB'),
          ],
          finish: 'stop',
        },
      ],
      usage: { inputUncached: 9, outputText: 5, outputReasoning: 61 },
    },
    {
      fixture: 'thinking-signed-text-whole.http',
      choices: [{ parts: [thought('Compare.'), text('Oslo.'), thought('', 'EqsFCqgFAb4')], finish: 'stop' }],
      usage: { inputUncached: 9, outputText: 2, outputReasoning: 30 },
    },
    {
      fixture: 'tools.http',
      choices: [
        {
          parts: [
            {
              type: 'tool_call',
              id: 'fn_8a1',
              name: 'weather',
              arguments: '{"city":"Tromsø"}',
              seal: { by: 'gemini', value: 'EpEgCo4gAb4+9vvW' },
            },
          ],
          finish: 'tool_calls',
        },
      ],
      usage: { inputUncached: 29, outputText: 15, outputReasoning: 45 },
    },
    {
      fixture: 'tools-parallel.http',
      choices: [
        {
          parts: [
            text('Asking both.'),
            {
              type: 'tool_call',
              id: 'call_bH6LaZW8Fp_3nsEP_0_0',
              name: 'weather',
              arguments: '{"city":"Oslo"}',
              seal: { by: 'gemini', value: 'EpEg' },
            },
            { type: 'tool_call', id: 'call_bH6LaZW8Fp_3nsEP_0_1', name: 'weather', arguments: '{"city":"Bergen"}' },
            { type: 'tool_call', id: 'call_bH6LaZW8Fp_3nsEP_0_2', name: 'clock', arguments: '{}' },
          ],
          finish: 'tool_calls',
        },
      ],
      usage: { inputUncached: 31, outputText: 34 },
    },
    {
      fixture: 'tools-whole.http',
      choices: [
        {
          parts: [
            {
              type: 'tool_call',
              id: 'call_bH6LaZW8Fp_3nsEP_0_0',
              name: 'weather',
              arguments: '{"city":"Oslo","days":3}',
            },
          ],
          finish: 'tool_calls',
        },
      ],
      usage: { inputUncached: 29, outputText: 12 },
    },
    {
      fixture: 'choices.http',
      request: { n: 2 },
      choices: [
        { parts: [text('Heads.')], finish: 'stop' },
        { parts: [text('Tails')], finish: 'length' },
      ],
      usage: { inputUncached: 4, outputText: 5 },
    },
    {
      fixture: 'logprobs.http',
      request: { logprobs: { top: 2 } },
      choices: [
        {
          parts: [text('Yes.')],
          finish: 'stop',
          logprobs: [
            ['Yes', -0.25, ['Yes', 'No']],
            ['.', 0, ['.']],
          ],
        },
      ],
      usage: { inputUncached: 6, outputText: 2 },
    },
    {
      fixture: 'length.http',
      choices: [{ parts: [text('Once upon a time')], finish: 'length' }],
      usage: { inputUncached: 7, outputText: 4 },
    },
    {
      fixture: 'length-of-call.http',
      choices: [{ parts: [text('Once upon a time')], finish: 'length' }],
      usage: { inputUncached: 7, outputText: 4 },
    },
    {
      fixture: 'length-in-thought.http',
      choices: [{ parts: [], finish: 'length' }],
      usage: { inputUncached: 7, outputReasoning: 100 },
    },
    {
      fixture: 'content-filter.http',
      choices: [{ parts: [text('First, take')], finish: 'content_filter' }],
      usage: { inputUncached: 12, outputText: 3 },
    },
    {
      fixture: 'content-filter-recitation.http',
      choices: [{ parts: [], finish: 'content_filter' }],
      usage: { inputUncached: 12, outputText: 20 },
    },
    {
      fixture: 'prompt-blocked.http',
      failure: { code: 'content_filtered', kind: 'content_filter', says: 'PROHIBITED_CONTENT' },
      usage: { inputUncached: 17 },
    },
    {
      fixture: 'malformed-call.http',
      failure: { code: 'upstream_error', kind: 'malformed', says: 'MALFORMED_FUNCTION_CALL' },
      usage: { inputUncached: 40 },
    },
    {
      fixture: 'ended-otherwise.http',
      failure: { code: 'upstream_error', kind: 'malformed', says: 'OTHER' },
      usage: { inputUncached: 8, outputText: 2 },
    },
    {
      fixture: 'usage-cached.http',
      choices: [{ parts: [text('Chapter 2.')], finish: 'stop' }],
      usage: { inputUncached: 240, inputCacheRead: 800, outputText: 20, outputReasoning: 10 },
    },
    {
      fixture: 'usage-image.http',
      choices: [{ parts: [text('A cat.')], finish: 'stop' }],
      usage: { inputUncached: 6, inputImage: 258, outputText: 3 },
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
      failure: { code: 'overloaded', kind: 'overloaded' },
      usage: { inputUncached: 7, outputText: 3 },
    },
    {
      fixture: 'in-band-error-bare.http',
      failure: { code: 'upstream_error', kind: 'in_band', says: 'An internal error has occurred' },
      usage: { inputUncached: 7, outputText: 3 },
    },
    {
      fixture: 'ok-with-error.http',
      failure: { code: 'overloaded', kind: 'rate_limited', retryAfterMs: 12_000 },
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
      fixture: 'embeddings-none.http',
      request: { input: { kind: 'embedding', prompts: [{ text: 'a' }] } },
      failure: { code: 'upstream_error', kind: 'malformed' },
    },
  ],
  errors: [
    { fixture: 'error-400-argument.http', code: 'invalid_request', kind: 'refused', says: 'top_k' },
    {
      fixture: 'error-400-context-length.http',
      code: 'context_length_exceeded',
      kind: 'context_length',
      says: '1048576',
    },
    { fixture: 'error-400-key.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-400-place.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-403.http', code: 'upstream_error', kind: 'credentials' },
    { fixture: 'error-404.http', code: 'upstream_error', kind: 'unknown_model' },
    { fixture: 'error-413.http', code: 'request_too_large', kind: 'refused' },
    { fixture: 'error-429-minute.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 34_400 },
    { fixture: 'error-429-day.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 600_000 },
    { fixture: 'error-429-header.http', code: 'overloaded', kind: 'rate_limited', retryAfterMs: 3000 },
    { fixture: 'error-500.http', code: 'upstream_error', kind: 'status' },
    { fixture: 'error-503.http', code: 'overloaded', kind: 'overloaded' },
    { fixture: 'error-504.http', code: 'upstream_error', kind: 'status' },
  ],
}
