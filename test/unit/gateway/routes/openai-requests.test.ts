import { describe, expect, test } from 'vitest'
import { parseChat, parseCompletion } from '../../../../gateway/routes/openai-requests.ts'

const messages = [{ role: 'user', content: 'hi' }]
const chat = (over: object = {}) => parseChat({ model: 'm', messages, ...over })
const completion = (over: object = {}) => parseCompletion({ model: 'm', prompt: 'hi', ...over })
const requestOf = (parsed: ReturnType<typeof parseChat>) => {
  if (!parsed.ok) throw new Error(parsed.error.message)
  return parsed.value.request
}
const faultOf = (parsed: ReturnType<typeof parseChat>) => {
  if (parsed.ok) throw new Error('it was accepted')
  expect(parsed.error.code).toBe('invalid_request')
  expect(parsed.error.message.length).toBeGreaterThan(10)
  return parsed.error
}

test('a plain chat gets every default', () => {
  expect(chat()).toEqual({
    ok: true,
    value: {
      request: {
        model: 'm',
        input: { kind: 'chat', messages: [{ role: 'user', content: [{ type: 'text', text: 'hi' }] }] },
        sampling: { logitBias: [] },
        n: 1,
        stop: [],
      },
      delivery: { stream: false, includeUsage: false },
    },
  })
})

test('null means unset for every optional field', () => {
  const names =
    'temperature top_p n max_tokens max_completion_tokens stop seed presence_penalty frequency_penalty logit_bias ' +
    'stream stream_options user top_k min_p repetition_penalty logprobs top_logprobs tools tool_choice response_format ' +
    'audio modalities functions function_call metadata store service_tier parallel_tool_calls prediction'
  expect(chat(Object.fromEntries(names.split(' ').map((name) => [name, null])))).toEqual(chat())
})

describe('a chat body is refused with the path of the field', () => {
  test.each([
    [{ model: undefined }, 'model'],
    [{ model: '' }, 'model'],
    [{ model: 5 }, 'model'],
    [{ messages: undefined }, 'messages'],
    [{ messages: [] }, 'messages'],
    [{ messages: 'hi' }, 'messages'],
    [{ messages: [{}] }, 'messages[0].role'],
    [{ messages: [{ role: 'robot', content: 'x' }] }, 'messages[0].role'],
    [{ messages: [{ role: 'function', content: 'x' }] }, 'messages[0].role'],
    [{ messages: [{ role: 'user' }] }, 'messages[0].content'],
    [{ messages: [{ role: 'user', content: null }] }, 'messages[0].content'],
    [{ messages: [...messages, { role: 'user', content: 5 }] }, 'messages[1].content'],
    [{ messages: [{ role: 'user', content: [] }] }, 'messages[0].content'],
    [{ messages: [{ role: 'user', content: [{ type: 'text', text: 5 }] }] }, 'messages[0].content[0].text'],
    [
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
      'messages[0].content[0].image_url.url',
    ],
    [{ messages: [{ role: 'user', content: [{ type: 'input_audio' }] }] }, 'messages[0].content[0].type'],
    [{ messages: [{ role: 'assistant', content: 'x', tool_calls: [{}] }] }, 'messages[0].tool_calls[0].type'],
    [{ messages: [{ role: 'assistant', content: 'x', function_call: {} }] }, 'messages[0].function_call'],
    [{ temperature: 2.1 }, 'temperature'],
    [{ temperature: -0.1 }, 'temperature'],
    [{ temperature: '1' }, 'temperature'],
    [{ top_p: 1.1 }, 'top_p'],
    [{ n: 0 }, 'n'],
    [{ n: 17 }, 'n'],
    [{ n: 1.5 }, 'n'],
    [{ max_tokens: 0 }, 'max_tokens'],
    [{ max_tokens: -1 }, 'max_tokens'],
    [{ max_tokens: 1.5 }, 'max_tokens'],
    [{ max_completion_tokens: 0 }, 'max_completion_tokens'],
    [{ stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop'],
    [{ stop: '' }, 'stop'],
    [{ stop: ['a', ''] }, 'stop[1]'],
    [{ stop: [5] }, 'stop[0]'],
    [{ stop: 'é'.repeat(600) }, 'stop'],
    [{ seed: 1.5 }, 'seed'],
    [{ seed: 2 ** 60 }, 'seed'],
    [{ presence_penalty: 3 }, 'presence_penalty'],
    [{ frequency_penalty: -3 }, 'frequency_penalty'],
    [{ logit_bias: { word: 1 } }, 'logit_bias.word'],
    [{ logit_bias: { '5': 101 } }, 'logit_bias.5'],
    [{ logit_bias: [] }, 'logit_bias'],
    [{ logprobs: 3 }, 'logprobs'],
    [{ top_logprobs: 2 }, 'top_logprobs'],
    [{ logprobs: false, top_logprobs: 2 }, 'top_logprobs'],
    [{ logprobs: true, top_logprobs: 21 }, 'top_logprobs'],
    [{ stream: 'yes' }, 'stream'],
    [{ stream_options: { include_usage: true } }, 'stream_options'],
    [{ stream: false, stream_options: {} }, 'stream_options'],
    [{ stream: true, stream_options: { include_usage: 1 } }, 'stream_options.include_usage'],
    [{ top_k: -2 }, 'top_k'],
    [{ min_p: 2 }, 'min_p'],
    [{ repetition_penalty: 0 }, 'repetition_penalty'],
    [{ repetition_penalty: 1e-40 }, 'repetition_penalty'],
    [{ user: 5 }, 'user'],
    [{ tools: [{ type: 'function' }] }, 'tools[0].function'],
    [{ tool_choice: 'required' }, 'tool_choice'],
    [{ functions: [{}] }, 'functions'],
    [{ function_call: { name: 'f' } }, 'function_call'],
    [{ response_format: {} }, 'response_format.type'],
    [{ response_format: { type: 'xml' } }, 'response_format.type'],
    [{ response_format: { type: 'json_schema' } }, 'response_format.json_schema'],
    [{ response_format: { type: 'json_schema', json_schema: { schema: {} } } }, 'response_format.json_schema.name'],
    [
      { response_format: { type: 'json_schema', json_schema: { name: 'a b', schema: {} } } },
      'response_format.json_schema.name',
    ],
    [
      { response_format: { type: 'json_schema', json_schema: { name: 'a', schema: [] } } },
      'response_format.json_schema.schema',
    ],
    [
      { response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { const: 'x'.repeat(300_000) } } } },
      'response_format',
    ],
    [{ structured_outputs: {} }, 'structured_outputs'],
    [{ structured_outputs: { regex: 'a', choice: ['b'] } }, 'structured_outputs'],
    [{ structured_outputs: { regex: 5 } }, 'structured_outputs.regex'],
    [{ structured_outputs: { choice: [] } }, 'structured_outputs.choice'],
    [{ structured_outputs: { regex: 'a' }, response_format: { type: 'json_object' } }, 'structured_outputs'],
    [{ modalities: ['text', 'audio'] }, 'modalities'],
    [{ audio: { voice: 'x' } }, 'audio'],
    [{ store: 'always' }, 'store'],
    [{ service_tier: 'flex' }, 'service_tier'],
    [{ web_search_options: {} }, 'web_search_options'],
    [{ temprature: 1 }, 'temprature'],
    [{ api_base: 'http://evil' }, 'api_base'],
    [{ constructor: 1 }, 'constructor'],
  ])('%j → %s', (over, param) => {
    expect(faultOf(chat(over)).param).toBe(param)
  })

  test.each([[null], [5], ['text'], [[]], [undefined]])('that is %j and no object', (body) => {
    expect(faultOf(parseChat(body))).not.toHaveProperty('param')
  })

  test('a part of another kind is named as what it is', () => {
    const content = [{ type: 'input_audio', input_audio: { data: 'x', format: 'wav' } }]
    expect(faultOf(chat({ messages: [{ role: 'user', content }] })).message).toContain(
      "'input_audio' are not supported",
    )
  })

  test('the older form of tools is told what took its place', () => {
    expect(faultOf(chat({ functions: [{ name: 'f' }] })).message).toContain("Use 'tools'.")
    expect(faultOf(chat({ messages: [{ role: 'function', name: 'f', content: '' }] })).message).toContain("'tool'")
  })
})

describe('a chat body is read', () => {
  test('with an effort as one whose thoughts are to be shown, since the dialect has no other word for that', () => {
    const reasoning = (effort: string) => {
      const parsed = chat({ reasoning_effort: effort })
      return parsed.ok ? parsed.value.request.reasoning : parsed.error
    }
    expect(reasoning('high')).toEqual({ effort: 'high', show: true })
    expect(reasoning('none')).toEqual({ effort: 'none' })
  })

  test.each([
    [{ metadata: { a: 'b' } }],
    [{ store: false }],
    [{ store: true }],
    [{ service_tier: 'auto' }],
    [{ parallel_tool_calls: true }],
    [{ tools: [] }],
    [{ tool_choice: 'none' }],
    [{ response_format: { type: 'text' } }],
    [{ modalities: ['text'] }],
    [{ prompt_cache_options: { mode: 'implicit' } }],
    [{ logprobs: false, top_logprobs: 0 }],
  ])('%j changes nothing', (over) => {
    expect(chat(over)).toEqual(chat())
  })

  test('text parts stay apart, and the echo of an earlier answer is taken as it is', () => {
    const parts = [
      { type: 'text', text: 'a' },
      { type: 'text', text: 'b' },
    ]
    const echo = { role: 'assistant', content: 'c', refusal: null, annotations: [], tool_calls: null }
    expect(requestOf(chat({ messages: [{ role: 'user', content: parts, name: 'ann' }, echo] })).input).toEqual({
      kind: 'chat',
      messages: [
        { role: 'user', content: parts, name: 'ann' },
        { role: 'assistant', content: [{ type: 'text', text: 'c' }] },
      ],
    })
  })

  test.each([
    [{ max_tokens: 5 }, 5],
    [{ max_completion_tokens: 6 }, 6],
    [{ max_tokens: 5, max_completion_tokens: 6 }, 6],
    [{ max_tokens: 5, max_completion_tokens: null }, 5],
    [{ max_tokens: 1_000_000_000 }, 1_000_000_000],
  ])('%j bounds the output at %d', (over, bound) => {
    expect(requestOf(chat(over)).maxOutputTokens).toBe(bound)
  })

  test('a default that the caller wrote is not the same as none', () => {
    const said = { temperature: 1, top_p: 1, top_k: -1, presence_penalty: 0, repetition_penalty: 1 }
    expect(chat(said)).toMatchObject({
      value: {
        request: {
          sampling: { temperature: 1, topP: 1, topK: 0, presencePenalty: 0, repetitionPenalty: 1, logitBias: [] },
        },
      },
    })
  })

  test('sampling, stop, bias and seed arrive', () => {
    const request = requestOf(
      chat({ temperature: 0, top_p: 0, top_k: 5, seed: -3, stop: 'x', logit_bias: { '7': -1.5 }, user: 'u' }),
    )
    expect(request.sampling).toMatchObject({ temperature: 0, topK: 5, seed: -3 })
    expect(request.sampling.topP).toBeGreaterThan(0)
    expect(request.sampling.topP).toBeLessThan(1e-3)
    expect(request.sampling.logitBias).toEqual([{ tokenId: 7, bias: -1.5 }])
    expect(request.stop).toEqual(['x'])
  })

  test('logprobs without a number of alternatives has none', () => {
    expect(requestOf(chat({ logprobs: true })).logprobs).toEqual({ top: 0 })
    expect(requestOf(chat({ logprobs: true, top_logprobs: 20 })).logprobs).toEqual({ top: 20 })
  })
})

describe('a completion body', () => {
  test.each([
    ['hi', [{ text: 'hi' }]],
    [
      ['a', 'b'],
      [{ text: 'a' }, { text: 'b' }],
    ],
    [[1, 2], [{ tokenIds: [1, 2] }]],
    [
      [[1], [2, 3]],
      [{ tokenIds: [1] }, { tokenIds: [2, 3] }],
    ],
    ['', [{ text: '' }]],
  ])('with the prompt %j has the prompts %j', (prompt, prompts) => {
    expect(requestOf(completion({ prompt })).input).toEqual({ kind: 'completion', prompts, echo: false })
  })

  test.each([
    [{ prompt: undefined }, 'prompt'],
    [{ prompt: [] }, 'prompt'],
    [{ prompt: [[]] }, 'prompt[0]'],
    [{ prompt: ['a', 1] }, 'prompt[1]'],
    [{ prompt: [-1] }, 'prompt[0]'],
    [{ prompt: 5 }, 'prompt'],
    [{ prompt: Array(17).fill('a') }, 'prompt'],
    [{ prompt: Array(5).fill('a'), n: 4 }, 'n'],
    [{ max_tokens: 0 }, 'max_tokens'],
    [{ logprobs: 6 }, 'logprobs'],
    [{ logprobs: true }, 'logprobs'],
    [{ best_of: 3 }, 'best_of'],
    [{ echo: true, logprobs: 1 }, 'echo'],
    [{ suffix: 'x' }, 'suffix'],
    [{ messages }, 'messages'],
    [{ max_completion_tokens: 5 }, 'max_completion_tokens'],
  ])('%j is refused at %s', (over, param) => {
    expect(faultOf(completion(over)).param).toBe(param)
  })

  test('takes logprobs as a number, echo, and best_of where it changes nothing', () => {
    const request = requestOf(completion({ logprobs: 5, n: 2, best_of: 2 }))
    expect(request.logprobs).toEqual({ top: 5 })
    expect(requestOf(completion({ echo: true, suffix: '' })).input).toMatchObject({ echo: true })
  })
})
