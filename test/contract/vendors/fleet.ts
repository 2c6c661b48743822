// What is promised of the deployment's own backends. That an engine has no grammars, or a model no template for tools, is known
// only of each: such a request goes to another backend, or is refused by the field's name.
import type { Claim, Promised } from '../promise.ts'
import { OWN_DEFAULT } from './openai-claims.ts'

const NO_IMAGES: Claim = { is: 'refused', param: 'messages' }
const GRAMMARS = 'Where a backend of the model has grammars; else refused by the field’s name.'

export const fleet: Pick<Promised, 'title' | 'claims'> = {
  title: 'Own fleet',
  claims: {
    system: { is: 'honoured', body: { 'input.messages[0]': { role: 'system', content: 'Be brief.' } } },
    image_data: NO_IMAGES,
    image_url: NO_IMAGES,
    started_answer: { is: 'refused', param: 'messages' },
    tools: {
      is: 'honoured',
      body: { version: 2, 'tools[0].name': 'weather', 'tools[0].parameters.required': ['city'], toolChoice: undefined },
    },
    tool_results: {
      is: 'honoured',
      body: {
        'input.messages[1].toolCalls[0]': { id: 'call_1', name: 'weather', arguments: '{"city":"Oslo"}' },
        'input.messages[2]': { role: 'tool', toolCallId: 'call_1', content: '4 °C' },
      },
    },
    tool_result_error: {
      is: 'translated',
      body: { 'input.messages[2].content': 'The tool failed.\nno such city' },
      note: 'Templates have no place for it: the result itself says so.',
    },
    tool_result_image: NO_IMAGES,
    tool_choice_none: { is: 'translated', body: { tools: undefined, toolChoice: undefined } },
    tool_choice_required: { is: 'honoured', body: { toolChoice: { mode: 'required' } }, note: GRAMMARS },
    tool_choice_named: { is: 'honoured', body: { toolChoice: { mode: 'tool', name: 'weather' } }, note: GRAMMARS },
    parallel_off: { is: 'honoured', body: { parallelToolCalls: false } },
    strict_tools: { is: 'left_out', note: 'Held to the schema where a call is forced.' },
    json_schema: { is: 'honoured', body: { 'grammar.kind': 'json_schema' }, note: GRAMMARS },
    json_object: { is: 'honoured', body: { 'grammar.kind': 'json_schema' }, note: GRAMMARS },
    choice: { is: 'honoured', body: { 'grammar.text': 'start: "yes" | "no"' }, note: GRAMMARS },
    regex: { is: 'honoured', body: { 'grammar.kind': 'regex', 'grammar.text': '[0-9]+' }, note: GRAMMARS },
    grammar: { is: 'honoured', body: { 'grammar.kind': 'lark' }, note: GRAMMARS },
    reasoning_effort: {
      is: 'translated',
      body: { thinking: true },
      note: 'On or off, for templates that can tell the model.',
    },
    reasoning_budget: { is: 'translated', body: { thinking: true } },
    thoughts_shown: { is: 'left_out', note: 'What a model thinks is shown.' },
    thoughts_returned: { is: 'honoured', body: { 'input.messages[1].thought': 'Ask the tool.' } },
    temperature: { is: 'honoured', body: { 'sampling.temperature': 0.5 } },
    top_p: { is: 'honoured', body: { 'sampling.topP': 0.9 } },
    temperature_of_one: { is: 'left_out', note: OWN_DEFAULT },
    top_k: { is: 'honoured', body: { 'sampling.topK': 40 } },
    min_p: { is: 'honoured', body: { 'sampling.minP': 0.1 } },
    presence_penalty: { is: 'honoured', body: { 'sampling.presencePenalty': 0.5 } },
    frequency_penalty: { is: 'honoured', body: { 'sampling.frequencyPenalty': 0.5 } },
    repetition_penalty: { is: 'honoured', body: { 'sampling.repetitionPenalty': 1.1 } },
    logit_bias: { is: 'honoured', body: { 'sampling.logitBias': [{ tokenId: 42, bias: -100 }] } },
    seed: { is: 'honoured', body: { 'sampling.seed': 7 } },
    stop: { is: 'honoured', body: { stop: ['END', '###'] } },
    n: { is: 'honoured', body: { n: 2 } },
    logprobs: { is: 'honoured', body: { 'logprobs.top': 2 } },
    verbosity: { is: 'left_out' },
    cache_hint: { is: 'left_out', note: 'Engines keep prefixes by themselves.' },
    cache_key: { is: 'left_out' },
    service_tier: { is: 'left_out' },
    end_user: { is: 'left_out' },
    completion: { is: 'honoured', body: { 'input.prompts': [{ text: 'Once' }] } },
    embeddings: { is: 'honoured', body: { 'input.prompts': [{ text: 'Once' }, { text: 'Twice' }] } },
    dimensions: { is: 'honoured', body: { 'input.dimensions': 256 } },
  },
}
