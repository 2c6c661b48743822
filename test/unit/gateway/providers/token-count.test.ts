// The call that counts a prompt: which key it is made with, and what of an answer is shown.
import { expect, test } from 'vitest'
import type { ProviderConfig, Target } from '../../../../gateway/policy/plan.ts'
import { countTokens } from '../../../../gateway/providers/token-count.ts'
import { PLAIN_REQUEST } from '../support/plain-request.ts'

const SECRET_PART = 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY'
const [FIRST, SECOND] = ['first-secret-key', `AKIDEXAMPLE:${SECRET_PART}`]

const TARGET: Target = { provider: 'p', model: 'claude-x', contextTokens: 1000, price: undefined }
const CONFIG: ProviderConfig = {
  name: 'p',
  kind: 'anthropic',
  baseUrl: 'https://vendor.example.com/v1',
  reach: 'public',
  keys: [FIRST, SECOND].map((secret, index) => ({ name: `k${index}`, secret, weight: 1 })),
  options: {},
  usageDialect: 'anthropic',
  cutoff: 'drain',
}

function count(answer: Response) {
  const asked: RequestInit[] = []
  const [, key] = CONFIG.keys
  if (key === undefined) throw new Error('too few keys')
  const fetch = async (_: string, init: RequestInit) => {
    asked.push(init)
    return answer
  }
  const context = { key, fetch, requestId: 'r', nowMs: () => 0 }
  return { asked, counted: countTokens(PLAIN_REQUEST, TARGET, CONFIG, context) }
}

test('is made with the key that was chosen', async () => {
  const { asked, counted } = count(Response.json({ input_tokens: 7 }))
  expect(await counted).toEqual({ ok: true, value: 7 })
  expect(new Headers(asked[0]?.headers).get('x-api-key')).toBe(SECOND)
})

test.each([SECOND, SECRET_PART])(
  'a refusal that quotes %s is told without it, however it is written',
  async (secret) => {
    const said = JSON.stringify({ type: 'error', error: { type: 'invalid_request_error', message: `bad ${secret}!` } })
    const { counted } = count(new Response(said.replaceAll('/', '\\u002f'), { status: 400 }))
    const result = await counted
    expect(result.ok).toBe(false)
    expect(JSON.stringify(result)).not.toContain(SECRET_PART)
    expect(result).toMatchObject({ error: { code: 'invalid_request', message: expect.stringContaining('[secret]') } })
  },
)
