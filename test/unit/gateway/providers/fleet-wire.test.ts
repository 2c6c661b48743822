// A request in the words of wire 2: what own engines are told, and what they are never asked.
import { describe, expect, test } from 'vitest'
import { dispatchOf, fleetWire } from '../../../../gateway/providers/fleet-wire.ts'
import { type ChatMessage, type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const asks: ChatMessage = { role: 'user', content: [{ type: 'text', text: 'hi' }] }
const LOOK = { name: 'look', parameters: { type: 'object' }, strict: true, cache: { ttl: '5m' as const } }

const wire = (over: Partial<InferenceRequest>, messages: ChatMessage[] = [asks]) =>
  fleetWire({ model: 'm', input: { kind: 'chat', messages }, sampling: NEUTRAL_SAMPLING, n: 1, stop: [], ...over })

describe('a chat on an own engine', () => {
  test('is told all of the sampling, with the defaults where the caller said nothing', () => {
    const sampling = { temperature: 0.5, logitBias: [] }
    const asked: InferenceRequest = { model: 'm', input: { kind: 'chat', messages: [asks] }, sampling, n: 1, stop: [] }
    const sent = wire({})
    if (!sent.ok) throw new Error(sent.error.message)
    const context = { requestId: 'r', attempt: 1, tenant: 't', deadlineInMs: 1, seed: 4 }
    expect(dispatchOf(asked, sent.value, { model: 'm' }, context).sampling).toEqual({
      seed: 4,
      temperature: 0.5,
      topP: 1,
      topK: 0,
      minP: 0,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repetitionPenalty: 1,
      logitBias: [],
    })
  })

  test('keeps the seed of its caller, tells its tokens, and is resumed in a version that older agents refuse', () => {
    const asked: InferenceRequest = {
      model: 'm',
      input: { kind: 'chat', messages: [asks] },
      sampling: { ...NEUTRAL_SAMPLING, seed: -3 },
      n: 1,
      stop: [],
    }
    const sent = wire({})
    if (!sent.ok) throw new Error(sent.error.message)
    const resume = { choices: [{ choice: 0, tokenIds: [5] }] }
    const context = { requestId: 'r', attempt: 1, tenant: 't', deadlineInMs: 1, seed: 4, resume }
    expect(dispatchOf(asked, sent.value, { model: 'm' }, context)).toMatchObject({
      version: 3,
      sampling: { seed: -3 },
      tellsTokens: true,
      resume,
    })
  })

  test('is told that a tool failed', () => {
    const failed: ChatMessage = {
      role: 'tool',
      toolCallId: 'a',
      isError: true,
      content: [{ type: 'text', text: 'no' }],
    }
    expect(wire({}, [failed])).toMatchObject({ value: { input: { messages: [{ content: 'The tool failed.\nno' }] } } })
  })

  test('without tools is one that every agent understands', () => {
    expect(wire({})).toEqual({
      ok: true,
      value: {
        version: 1,
        input: { kind: 'chat', messages: [{ role: 'user', content: 'hi' }] },
        fields: { tellsThoughts: true },
      },
    })
  })

  test('carries calls, results, thoughts and tools, in a version that older agents refuse', () => {
    const messages: ChatMessage[] = [
      asks,
      {
        role: 'assistant',
        content: [
          { type: 'thought', text: 'Hm.' },
          { type: 'text', text: 'Let me see.' },
          { type: 'tool_call', id: 'a', name: 'look', arguments: '{}' },
        ],
      },
      { role: 'tool', toolCallId: 'a', content: [{ type: 'text', text: 'blue' }] },
    ]
    expect(wire({ tools: [LOOK], parallelToolCalls: false }, messages)).toEqual({
      ok: true,
      value: {
        version: 2,
        input: {
          kind: 'chat',
          messages: [
            { role: 'user', content: 'hi' },
            {
              role: 'assistant',
              content: 'Let me see.',
              thought: 'Hm.',
              toolCalls: [{ id: 'a', name: 'look', arguments: '{}' }],
            },
            { role: 'tool', content: 'blue', toolCallId: 'a' },
          ],
        },
        fields: {
          tools: [{ name: 'look', parameters: { type: 'object' } }],
          parallelToolCalls: false,
          tellsThoughts: true,
        },
      },
    })
  })

  test('asks for an engine with grammars where a tool must be called, and only there', () => {
    expect(wire({ tools: [LOOK], toolChoice: { mode: 'required' } })).toMatchObject({
      value: { grammarParam: 'tool_choice' },
    })
    expect(wire({ tools: [LOOK], toolChoice: { mode: 'auto' } })).not.toHaveProperty('value.grammarParam')
  })

  test('leaves out tools that may not be called', () => {
    expect(wire({ tools: [LOOK], toolChoice: { mode: 'none' } })).not.toHaveProperty('value.fields.tools')
  })

  test.each([
    [{ effort: 'none' as const }, false],
    [{ effort: 'low' as const }, true],
    [{ budgetTokens: 0 }, false],
    [{ budgetTokens: 10 }, true],
    [{ show: true }, undefined],
  ])('thinks as %j says: %s', (reasoning, thinking) => {
    const told = wire({ reasoning })
    expect(told.ok && told.value.fields.thinking).toBe(thinking)
  })

  test('with an image is refused by name', () => {
    const image = { type: 'image', source: { kind: 'data', mediaType: 'image/png', data: 'QQ==' } } as const
    expect(wire({}, [{ role: 'user', content: [image] }])).toMatchObject({
      ok: false,
      error: { code: 'invalid_request', param: 'messages' },
    })
  })

  test('with a form of the answer beside tools is refused by name', () => {
    expect(wire({ tools: [LOOK], outputFormat: { kind: 'json_object' } })).toMatchObject({
      ok: false,
      error: { code: 'invalid_request', param: 'response_format' },
    })
  })
})
