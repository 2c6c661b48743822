// A model's answer into text, thoughts and calls: every form, cut anywhere, and nothing lost of what is none.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ToolFormat } from '../../../backends/answer-format.ts'
import { type AnswerPart, AnswerParts, type AnswerPlan } from '../../../backends/answer-parts.ts'
import { JsonSpan } from '../../../backends/call-text.ts'

const plan = (over: Partial<AnswerPlan> = {}): AnswerPlan => ({
  toolNames: new Set(['look', 'wait']),
  hasThoughts: false,
  startsIn: 'text',
  isOneCall: false,
  ...over,
})

function read(over: Partial<AnswerPlan>, pieces: readonly string[]): AnswerPart[] {
  const parts = new AnswerParts(plan(over))
  const all = [...pieces.flatMap((piece) => parts.push(piece)), ...parts.flush()]
  return all.reduce<AnswerPart[]>((joined, part) => {
    const last = joined.at(-1)
    if (part.type !== 'call' && last?.type === part.type) last.text += part.text
    else joined.push({ ...part })
    return joined
  }, [])
}

const text = (value: string) => ({ type: 'text', text: value })
const thought = (value: string) => ({ type: 'thought', text: value })
const look = { type: 'call', name: 'look', arguments: '{"at":"sky"}' }
const wait = { type: 'call', name: 'wait', arguments: '{}' }

const TAGGED = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'

type Case = [name: string, over: Partial<AnswerPlan>, answer: string, parts: object[]]
const CASES: Case[] = [
  ['a tagged call', { tools: 'tagged' }, TAGGED, [look]],
  ['text before a call', { tools: 'tagged' }, `Let me see.\n${TAGGED}`, [text('Let me see.'), look]],
  [
    'several calls and text between',
    { tools: 'tagged' },
    `${TAGGED}\n<tool_call>{"name":"wait","arguments":{}}</tool_call>\nSo.`,
    [look, wait, text('So.')],
  ],
  ['a call without its closing tag', { tools: 'tagged' }, '<tool_call>\n{"name":"wait","arguments":{}}', [wait]],
  [
    'a call whose arguments are text',
    { tools: 'tagged' },
    '<tool_call>{"name":"wait","arguments":"{}"}</tool_call>',
    [wait],
  ],
  [
    'a call that quotes its own tags',
    { tools: 'tagged' },
    '<tool_call>{"name":"look","arguments":{"at":"</tool_call>"}}</tool_call>!',
    [{ ...look, arguments: '{"at":"</tool_call>"}' }, text('!')],
  ],
  [
    'a call that is no JSON',
    { tools: 'tagged' },
    '<tool_call>look at it</tool_call>',
    [text('<tool_call>look at it</tool_call>')],
  ],
  ['half a call', { tools: 'tagged' }, 'a <tool_call>{"name":"lo', [text('a <tool_call>{"name":"lo')]],
  ['a good call behind a bad one', { tools: 'tagged' }, `<tool_call>oh ${TAGGED}`, [text('<tool_call>oh'), look]],
  ['what only looks like a tag', { tools: 'tagged' }, 'a <tool> b <tool_ca', [text('a <tool> b <tool_ca')]],
  [
    'a list',
    { tools: 'listed' },
    '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "sky"}}, {"name": "wait"}]',
    [look, wait],
  ],
  [
    'a list with ids of its own',
    { tools: 'listed' },
    '[TOOL_CALLS][{"name":"wait","arguments":{},"id":"AbCdE1234"}]',
    [{ ...wait, id: 'AbCdE1234' }],
  ],
  [
    'calls by name',
    { tools: 'listed' },
    'So[TOOL_CALLS]look[ARGS]{"at":"sky"}[TOOL_CALLS]wait[ARGS]{}',
    [text('So'), look, wait],
  ],
  [
    'a call by name with its id',
    { tools: 'listed' },
    '[TOOL_CALLS]wait[CALL_ID]AbCdE1234[ARGS]{}',
    [{ ...wait, id: 'AbCdE1234' }],
  ],
  ['a list of something else', { tools: 'listed' }, '[TOOL_CALLS] [1, 2]', [text('[TOOL_CALLS] [1, 2]')]],
  ['a bare call', { tools: 'bare' }, '{"name": "look", "parameters": {"at": "sky"}}', [look]],
  ['a bare call with its type', { tools: 'bare' }, '{"type":"function","name":"wait","parameters":{}}', [wait]],
  [
    'bare calls in a row',
    { tools: 'bare' },
    '{"name":"look","parameters":{"at":"sky"}}; {"name":"wait","parameters":{}}',
    [look, wait],
  ],
  ['a call behind a mark', { tools: 'bare' }, '<|python_tag|>{"name":"wait","parameters":{}}', [wait]],
  ['code behind a mark', { tools: 'bare' }, '<|python_tag|>print(1)', [text('<|python_tag|>print(1)')]],
  ['JSON that is an answer', { tools: 'bare' }, ' {"answer": 42}', [text(' {"answer": 42}')]],
  [
    'a bare call of no offered tool',
    { tools: 'bare' },
    '{"name": "Ada", "parameters": {}}',
    [text('{"name": "Ada", "parameters": {}}')],
  ],
  ['a name in the middle of a sentence', { tools: 'bare' }, 'So {"name": "look"}', [text('So {"name": "look"}')]],
  ['a thought and an answer', { hasThoughts: true }, '<think>\nHm.\n</think>\n\nYes.', [thought('Hm.'), text('Yes.')]],
  [
    'a thought that the prompt began',
    { hasThoughts: true, startsIn: 'thought' },
    '\nHm.\n</think>\n\nYes.',
    [thought('Hm.'), text('Yes.')],
  ],
  ['a thought that never ends', { hasThoughts: true }, '<think>Hm.', [thought('Hm.')]],
  ['an empty thought', { hasThoughts: true }, '<think>\n\n</think>\n\nYes.', [text('Yes.')]],
  ['no thought', { hasThoughts: true }, ' <b>Yes</b> <think>', [text(' <b>Yes</b> <think>')]],
  [
    'a thought and a call',
    { hasThoughts: true, tools: 'tagged' },
    `<think>Hm.</think>\n\n${TAGGED}`,
    [thought('Hm.'), look],
  ],
  [
    'a call in a thought',
    { hasThoughts: true, tools: 'tagged' },
    `<think>${TAGGED}</think>So.`,
    [thought(TAGGED), text('So.')],
  ],
  ['a forced call', { tools: 'tagged', startsIn: 'call' }, '{"name":"wait","arguments":{}}', [wait]],
  ['a forced list', { tools: 'listed', startsIn: 'call' }, ' [{"name":"wait","arguments":{}}]', [wait]],
  ['the first call alone', { tools: 'tagged', isOneCall: true }, `a${TAGGED}\n${TAGGED}b`, [text('a'), look]],
  ['calls where none are on offer', {}, TAGGED, [text(TAGGED)]],
]

describe('an answer with', () => {
  test.each(CASES)('%s is told apart, however it is cut', (_, over, answer, parts) => {
    expect(read(over, [answer])).toEqual(parts)
    expect(read(over, [...answer])).toEqual(parts)
    for (let cut = 1; cut < answer.length; cut++) {
      expect(read(over, [answer.slice(0, cut), answer.slice(cut)])).toEqual(parts)
    }
  })

  test('text flows before its end is known, but for what may begin a mark', () => {
    const parts = new AnswerParts(plan({ tools: 'tagged' }))
    expect(parts.push('Hello wor')).toEqual([text('Hello wor')])
    expect(parts.push('ld <tool')).toEqual([text('ld')])
    expect(parts.push('s> are')).toEqual([text(' <tools> are')])
  })

  test('anything at all that is neither call nor thought loses no character', () => {
    const piece = fc.constantFrom(
      '<tool_call>',
      '</tool_call>',
      '[TOOL_CALLS]',
      '[ARGS]',
      '<|python_tag|>',
      '<think>',
      '</think>',
      '{',
      '}',
      '[',
      ']',
      '"',
      '\\',
      '"name"',
      ':',
      '"look"',
      ',',
      ' ',
      '\n',
      'a',
      '<',
      'tool_call>',
      '{"name":"x"}',
    )
    const formats: (ToolFormat | undefined)[] = ['tagged', 'listed', 'bare', undefined]
    fc.assert(
      fc.property(fc.array(piece), fc.constantFrom(...formats), fc.boolean(), (pieces, tools, hasThoughts) => {
        const over = { ...(tools === undefined ? {} : { tools }), hasThoughts }
        const whole = read(over, [pieces.join('')])
        expect(read(over, pieces)).toEqual(whole)
        if (whole.some(({ type }) => type !== 'text')) return
        const kept = whole.map((part) => (part.type === 'text' ? part.text : '')).join('')
        const all = pieces.join('')
        const isThought = hasThoughts && /^\s*<think>/.test(all)
        expect(kept).toBe(isThought ? all.replace(/^\s*<think>\s*(<\/think>\s*)?/, '') : all)
      }),
      { numRuns: 3000 },
    )
  })
})

test('the end of an object is found as it grows, past quotes and escapes', () => {
  const whole = '{"a\\"}": [1, {"b": "]"}]} tail'
  const span = new JsonSpan(0)
  const found = Array.from(whole, (_, at) => span.end(whole.slice(0, at + 1))).find((end) => end !== undefined)
  expect(whole.slice(0, found)).toBe('{"a\\"}": [1, {"b": "]"}]}')
})
