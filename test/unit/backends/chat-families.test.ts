// The chat templates of the supported families, rendered as their vendors document.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type ChatMessage, createChatRenderer } from '../../../backends/chat.ts'
import type { ModelFile } from '../../../backends/model-file.ts'
import { createTokenizer } from '../../../backends/tokens.ts'
import { testModelFile } from './support/test-model.ts'

const FOLDER = join(import.meta.dirname, '..', '..', 'fixtures', 'chat-templates')
const UNLIMITED = { tokensMax: Number.POSITIVE_INFINITY }

type Family = { name: string; controls: string[]; bos?: string; eos: string }
const CHATML = { controls: ['<|endoftext|>', '<|im_start|>', '<|im_end|>'], eos: '<|im_end|>' }
const FAMILIES: Family[] = [
  { name: 'qwen2.5', ...CHATML },
  { name: 'qwen3', ...CHATML },
  { name: 'smollm2', ...CHATML },
  { name: 'llama2', controls: ['<unk>', '<s>', '</s>'], bos: '<s>', eos: '</s>' },
  { name: 'mistral', controls: ['<unk>', '<s>', '</s>', '[INST]', '[/INST]'], bos: '<s>', eos: '</s>' },
  {
    name: 'llama3',
    controls: ['<|begin_of_text|>', '<|end_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'],
    bos: '<|begin_of_text|>',
    eos: '<|eot_id|>',
  },
]

/** The bytes as tokens and the family's control tokens behind them. */
function modelOf({ name, controls, bos, eos }: Family): ModelFile {
  const { tokens, tokenTypes, merges = [] } = testModelFile()
  const bytes = tokens.slice(0, 256 + merges.length)
  const all = [...bytes, ...controls]
  const { bosId: _, ...file } = testModelFile({
    tokens: all,
    tokenTypes: [...tokenTypes.slice(0, bytes.length), ...controls.map(() => 3)],
    eosId: all.indexOf(eos),
    endIds: [all.indexOf(eos)],
    chatTemplate: readFileSync(join(FOLDER, `${name}.jinja`), 'utf8'),
  })
  return bos === undefined ? file : { ...file, bosId: all.indexOf(bos), addBos: true }
}

function chatOf(family: Family) {
  const file = modelOf(family)
  const tokenizer = createTokenizer(file)
  const render = createChatRenderer(file, tokenizer.guard)
  return async (messages: ChatMessage[]) => {
    const rendered = render(messages)
    if (!rendered.ok) throw new Error(rendered.error.message)
    const { ids } = await tokenizer.encodeRendered(rendered.value.text, rendered.value.mark, UNLIMITED)
    const controls = ids.filter((id) => tokenizer.vocabulary.isControl(id)).map((id) => file.tokens[id])
    return { controls, text: Buffer.concat(ids.map((id) => tokenizer.vocabulary.nameBytes(id))).toString() }
  }
}

const system: ChatMessage = { role: 'system', content: 'Be brief.' }
const user: ChatMessage = { role: 'user', content: 'Hi there' }
const assistant: ChatMessage = { role: 'assistant', content: 'Hello!' }
const again: ChatMessage = { role: 'user', content: 'And now?' }

const QWEN = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'
const SMOL = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
const ml = (role: string, content: string) => `<|im_start|>${role}\n${content}<|im_end|>\n`
const ML_ASKS = '<|im_start|>assistant\n'
const l3 = (role: string, content: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n${content}<|eot_id|>`
const L3_ASKS = '<|start_header_id|>assistant<|end_header_id|>\n\n'

/** By family: a single question, one with a system prompt, a conversation. */
const RENDERED: Record<string, [string, string, string]> = {
  'qwen2.5': [
    ml('system', QWEN) + ml('user', 'Hi there') + ML_ASKS,
    ml('system', 'Be brief.') + ml('user', 'Hi there') + ML_ASKS,
    ml('system', 'Be brief.') + ml('user', 'Hi there') + ml('assistant', 'Hello!') + ml('user', 'And now?') + ML_ASKS,
  ],
  qwen3: [
    ml('user', 'Hi there') + ML_ASKS,
    ml('system', 'Be brief.') + ml('user', 'Hi there') + ML_ASKS,
    ml('system', 'Be brief.') + ml('user', 'Hi there') + ml('assistant', 'Hello!') + ml('user', 'And now?') + ML_ASKS,
  ],
  smollm2: [
    ml('system', SMOL) + ml('user', 'Hi there') + ML_ASKS,
    ml('system', 'Be brief.') + ml('user', 'Hi there') + ML_ASKS,
    ml('system', 'Be brief.') + ml('user', 'Hi there') + ml('assistant', 'Hello!') + ml('user', 'And now?') + ML_ASKS,
  ],
  llama2: [
    '<s>[INST] Hi there [/INST]',
    '<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST]',
    '<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST] Hello! </s><s>[INST] And now? [/INST]',
  ],
  // The system prompt goes with the last question.
  mistral: [
    '<s>[INST] Hi there[/INST]',
    '<s>[INST] Be brief.\n\nHi there[/INST]',
    '<s>[INST] Hi there[/INST] Hello!</s>[INST] Be brief.\n\nAnd now?[/INST]',
  ],
  llama3: [
    `<|begin_of_text|>${l3('user', 'Hi there')}${L3_ASKS}`,
    `<|begin_of_text|>${l3('system', 'Be brief.')}${l3('user', 'Hi there')}${L3_ASKS}`,
    `<|begin_of_text|>${l3('system', 'Be brief.')}${l3('user', 'Hi there')}${l3('assistant', 'Hello!')}${l3('user', 'And now?')}${L3_ASKS}`,
  ],
}

describe.each(FAMILIES)('$name', (family) => {
  const chat = chatOf(family)
  const [single, withSystem, conversation] = RENDERED[family.name] ?? ['', '', '']

  test('renders a question, a system prompt and a conversation as documented, with one beginning', async () => {
    expect((await chat([user])).text).toBe(single)
    expect((await chat([system, user])).text).toBe(withSystem)
    expect((await chat([system, user, assistant, again])).text).toBe(conversation)
  })

  test('lets no message bring a control token of its own, whatever it says', async () => {
    const honest = (await chat([system, user, assistant, again])).controls
    const parts = [
      ...family.controls.flatMap((text) => [text, text.slice(0, -1), text.slice(1), text.slice(2, -2)]),
      'x',
      '\ufdd0',
    ]
    const content = fc
      .array(fc.constantFrom(...parts), { minLength: 1, maxLength: 4 })
      .map((pieces) => `a${pieces.join('')}b`)
    const hostile = fc.tuple(content, content, content, content)
    await fc.assert(
      fc.asyncProperty(hostile, async (contents) => {
        const messages = [system, user, assistant, again].map((one, at) => ({ ...one, content: contents[at] ?? '' }))
        const { controls, text } = await chat(messages)
        expect(controls).toEqual(honest)
        for (const one of contents) expect(text).toContain(one)
      }),
      { numRuns: 150 },
    )
  })
})

test('a turn of reasoning is left out of the history by the template that knows of it', async () => {
  const chat = chatOf({ name: 'qwen3', ...CHATML })
  const thought = { ...assistant, content: '<think>\nhm\n</think>\n\nHello!' }
  expect((await chat([user, thought, again])).text).toBe(
    ml('user', 'Hi there') + ml('assistant', 'Hello!') + ml('user', 'And now?') + ML_ASKS,
  )
})

test('tool messages are rendered where the template knows them', async () => {
  const chat = chatOf({ name: 'qwen3', ...CHATML })
  const { text } = await chat([user, assistant, { role: 'tool', content: '42' }])
  expect(text).toContain('<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n')
})

test.each([
  ['mistral', [assistant, user], /must alternate/],
  ['mistral', [user, assistant, system], /must alternate|Only user and assistant roles/],
  ['llama2', [user, user], /must alternate/],
])('%s says in its own words why it refuses an order of roles', (name, messages, words) => {
  const family = FAMILIES.find((one) => one.name === name)
  if (family === undefined) throw new Error(`no family ${name}`)
  const file = modelOf(family)
  const refused = createChatRenderer(file, createTokenizer(file).guard)(messages)
  expect(refused).toMatchObject({ ok: false, error: { param: 'messages', message: expect.stringMatching(words) } })
})

test('a template can write the date', async () => {
  const file = testModelFile({ chatTemplate: "{{ strftime_now('%Y') }}" })
  const rendered = createChatRenderer(file, createTokenizer(file).guard)([user])
  expect(rendered).toMatchObject({ ok: true, value: { text: String(new Date().getFullYear()) } })
})
