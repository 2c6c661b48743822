// How a form of the answer is asked for, what an own engine is told of it, and what another provider is.
import { describe, expect, test } from 'vitest'
import { encodeOpenAi } from '../../../../gateway/providers/openai-encoder.ts'
import { parseChat, parseCompletion } from '../../../../gateway/routes/openai-requests.ts'
import { FORMAT_PARAM, grammarOf } from '../../../../protocol/output-format.ts'
import type { InferenceRequest } from '../../../../protocol/request.ts'

const schema = { type: 'object', properties: { b: { type: 'string' }, a: { type: 'integer' } } }

function chat(over: object): InferenceRequest {
  const parsed = parseChat({ model: 'm', messages: [{ role: 'user', content: 'hi' }], ...over })
  if (!parsed.ok) throw new Error(parsed.error.message)
  return parsed.value.request
}

function grammar(over: object) {
  const format = chat(over).outputFormat
  return format === undefined ? undefined : { ...grammarOf(format), param: FORMAT_PARAM[format.kind] }
}

const SCHEMA_FORMAT = { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema } }

describe('a form of the answer becomes a grammar', () => {
  test.each([
    [{}, undefined],
    [{ response_format: { type: 'text' } }, undefined],
    [
      { response_format: { type: 'json_object' } },
      { kind: 'json_schema', text: '{"type":"object"}', param: 'response_format' },
    ],
    // The order of properties is the order in which they are written.
    [
      { response_format: SCHEMA_FORMAT },
      { kind: 'json_schema', text: JSON.stringify(schema), param: 'response_format' },
    ],
    [
      { response_format: { type: 'json_schema', json_schema: { name: 'any' } } },
      { kind: 'json_schema', text: '{"type":"object"}', param: 'response_format' },
    ],
    [
      { structured_outputs: { json: schema } },
      { kind: 'json_schema', text: JSON.stringify(schema), param: 'structured_outputs' },
    ],
    [{ structured_outputs: { json: true } }, { kind: 'json_schema', text: 'true', param: 'structured_outputs' }],
    [{ structured_outputs: { regex: '[a-z]+' } }, { kind: 'regex', text: '[a-z]+', param: 'structured_outputs' }],
    [
      { structured_outputs: { choice: ['a "b"', 'c\n'] } },
      { kind: 'lark', text: 'start: "a \\"b\\"" | "c\\n"', param: 'structured_outputs' },
    ],
    [
      { structured_outputs: { grammar: 'start: "x"' } },
      { kind: 'lark', text: 'start: "x"', param: 'structured_outputs' },
    ],
  ])('%j', (over, expected) => {
    expect(grammar(over)).toEqual(expected)
  })

  test('completions take the extension too', () => {
    const parsed = parseCompletion({ model: 'm', prompt: 'x', structured_outputs: { regex: 'a' } })
    expect(parsed.ok && parsed.value.request.outputFormat).toEqual({ kind: 'regex', pattern: 'a' })
  })
})

describe('another provider gets what the caller wrote', () => {
  test.each([
    [{ response_format: { type: 'json_object' } }],
    [{ response_format: SCHEMA_FORMAT }],
    [{ structured_outputs: { json: schema } }],
    [{ structured_outputs: { regex: 'a' } }],
    [{ structured_outputs: { choice: ['a', 'b'] } }],
    [{ structured_outputs: { grammar: 'start: "x"' } }],
  ])('%j', (over) => {
    expect(encodeOpenAi(chat(over), { model: 'm' })).toMatchObject({ ok: true, value: { body: over } })
  })

  test('and nothing where nothing was asked', () => {
    const encoded = encodeOpenAi(chat({ response_format: { type: 'text' } }), { model: 'm' })
    const body = encoded.ok ? encoded.value.body : undefined
    expect(body).toBeDefined()
    expect(body).not.toHaveProperty('response_format')
    expect(body).not.toHaveProperty('structured_outputs')
  })
})
