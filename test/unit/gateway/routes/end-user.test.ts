import { describe, expect, test } from 'vitest'
import { parseChat, parseCompletion, parseEmbedding } from '../../../../gateway/routes/openai-requests.ts'

const DIALECTS = {
  chat: (over: object) => parseChat({ model: 'm', messages: [{ role: 'user', content: 'x' }], ...over }),
  completion: (over: object) => parseCompletion({ model: 'm', prompt: 'x', ...over }),
  embedding: (over: object) => parseEmbedding({ model: 'm', input: 'x', ...over }),
}

describe.each(Object.entries(DIALECTS))('the end user of a %s request', (_, parse) => {
  const endUser = (over: object) => {
    const parsed = parse(over)
    return parsed.ok ? (parsed.value.request.endUser ?? 'none') : parsed.error
  }

  test('is its safety identifier, else its user, else nobody', () => {
    expect(endUser({ user: 'a', safety_identifier: 'b' })).toBe('b')
    expect(endUser({ user: 'a', safety_identifier: null })).toBe('a')
    expect(endUser({ user: '', safety_identifier: 'Grüße-☕' })).toBe('Grüße-☕')
    for (const nobody of [{}, { user: null }, { user: '' }, { user: '', safety_identifier: '' }]) {
      expect(endUser(nobody)).toBe('none')
    }
  })

  test('is taken whole or refused by name, never cut', () => {
    expect(endUser({ user: 'x'.repeat(256) })).toBe('x'.repeat(256))
    for (const field of ['user', 'safety_identifier']) {
      for (const wrong of ['x'.repeat(257), 'a\u0000b', 'a\nb', 'a\ud800']) {
        expect(endUser({ [field]: wrong })).toMatchObject({ code: 'invalid_request', param: field })
      }
    }
    for (const wrong of [7, true, ['a'], { id: 'a' }]) {
      expect(endUser({ safety_identifier: wrong })).toMatchObject({
        code: 'invalid_request',
        param: 'safety_identifier',
      })
    }
  })

  test('is not quoted where it is refused', () => {
    const parsed = parse({ user: 'secret-customer\u0000' })
    expect(parsed.ok ? '' : parsed.error.message).not.toContain('secret-customer')
  })
})
