// Rules on requests, apart from the network: which texts they may change, and how much text they look at.
import { describe, expect, test } from 'vitest'
import type { Job } from '../../../../gateway/attempts/job.ts'
import { hookOf, hooksFor, type StoredHook, type TextHook } from '../../../../gateway/guard/hook.ts'
import { checkInput } from '../../../../gateway/guard/input.ts'
import { HookBudget } from '../../../../gateway/guard/webhook.ts'
import { type ChatMessage, type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const BUDGET = new HookBudget(0)

function rule(stored: StoredHook): TextHook {
  const made = hookOf({ hookId: 'h', name: 'rule', stages: ['input'] }, stored)
  if (!made.ok) throw new Error(made.error.message)
  return made.value as TextHook
}
const pii = (action: 'mask' | 'block' | 'flag') => rule({ kind: 'pii', settings: { entities: ['email'], action } })
const slow = (action: 'mask' | 'flag') =>
  rule({
    kind: 'regex',
    settings: { patterns: ['a{1,31}a{1,31}b'], ignore_case: false, action, replacement: '' },
  })

const request = (messages: ChatMessage[]): InferenceRequest => ({
  model: 'm',
  input: { kind: 'chat', messages },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
})

const check = (asked: InferenceRequest, hook: TextHook) => {
  const principal = { orgId: 'o', projectId: 'p', keyPrefix: 'k' }
  return checkInput({ requestId: 'r', principal, request: asked } as unknown as Job, [hook], BUDGET)
}

const user = (text: string): ChatMessage => ({ role: 'user', content: [{ type: 'text', text }] })

const CONVERSATION = request([
  user('I am bob@example.com'),
  {
    role: 'assistant',
    content: [
      { type: 'thought', text: 'bob@example.com', seal: { by: 'x', value: 's' } },
      { type: 'refusal', text: 'no, bob@example.com' },
      { type: 'tool_call', id: 'c', name: 'mail', arguments: '{"to":"bob@example.com"}' },
    ],
  },
  { role: 'tool', toolCallId: 'c', content: [{ type: 'text', text: 'sent to bob@example.com' }] },
  { role: 'user', content: [{ type: 'image', source: { kind: 'url', url: 'https://bob@example.com/' } }] },
])

test('text is masked wherever it stands; thoughts under a seal, calls and images stay as they are', async () => {
  const checked = await check(CONVERSATION, pii('mask'))
  if (!checked.ok || checked.value.request.input.kind !== 'chat') throw new Error('was refused')
  expect(checked.value.masked).toBe(3)
  const [first, second, third, fourth] = checked.value.request.input.messages
  expect(first).toEqual(user('I am [EMAIL]'))
  expect(second?.content).toEqual([
    { type: 'thought', text: 'bob@example.com', seal: { by: 'x', value: 's' } },
    { type: 'refusal', text: 'no, [EMAIL]' },
    { type: 'tool_call', id: 'c', name: 'mail', arguments: '{"to":"bob@example.com"}' },
  ])
  expect(third).toMatchObject({ toolCallId: 'c', content: [{ type: 'text', text: 'sent to [EMAIL]' }] })
  expect(fourth).toEqual(CONVERSATION.input.kind === 'chat' && CONVERSATION.input.messages[3])
})

test('a rule that blocks looks at calls and thoughts as well', async () => {
  const call: ChatMessage = {
    role: 'assistant',
    content: [{ type: 'tool_call', id: 'c', name: 'mail', arguments: '{"to":"bob@example.com"}' }],
  }
  expect(await check(request([user('x'), call]), pii('block'))).toMatchObject({
    ok: false,
    error: { code: 'content_filtered' },
  })
  expect((await check(request([user('x')]), pii('block'))).ok).toBe(true)
})

test('prompts of completions and embeddings are texts too', async () => {
  const asked: InferenceRequest = {
    ...request([]),
    input: { kind: 'embedding', prompts: [{ text: 'bob@example.com' }, { text: 'x' }] },
  }
  expect(await check(asked, pii('mask'))).toMatchObject({
    ok: true,
    value: { masked: 1, request: { input: { prompts: [{ text: '[EMAIL]' }, { text: 'x' }] } } },
  })
})

test('more text than a rule can look at is refused; a rule that only flags lets it pass', async () => {
  const long = request([user('b'.repeat(200_000))])
  expect(await check(long, slow('mask'))).toMatchObject({ ok: false, error: { code: 'request_too_large' } })
  expect(await check(long, slow('flag'))).toMatchObject({ ok: true, value: { masked: 0 } })
  expect((await check(request([user('b'.repeat(50_000))]), slow('mask'))).ok).toBe(true)
})

test('a rule runs at its stages, for its project or for all', () => {
  const made = (stages: ('input' | 'output')[], projectId?: string) => ({
    ...pii('mask'),
    stages,
    ...(projectId === undefined ? {} : { projectId }),
  })
  const rules = [made(['input']), made(['output']), made(['input', 'output'], 'p1'), made(['input'], 'p2')]
  expect(hooksFor(rules, 'input', 'p1')).toEqual([rules[0], rules[2]])
  expect(hooksFor(rules, 'output', 'p2')).toEqual([rules[1]])
})

describe('a text that its caller cuts into parts of one message', () => {
  const parts = (...texts: string[]): ChatMessage => ({
    role: 'user',
    content: texts.map((text) => ({ type: 'text', text })),
  })
  const contentOf = async (message: ChatMessage, hook: TextHook) => {
    const checked = await check(request([message]), hook)
    if (!checked.ok || checked.value.request.input.kind !== 'chat') throw new Error('was refused')
    return { content: checked.value.request.input.messages[0]?.content, masked: checked.value.masked }
  }
  const word = (action: 'mask' | 'block') =>
    rule({
      kind: 'regex',
      settings: { patterns: ['\\bsecret\\b'], ignore_case: false, action, replacement: '[X]' },
    })

  test('is blocked where the parts make it together', async () => {
    const blocked = { ok: false, error: { code: 'content_filtered' } }
    expect(await check(request([parts('bob@exam', 'ple.com')]), pii('block'))).toMatchObject(blocked)
    const answered: ChatMessage = {
      role: 'assistant',
      content: [
        { type: 'text', text: 'bob@exam' },
        { type: 'thought', text: 'hm' },
        { type: 'text', text: 'ple.com' },
      ],
    }
    expect(await check(request([answered]), pii('block'))).toMatchObject(blocked)
    const apart: ChatMessage = {
      role: 'user',
      content: [
        { type: 'text', text: 'bob@exam' },
        { type: 'image', source: { kind: 'url', url: 'https://example.com/' } },
        { type: 'text', text: 'ple.com' },
      ],
    }
    expect((await check(request([apart]), pii('block'))).ok).toBe(true)
  })

  test('is blocked where one part makes it alone, whatever stands beside it', async () => {
    expect((await check(request([parts('x', 'secret', 'x')]), word('block'))).ok).toBe(false)
    expect(await contentOf(parts('x', 'secret', 'x'), word('mask'))).toEqual({
      content: parts('x', '[X]', 'x').content,
      masked: 1,
    })
  })

  test('is masked as one part, with the hint of the last', async () => {
    const message: ChatMessage = {
      role: 'user',
      content: [
        { type: 'text', text: 'To bob@exam', cache: { ttl: '5m' } },
        { type: 'text', text: 'ple.com, and ' },
        { type: 'text', text: 'ann@example.com', cache: { ttl: '1h' } },
      ],
    }
    expect(await contentOf(message, pii('mask'))).toEqual({
      content: [{ type: 'text', text: 'To [EMAIL], and [EMAIL]', cache: { ttl: '1h' } }],
      masked: 1,
    })
  })

  test('stays in its parts where nothing stands across them', async () => {
    const message = parts('to bob@example.com ', 'and no more')
    expect((await contentOf(message, pii('mask'))).content).toEqual(parts('to [EMAIL] ', 'and no more').content)
  })
})

test('the name of who speaks is looked at, and left out where it would have to be masked', async () => {
  const named: ChatMessage = { ...user('x'), name: 'bob@example.com' }
  expect(await check(request([named]), pii('block'))).toMatchObject({ ok: false, error: { code: 'content_filtered' } })
  expect(await check(request([named, { ...user('y'), name: 'Ann' }]), pii('mask'))).toMatchObject({
    ok: true,
    value: { masked: 1, request: { input: { messages: [user('x'), { ...user('y'), name: 'Ann' }] } } },
  })
  const masked = await check(request([named]), pii('mask'))
  expect(JSON.stringify(masked)).not.toContain('bob')
})

test('all rules of a request share the work: what is too much for the second of two is refused', async () => {
  const long = request([user('b'.repeat(60_000))])
  const checkBoth = (...hooks: TextHook[]) =>
    checkInput(
      { requestId: 'r', principal: { orgId: 'o', projectId: 'p', keyPrefix: 'k' }, request: long } as unknown as Job,
      hooks,
      BUDGET,
    )
  expect((await checkBoth(slow('mask'))).ok).toBe(true)
  expect(await checkBoth(slow('mask'), slow('mask'))).toMatchObject({ ok: false, error: { code: 'request_too_large' } })
  expect((await checkBoth(slow('mask'), slow('flag'))).ok).toBe(true)
})
