// Goal: whatever a server says, and however it spells it, no key of the operator comes out.
import { describe, expect, test } from 'vitest'
import type { Env } from '../../../../gateway/env.ts'
import type { ProviderConfig, Target } from '../../../../gateway/policy/plan.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { HttpProvider } from '../../../../gateway/providers/http.ts'
import type { OpenContext } from '../../../../gateway/providers/provider.ts'
import { cleanFailure, cleanText, secretsIn } from '../../../../gateway/providers/secret-text.ts'
import { vendorOf } from '../../../../gateway/providers/vendors.ts'
import { PLAIN_REQUEST } from '../support/plain-request.ts'

const SECRET = 'AbCd/Ef+0123456789/GHIJ+klmnopqrstuv=wx"yz\\'
const unicode = (text: string) =>
  text.replace(/[^A-Za-z]/g, (c) => `\\u${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`)
const json = JSON.stringify(SECRET).slice(1, -1)
const SPELLINGS: [string, string][] = [
  ['as it is', SECRET],
  ['as JSON', json],
  ['as JSON with escaped slashes', json.replaceAll('/', '\\/')],
  ['with Unicode escapes', unicode(SECRET)],
  ['with Unicode escapes in lower case', unicode(SECRET).toLowerCase().replaceAll('abcd', 'AbCd')],
  ['as JSON within JSON', JSON.stringify(json.replaceAll('/', '\\/')).slice(1, -1)],
  ['as a part of a URL', encodeURIComponent(SECRET)],
]

describe('a key in a text', () => {
  const exact = SPELLINGS.filter(([name]) => !name.endsWith('lower case'))
  test.each(exact)('is found %s', (_, spelled) => {
    expect(cleanText(`key <${spelled}> refused`, secretsIn(SECRET))).toBe('key <[secret]> refused')
  })

  test('is found where only its beginning is left at the end', () => {
    expect(cleanText(`wrong: ${SECRET.slice(0, 20)}`, secretsIn(SECRET))).toBe('wrong: [secret]')
    expect(cleanText('wrong: AbC', secretsIn(SECRET))).toBe('wrong: AbC')
  })

  test('is looked for in its long parts too, where it has several', () => {
    const long = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY'
    const secrets = secretsIn(`AKIAIOSFODNN7EXAMPLE:${long}`)
    const cleaned = cleanText(`AKIAIOSFODNN7EXAMPLE ${long.replaceAll('/', '\\/')}`, secrets)
    expect(cleaned).toBe('AKIAIOSFODNN7EXAMPLE [secret]')
    expect(secretsIn('')).toEqual([])
  })

  test('is taken from the message and the parameter of a failure, and nothing else is', () => {
    const failure = {
      code: 'invalid_request',
      message: `no: ${SECRET}`,
      param: `a.${SECRET}`,
      kind: 'refused',
    } as const
    expect(cleanFailure(failure, secretsIn(SECRET))).toEqual({
      code: 'invalid_request',
      message: 'no: [secret]',
      param: 'a.[secret]',
      kind: 'refused',
    })
    expect(cleanText('\\'.repeat(100_000), secretsIn(SECRET))).toHaveLength(100_000)
  })
})

const TARGET: Target = { provider: 'p', model: 'm', contextTokens: 1000, price: undefined }

function context(answer: () => Response): OpenContext {
  return {
    env: {} as Env,
    requestId: '01a2b3c4-0000-7000-8000-000000000000',
    attempt: 1,
    tenant: 't',
    deadlineInMs: 1000,
    maxOutputTokens: 10,
    signal: new AbortController().signal,
    fetch: async () => answer(),
    waitUntil: () => {},
    nowMs: () => 0,
    random: () => 0,
    newId: () => 'id',
    backendsTried: new Set(),
    resumeWaitMs: 0,
  }
}

const KINDS = ['openai', 'anthropic', 'gemini', 'bedrock', 'azure_openai', 'openai_compatible'] as const
type Kind = (typeof KINDS)[number]

async function opened(kind: Kind, answer: () => Response) {
  const config: ProviderConfig = {
    name: 'p',
    kind,
    baseUrl: 'https://vendor.test/v1',
    reach: 'public',
    keys: [],
    options: { region: 'eu-central-1' },
    usageDialect: 'openai',
    cutoff: 'cancel',
  }
  const provider = new HttpProvider(config, vendorOf(kind), { name: 'k', secret: SECRET, weight: 1 })
  return provider.open(PLAIN_REQUEST, TARGET, context(answer))
}

/** Errors of each vendor's shape; every text in them quotes the key. */
const errorOf = (spelled: string) =>
  `{"type":"error","error":{"type":"invalid_request_error","status":"INVALID_ARGUMENT","code":400,"message":"bad ${spelled}",` +
  `"param":"${spelled}"},"message":"bad ${spelled}"}`

describe.each(KINDS)('a server of kind %s', (kind) => {
  // Lower case turns other letters of the key, too.
  const valid = SPELLINGS.filter(([name]) => name !== 'as it is' && !name.endsWith('lower case'))

  test.each(valid)('that quotes its key %s in a refusal tells it to nobody', async (_, spelled) => {
    const result = await opened(kind, () => new Response(errorOf(spelled), { status: 400 }))
    if (result.ok) throw new Error('an error was taken for an answer')
    expect(result.error.message).toContain('[secret]')
    expect(JSON.stringify(result.error)).not.toContain('klmnop')
  })

  test.each(valid)('that quotes its key %s in place of an answer tells it to nobody', async (_, spelled) => {
    const headers = { 'content-type': 'application/json' }
    const result = await opened(kind, () => new Response(errorOf(spelled), { headers }))
    if (!result.ok) throw new Error('the answer is refused before it is read')
    const events: ProviderEvent[] = []
    for await (const batch of result.value.events) events.push(...batch)
    expect(events.at(-1)?.type).toBe('error')
    expect(JSON.stringify(events)).not.toContain('klmnop')
  })
})

test('a key in the middle of a stream, in its usage and in its error, is told to nobody', async () => {
  const spelled = json.replaceAll('/', '\\/')
  const usage = `{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"note":"${spelled}"}`
  const lines = [
    '{"choices":[{"index":0,"delta":{"content":"x"}}]}',
    `{"choices":[],"usage":${usage}}`,
    errorOf(spelled),
  ]
  const body = lines.map((line) => `data: ${line}\n\n`).join('')
  const result = await opened('openai', () => new Response(body, { headers: { 'content-type': 'text/event-stream' } }))
  if (!result.ok) throw new Error('refused')
  const events: ProviderEvent[] = []
  for await (const batch of result.value.events) events.push(...batch)
  expect(events.map(({ type }) => type)).toContain('usage')
  expect(events.at(-1)).toMatchObject({ type: 'error', failure: { message: expect.stringContaining('[secret]') } })
  expect(JSON.stringify(events)).not.toContain('klmnop')
})

test('bytes that are no event yet are a sign of life: an empty batch each', async () => {
  const chunks = [
    ': ping\n\n',
    'data: {"choices":[{"index":0,"delta":',
    '{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
  ]
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(new TextEncoder().encode(chunk))
      controller.close()
    },
  })
  const result = await opened('openai', () => new Response(body, { headers: { 'content-type': 'text/event-stream' } }))
  if (!result.ok) throw new Error('refused')
  const counts: number[] = []
  for await (const batch of result.value.events) counts.push(batch.length)
  expect(counts.slice(0, 2)).toEqual([0, 0])
  expect(counts.at(-1)).toBeGreaterThan(0)
})
