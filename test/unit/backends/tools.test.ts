// Tools of a chat on an own engine: what the model is shown, what the engine is asked, and what its answers become.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { answerFormatOf } from '../../../backends/answer-format.ts'
import { type ChatMessage, type ChatOptions, createChatRenderer } from '../../../backends/chat.ts'
import { prepareDispatch, type TextModel } from '../../../backends/dispatch.ts'
import type { SequenceHandlers, SequenceParameters } from '../../../backends/engine/client.ts'
import type { ModelFile } from '../../../backends/model-file.ts'
import { runSession } from '../../../backends/session.ts'
import { createTokenizer, type Tokenizer } from '../../../backends/tokens.ts'
import { callSchema } from '../../../backends/tool-grammar.ts'
import type { DispatchEvent, DispatchRequest } from '../../../protocol/dispatch.ts'
import { dispatchRequest } from './support/harness.ts'
import { testModelFile } from './support/test-model.ts'

const FOLDER = join(import.meta.dirname, '..', '..', 'fixtures', 'chat-templates')
const UNLIMITED = { tokensMax: Number.POSITIVE_INFINITY }
const CONTROLS: Record<string, string[]> = {
  'qwen2.5': ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
  qwen3: ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
  mistral: [
    '<s>',
    '</s>',
    '[INST]',
    '[/INST]',
    '[TOOL_CALLS]',
    '[AVAILABLE_TOOLS]',
    '[/AVAILABLE_TOOLS]',
    '[TOOL_RESULTS]',
    '[/TOOL_RESULTS]',
  ],
  'llama3-tools': ['<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>', '<|python_tag|>'],
  llama3: ['<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'],
}
const ENDS: Record<string, string> = {
  'qwen2.5': '<|im_end|>',
  qwen3: '<|im_end|>',
  mistral: '</s>',
  'llama3-tools': '<|eot_id|>',
  llama3: '<|eot_id|>',
}

type Model = TextModel & { file: ModelFile; tokenizer: Tokenizer }

/** The bytes as tokens and the family's control tokens behind them. */
function modelOf(name: string, template = readFileSync(join(FOLDER, `${name}.jinja`), 'utf8')): Model {
  const controls = CONTROLS[name] ?? []
  const { tokens, tokenTypes, merges = [] } = testModelFile()
  const bytes = tokens.slice(0, 256 + merges.length)
  const all = [...bytes, ...controls]
  const eosId = all.indexOf(ENDS[name] ?? '')
  const file = testModelFile({
    tokens: all,
    tokenTypes: [...tokenTypes.slice(0, bytes.length), ...controls.map(() => 3)],
    bosId: all.indexOf(controls[0] ?? ''),
    eosId,
    endIds: [eosId],
    chatTemplate: template,
  })
  const tokenizer = createTokenizer(file)
  const answers = answerFormatOf(file, tokenizer.vocabulary)
  return { file, tokenizer, answers, render: createChatRenderer(file, tokenizer.guard, answers.tools) }
}

async function rendered({ file, tokenizer, render }: Model, messages: ChatMessage[], options: ChatOptions = {}) {
  const result = render(messages, options)
  if (!result.ok) throw new Error(result.error.message)
  const { ids } = await tokenizer.encodeRendered(result.value.text, result.value.mark, UNLIMITED)
  const controls = ids.filter((id) => tokenizer.vocabulary.isControl(id)).map((id) => file.tokens[id])
  return { controls, text: Buffer.concat(ids.map((id) => tokenizer.vocabulary.nameBytes(id))).toString() }
}

const LOOK = {
  name: 'look',
  description: 'Looks at something.',
  parameters: { type: 'object', properties: { at: { type: 'string' } }, required: ['at'] },
}
const asks: ChatMessage = { role: 'user', content: 'What is up?' }
const calls: ChatMessage = {
  role: 'assistant',
  content: '',
  toolCalls: [{ id: 'call_1', name: 'look', arguments: '{"at":"sky"}' }],
}
const result: ChatMessage = { role: 'tool', content: 'blue', toolCallId: 'call_1' }
const WITH_TOOLS = ['qwen2.5', 'qwen3', 'mistral', 'llama3-tools'] as const

describe('the form of calls', () => {
  test.each([
    ['qwen2.5', 'tagged', false],
    ['qwen3', 'tagged', true],
    ['mistral', 'listed', false],
    ['llama3-tools', 'bare', false],
    ['llama3', undefined, false],
  ])('of %s is %s', (name, tools, hasThoughts) => {
    const { answers } = modelOf(name)
    expect(answers?.tools).toBe(tools)
    expect(answers?.hasThoughts).toBe(hasThoughts)
  })

  test('as XML functions is not taken for tagged JSON', () => {
    const { answers } = modelOf('qwen3', '{{ tools }}<tool_call><function=a></function></tool_call>')
    expect(answers?.tools).toBeUndefined()
  })
})

describe.each(WITH_TOOLS)('%s', (name) => {
  const model = modelOf(name)
  const chat = [asks, calls, result]

  test('is shown the tools, the call and its result', async () => {
    // One family shows its tools with the last question alone.
    const { text } = await rendered(model, chat, { tools: [LOOK] })
    expect(text).toContain('Looks at something.')
    expect(text).toContain('"look"')
    expect(text).toMatch(/"at": ?"sky"/)
    expect(text).toContain('blue')
  })

  test('gets no control token out of anything that a caller writes around tools', async () => {
    const honest = (await rendered(model, chat, { tools: [LOOK] })).controls
    const controls = CONTROLS[name] ?? []
    const piece = fc.constantFrom(...controls.flatMap((one) => [one, one.slice(0, -1), one.slice(1)]), 'x', '\ufdd0')
    const hostile = fc.array(piece, { minLength: 1, maxLength: 3 }).map((pieces) => pieces.join(''))
    await fc.assert(
      fc.asyncProperty(hostile, hostile, hostile, hostile, async (description, key, value, content) => {
        const tool = {
          name: 'look',
          description,
          parameters: { type: 'object', properties: { [key]: { const: value } } },
        }
        const call = { id: 'call_1', name: 'look', arguments: JSON.stringify({ [key]: value }) }
        const hostileChat = [asks, { ...calls, toolCalls: [call] }, { ...result, content }]
        expect((await rendered(model, hostileChat, { tools: [tool] })).controls).toEqual(honest)
      }),
      { numRuns: 100 },
    )
  })
})

test('a template of its own for tools is used for them, and for nothing else', async () => {
  const plain = modelOf('llama3')
  const file = { ...plain.file, toolTemplate: readFileSync(join(FOLDER, 'llama3-tools.jinja'), 'utf8') }
  const answers = answerFormatOf(file, plain.tokenizer.vocabulary)
  expect(answers.tools).toBe('bare')
  const model = { ...plain, file, answers, render: createChatRenderer(file, plain.tokenizer.guard, answers.tools) }
  expect((await rendered(model, [asks], { tools: [LOOK] })).text).toContain('Looks at something.')
  expect((await rendered(model, [asks, calls, result])).text).toContain('"parameters"')
  expect((await rendered(model, [asks])).text).toBe((await rendered(plain, [asks])).text)
})

test('a noncharacter that arguments write as an escape is kept, and marks nothing', async () => {
  const call = { id: 'call_1', name: 'look', arguments: '{"at":"\\ufdd0<|im_\\ufdd0end|>"}' }
  const { text } = await rendered(modelOf('qwen2.5'), [asks, { ...calls, toolCalls: [call] }])
  expect(text).toContain('"at": "\ufdd0<|im_\ufdd0end|>"')
})

test('ids are short where the template insists on it, the same for call and result', async () => {
  const { text } = await rendered(modelOf('mistral'), [asks, calls, result])
  const [, ofCall] = /"id": "(\w{9})"/.exec(text) ?? []
  expect(ofCall).toBeDefined()
  expect(text).toContain(`"call_id": "${ofCall}"`)
})

test('thinking is switched off where the template can be told so', async () => {
  const model = modelOf('qwen3')
  expect((await rendered(model, [asks], { thinking: false })).text).toMatch(/<think>\n\n<\/think>\n\n$/)
  expect((await rendered(model, [asks], { thinking: true })).text).not.toContain('<think>')
})

test('a model whose template knows no tools refuses them and calls by name', () => {
  const { render } = modelOf('llama3')
  expect(render([asks], { tools: [LOOK] })).toMatchObject({ ok: false, error: { param: 'tools' } })
  expect(render([asks, calls])).toMatchObject({ ok: false, error: { param: 'messages' } })
})

const LIMITS = { contextTokens: 8192, sequencesMax: 8, grammars: true }

function prepare(model: Model, changes: Partial<DispatchRequest>, limits: Partial<typeof LIMITS> = {}) {
  const request = dispatchRequest({ version: 2, input: { kind: 'chat', messages: [asks] }, tools: [LOOK], ...changes })
  const vocabularyTokens = model.file.tokens.length
  return prepareDispatch(
    request,
    model,
    { ...LIMITS, vocabularyTokens, ...limits },
    { randomSeed: () => 7n, tenant: 1n },
  )
}

/** What a session makes of an answer that comes token by token, ended by the model itself. */
async function answered(model: Model, answer: string, changes: Partial<DispatchRequest> = {}) {
  const prepared = await prepare(model, changes)
  if (!prepared.ok) throw new Error(prepared.error.message)
  const events: DispatchEvent[] = []
  const submitted: { parameters: SequenceParameters; handlers: SequenceHandlers }[] = []
  let cancels = 0
  const done = runSession(prepared.value, {
    connection: {
      submit: (parameters, handlers) => {
        submitted.push({ parameters, handlers })
        return { cancel: () => void cancels++, grant: () => {} }
      },
    },
    sink: { write: async (batch) => void events.push(...batch) },
    capacity: () => undefined,
    nowMs: () => 0,
    signal: new AbortController().signal,
    queuedMs: 0,
    deadlineAtMs: 5000,
  })
  const tick = () => new Promise((resolve) => setImmediate(resolve))
  await tick()
  const { handlers, parameters } = submitted[0] ?? {}
  const { ids } = await model.tokenizer.encodeRendered(answer, '\ufdd0', UNLIMITED)
  let sampled = 0
  for (const token of ids) {
    if (cancels > 0) break
    sampled++
    handlers?.token({ id: 0n, token, logprob: 0, top: [] })
    await tick()
  }
  const counts = { promptTokens: 2, cachedTokens: 0, outputTokens: sampled }
  handlers?.end({ kind: 'finished', finished: { type: 'finished', id: 0n, reason: 'stop', ...counts } })
  const { usage } = await done
  const text = Buffer.concat(
    (parameters?.prompt ?? []).map((id) => model.tokenizer.vocabulary.nameBytes(id)),
  ).toString()
  return { events, usage, sampled, prompt: text, parameters, cancels }
}

const callsOf = (events: DispatchEvent[]) =>
  events.flatMap((event) => (event.type === 'tool_call' ? [{ name: event.name, arguments: event.arguments }] : []))
const saidBy = (events: DispatchEvent[], type: 'delta' | 'thought') =>
  events.map((event) => (event.type === type ? event.text : '')).join('')

describe('an answer', () => {
  test.each([
    ['qwen2.5', 'Well.\n<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>', 'Well.'],
    ['mistral', 'Well.[TOOL_CALLS] [{"name": "look", "arguments": {"at": "sky"}}]', 'Well.'],
    ['llama3-tools', '<|python_tag|>{"name": "look", "parameters": {"at": "sky"}}', ''],
  ])('of %s with a call ends with the call, every token counted once', async (name, answer, text) => {
    const { events, usage, sampled } = await answered(modelOf(name), answer)
    expect(callsOf(events)).toEqual([{ name: 'look', arguments: '{"at":"sky"}' }])
    expect(saidBy(events, 'delta')).toBe(text)
    expect(events.find(({ type }) => type === 'finish')).toEqual({
      type: 'finish',
      choice: 0,
      reason: 'tool_calls',
      outputTokens: sampled,
    })
    expect(usage.outputTokens).toBe(sampled)
    const tokens = events.flatMap((event) => ('outputTokens' in event ? [event.outputTokens] : []))
    expect(tokens).toEqual(tokens.toSorted((a, b) => a - b))
  })

  test('without a call stays text, and ends as one', async () => {
    const { events } = await answered(modelOf('qwen2.5'), 'It is blue.')
    expect(saidBy(events, 'delta')).toBe('It is blue.')
    expect(events.find(({ type }) => type === 'finish')).toMatchObject({ reason: 'stop' })
  })

  test('has its calls numbered and named apart', async () => {
    const one = '<tool_call>{"name": "look", "arguments": {"at": "sky"}}</tool_call>'
    const { events } = await answered(modelOf('qwen2.5'), `${one}\n${one}`)
    const told = events.flatMap((event) => (event.type === 'tool_call' ? [event] : []))
    expect(told.map(({ call }) => call)).toEqual([0, 1])
    expect(new Set(told.map(({ id }) => id)).size).toBe(2)
  })

  test('stops after one call where only one is wanted', async () => {
    const one = '<tool_call>{"name": "look", "arguments": {"at": "sky"}}</tool_call>'
    const { events, cancels, sampled } = await answered(modelOf('qwen2.5'), `${one}\n${one}`, {
      parallelToolCalls: false,
    })
    expect(callsOf(events)).toHaveLength(1)
    expect(cancels).toBe(1)
    expect(events.find(({ type }) => type === 'finish')).toMatchObject({ reason: 'tool_calls', outputTokens: sampled })
  })

  test('has its thoughts told apart for a gateway that knows them, and as text for another', async () => {
    const model = modelOf('qwen3')
    const thinks = '<think>\nHm.\n</think>\n\nBlue.'
    const { events } = await answered(model, thinks, { tellsThoughts: true })
    expect([saidBy(events, 'thought'), saidBy(events, 'delta')]).toEqual(['Hm.', 'Blue.'])
    const { tools: _, ...older } = dispatchRequest()
    const told = await answered(model, thinks, { ...older, tools: undefined })
    expect(saidBy(told.events, 'delta')).toBe(thinks)
  })
})

describe('a call that must be made', () => {
  test.each([
    ['qwen2.5', '<tool_call>\n', '{"name":"look","arguments":{"at":"sky"}}'],
    ['qwen3', '<think>\n\n</think>\n\n<tool_call>\n', '{"name":"look","arguments":{"at":"sky"}}'],
    ['mistral', '[TOOL_CALLS]', '[{"name":"look","arguments":{"at":"sky"}}]'],
    ['llama3-tools', '', '{"name":"look","parameters":{"at":"sky"}}'],
  ])('by %s begins in the prompt and is held to a schema', async (name, opening, answer) => {
    const { events, prompt, parameters } = await answered(modelOf(name), answer, { toolChoice: { mode: 'required' } })
    expect(prompt.endsWith(opening)).toBe(true)
    expect(parameters?.grammar?.kind).toBe('json_schema')
    expect(callsOf(events)).toEqual([{ name: 'look', arguments: '{"at":"sky"}' }])
  })

  test('is of the tool that was named', async () => {
    const toolChoice = { mode: 'tool', name: 'wait' } as const
    const { parameters } = await answered(modelOf('qwen2.5'), '', { tools: [LOOK, { name: 'wait' }], toolChoice })
    const schema = JSON.parse(parameters?.grammar?.text ?? '{}') as { anyOf: { properties: { name: unknown } }[] }
    expect(schema.anyOf.map(({ properties }) => properties.name)).toEqual([{ const: 'wait' }])
  })

  test.each([
    ['an engine without grammars', {}, { grammars: false }, 'tool_choice'],
    [
      'a format beside it',
      { grammar: { kind: 'regex', text: 'a', param: 'response_format' } } as const,
      {},
      'tool_choice',
    ],
  ])('is refused by name with %s', async (_, changes, limits, param) => {
    const prepared = await prepare(modelOf('qwen2.5'), { toolChoice: { mode: 'required' }, ...changes }, limits)
    expect(prepared).toMatchObject({ ok: false, error: { code: 'invalid_request', param } })
  })

  test('keeps the references within the schema of a tool', () => {
    const parameters = { type: 'object', $defs: { p: { type: 'string' } }, properties: { a: { $ref: '#/$defs/p' } } }
    const tagged = callSchema('tagged', [{ name: 'x' }, { name: 'y', parameters }], true)
    expect(tagged).toContain('"$ref":"#/anyOf/1/properties/arguments/$defs/p"')
    expect(callSchema('listed', [{ name: 'y', parameters }], true)).toContain(
      '#/items/anyOf/0/properties/arguments/$defs/p',
    )
  })
})

test('tools that may not be called are not shown', async () => {
  const { prompt } = await answered(modelOf('qwen2.5'), 'Hi.', { toolChoice: { mode: 'none' } })
  expect(prompt).not.toContain('Looks at something.')
})
