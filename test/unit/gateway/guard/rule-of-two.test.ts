import { describe, expect, test } from 'vitest'
import { CAPABILITIES, type Capability } from '../../../../gateway/guard/capability.ts'
import { capabilitiesOf, type ToolTags, toolsRefusal } from '../../../../gateway/guard/rule-of-two.ts'
import { type ChatMessage, type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const TAGS: ToolTags = {
  tags: [
    { pattern: 'read_file', capabilities: ['files'] },
    { pattern: 'http_*', capabilities: ['network'] },
    { pattern: 'http_local_*', capabilities: [] },
    { pattern: 'python', capabilities: ['code'] },
    { pattern: 'browser', capabilities: ['network', 'files'] },
  ],
  untagged: [],
}

const call = (name: string): ChatMessage => ({
  role: 'assistant',
  content: [{ type: 'tool_call', id: 'c', name, arguments: '{}' }],
})

function request(offered: string[], called: string[] = []): InferenceRequest {
  const messages: ChatMessage[] = [{ role: 'user', content: [{ type: 'text', text: 'x' }] }, ...called.map(call)]
  const tools = offered.length === 0 ? {} : { tools: offered.map((name) => ({ name })) }
  return { model: 'm', input: { kind: 'chat', messages }, sampling: NEUTRAL_SAMPLING, n: 1, stop: [], ...tools }
}

const refused = (asked: InferenceRequest, tags = TAGS, allowed?: Capability[]) => toolsRefusal(asked, tags, allowed)

test.each([
  ['read_file', ['files']],
  ['http_get', ['network']],
  ['http_local_get', []],
  ['http', []],
  ['calculator', []],
])('%s reaches %j: its own tag, else the longest beginning, else what untagged tools do', (name, expected) => {
  expect(capabilitiesOf(name, TAGS)).toEqual(expected)
})

describe('one run', () => {
  test.each([
    ['any two capabilities', request(['read_file', 'http_get', 'calculator'])],
    ['the same capability many times', request(['http_get', 'http_post'], ['http_put'])],
    ['no tools at all', request([])],
  ])('may combine %s', (_, asked) => {
    expect(refused(asked)).toBeUndefined()
  })

  test('may not combine three, and is told which tools bring which', () => {
    const refusal = refused(request(['read_file', 'http_get', 'python']))
    expect(refusal).toMatchObject({ code: 'permission_denied', param: 'tools' })
    for (const word of ['files (read_file)', 'network (http_get)', 'code (python)', 'at most 2'])
      expect(refusal?.message).toContain(word)
  })

  test('counts what was called earlier in its messages', () => {
    expect(refused(request(['python'], ['browser']))?.message).toContain('files (browser)')
    expect(refused(request([], ['browser', 'python']))?.code).toBe('permission_denied')
    expect(refused(request([], ['browser']))).toBeUndefined()
  })

  test('names a few of many tools, and of a long name its beginning', () => {
    const names = ['a', 'b', 'c', 'd'].map((letter) => `http_${letter.repeat(100)}`)
    const message = refused(request(['read_file', 'python', ...names]))?.message ?? ''
    expect(message).toContain('and 1 more')
    expect(message).not.toContain('a'.repeat(65))
  })
})

describe('a key with capabilities', () => {
  test('may use tools of these alone', () => {
    expect(refused(request(['read_file']), TAGS, ['files', 'code'])).toBeUndefined()
    expect(refused(request(['http_get']), TAGS, ['files', 'code'])?.message).toContain('files and code')
    expect(refused(request(['calculator']), TAGS, [])).toBeUndefined()
    expect(refused(request(['read_file']), TAGS, [])?.message).toContain('none of them')
  })
})

test('where untagged tools count as reaching everything, one of them alone is too much', () => {
  const strict: ToolTags = { ...TAGS, untagged: CAPABILITIES }
  expect(refused(request(['calculator']), strict)?.code).toBe('permission_denied')
  expect(refused(request(['read_file']), strict)).toBeUndefined()
})
