// What errors of OpenAI-compatible servers mean, by the bodies and headers that vendors send.
import { describe, expect, test } from 'vitest'
import { inBandFailure, statusFailure } from '../../../../gateway/providers/openai-failure.ts'
import { limitReset } from '../../../../gateway/providers/retry-after.ts'

const fail = (status: number, body: unknown, headers: Record<string, string> = {}) =>
  statusFailure(status, typeof body === 'string' ? body : JSON.stringify(body), new Headers(headers), 0)

describe('a model that wants the route of the vendor that is not called', () => {
  test('is explained where tools and reasoning do not go together', () => {
    for (const advice of [
      'Please use /v1/responses instead.',
      "To use function tools, use /v1/responses or set it to 'none'.",
    ]) {
      const message = `Function tools with reasoning_effort are not supported for m in /v1/chat/completions. ${advice}`
      const failure = fail(400, { error: { message, type: 'invalid_request_error', param: 'reasoning_effort' } })
      expect(failure).toMatchObject({ code: 'invalid_request', kind: 'refused', param: 'reasoning' })
      expect(failure.message).toMatch(/reasoning effort to 'none'/)
      expect(failure.message).not.toContain('responses')
    }
  })

  test('is registered in vain where it has no chat route at all', () => {
    const message = 'This model is only supported in v1/responses and not in v1/chat/completions.'
    expect(fail(404, { error: { message } })).toMatchObject({ code: 'upstream_error', kind: 'unknown_model' })
  })
})

describe('a prompt that is too long is told from other faults in the words of', () => {
  test.each([
    [
      'OpenAI',
      { error: { message: "This model's maximum context length is 8192 tokens.", code: 'context_length_exceeded' } },
    ],
    [
      'vLLM',
      {
        object: 'error',
        message: "This model's maximum context length is 2048 tokens. However, you requested 2100",
        type: 'BadRequestError',
        code: 400,
      },
    ],
    [
      'Mistral',
      {
        object: 'error',
        message: 'Prompt contains 40000 tokens ... too large for model with 32768 maximum context length',
        type: 'invalid_request_error',
      },
    ],
    [
      'Groq',
      {
        error: {
          message: 'Please reduce the length of the messages or completion.',
          type: 'invalid_request_error',
          code: 'context_length_exceeded',
        },
      },
    ],
    ['Fireworks', { error: { message: 'The prompt is too long: 9000, model maximum context length: 8192' } }],
    ['Together', { error: { message: 'Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193.' } }],
    [
      'xAI',
      {
        code: 'Client specified an invalid argument',
        error: "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
      },
    ],
    [
      'llama.cpp',
      {
        error: {
          code: 400,
          message: 'the request exceeds the available context size',
          type: 'exceed_context_size_error',
        },
      },
    ],
    ['OpenRouter', { error: { code: 400, message: "This endpoint's maximum context length is 8192 tokens." } }],
  ])('%s', (_, body) => {
    expect(fail(400, body)).toMatchObject({ code: 'context_length_exceeded', kind: 'context_length' })
  })
})

describe('a prompt that content rules refused is told from other faults in the words of', () => {
  test.each([
    [
      'Azure',
      400,
      {
        error: {
          message: 'The response was filtered',
          code: 'content_filter',
          status: 400,
          innererror: { code: 'ResponsibleAIPolicyViolation' },
        },
      },
    ],
    [
      'Azure by its inner error',
      400,
      { error: { message: 'refused', code: null, innererror: { code: 'ResponsibleAIPolicyViolation' } } },
    ],
    ['OpenAI', 400, { error: { message: 'rejected', code: 'content_policy_violation' } }],
    [
      'DeepSeek',
      400,
      { error: { message: 'Content Exists Risk', type: 'invalid_request_error', code: 'invalid_request_error' } },
    ],
    [
      'OpenRouter',
      403,
      { error: { code: 403, message: 'Input was flagged', metadata: { reasons: ['violence'], flagged_input: '…' } } },
    ],
    [
      'xAI',
      403,
      { code: 'The caller does not have permission', error: 'Content violates usage guidelines. Failed check: SAFETY' },
    ],
  ])('%s', (_, status, body) => {
    expect(fail(status, body)).toMatchObject({ code: 'content_filtered', kind: 'content_filter' })
  })
})

test.each([
  [400, { error: { message: 'bad', param: 'n' } }, 'invalid_request', 'refused'],
  [400, { error: { message: 'Model Not Exist' } }, 'upstream_error', 'unknown_model'],
  [400, { detail: [{ loc: ['body', 'top_k'], msg: 'Extra inputs are not permitted' }] }, 'invalid_request', 'refused'],
  [401, '', 'upstream_error', 'credentials'],
  [402, '', 'upstream_error', 'credentials'],
  [403, 'Forbidden', 'upstream_error', 'credentials'],
  [404, '{"error":{"code":"DeploymentNotFound"}}', 'upstream_error', 'unknown_model'],
  [408, '', 'upstream_error', 'status'],
  [413, '<html>', 'request_too_large', 'refused'],
  [
    413,
    { error: { message: 'Request too large on tokens per minute', code: 'rate_limit_exceeded' } },
    'overloaded',
    'rate_limited',
  ],
  [422, { message: 'no' }, 'invalid_request', 'refused'],
  [429, '', 'overloaded', 'rate_limited'],
  [429, { error: { message: 'quota', code: 'insufficient_quota' } }, 'upstream_error', 'credentials'],
  [498, '', 'overloaded', 'overloaded'],
  [500, 'boom', 'upstream_error', 'status'],
  [503, '', 'overloaded', 'overloaded'],
  [504, '', 'upstream_error', 'status'],
  [529, '', 'overloaded', 'overloaded'],
])('status %i with %j is %s of the kind %s', (status, body, code, kind) => {
  expect(fail(status, body)).toMatchObject({ code, kind })
})

test('the field at fault and its fault are told as a validator found them', () => {
  expect(fail(422, { detail: [{ loc: ['body', 'top_k'], msg: 'Extra inputs are not permitted' }] }).message).toBe(
    'The provider refused the request: body.top_k: Extra inputs are not permitted',
  )
  expect(fail(400, { error: { message: 'bad', param: 'n' } }).param).toBe('n')
})

test('a router is quoted with the words of the server behind it', () => {
  const raw = JSON.stringify({ error: { message: 'temperature must be at most 1' } })
  const failure = fail(400, { error: { code: 400, message: 'Provider returned error', metadata: { raw } } })
  expect(failure.message).toContain('temperature must be at most 1')
})

describe('how long to wait', () => {
  test.each([
    [{ 'retry-after-ms': '250', 'retry-after': '9' }, 250],
    [{ 'retry-after': '9' }, 9000],
    [{ 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-reset-requests': '6m0s' }, 360_000],
    [{ 'x-ratelimit-remaining-tokens': '0', 'x-ratelimit-reset-tokens': '20ms' }, 20],
    [{ 'x-ratelimit-remaining-tokens': '0', 'x-ratelimit-reset-tokens': '2m59.56s' }, 179_560],
    [{ 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-reset-requests': '10' }, 10_000],
    [{ 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': '5000000000000' }, 86_400_000],
    [{ 'x-ratelimit-remaining-requests': '5', 'x-ratelimit-reset-requests': '6m0s' }, undefined],
    [{ 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-reset-requests': 'soon' }, undefined],
    [{}, undefined],
  ])('is read out of %j as %s ms', (headers, ms) => {
    expect(fail(429, '', headers as unknown as Record<string, string>).retryAfterMs).toBe(ms)
  })

  test('is the longest of the limits that are used up', () => {
    const headers = new Headers({
      'x-ratelimit-remaining-requests': '0',
      'x-ratelimit-reset-requests': '1s',
      'x-ratelimit-remaining-tokens': '0',
      'x-ratelimit-reset-tokens': '1h2m',
    })
    expect(limitReset(headers, 0)).toBe(3_720_000)
  })

  test('is read out of the words where no header says it', () => {
    const message = 'Rate limit reached for tokens per min (TPM). Please try again in 1.242s.'
    expect(fail(429, { error: { message, code: 'rate_limit_exceeded' } }).retryAfterMs).toBe(1242)
  })

  test('is not read out of anything for a key that waiting does not mend', () => {
    expect(fail(401, '', { 'retry-after': '9' }).retryAfterMs).toBeUndefined()
  })
})

describe('an error inside an answer', () => {
  test.each([
    [{ error: { message: 'boom' } }, 'upstream_error', 'in_band'],
    [{ error: { code: 429, message: 'slow down' } }, 'overloaded', 'rate_limited'],
    [{ error: { type: 'overloaded_error', message: 'full' } }, 'overloaded', 'overloaded'],
    [{ error: { code: 502, message: 'gone' } }, 'upstream_error', 'in_band'],
    [{ error: { code: 'context_length_exceeded', message: 'long' } }, 'context_length_exceeded', 'context_length'],
    [{ error: { code: 'content_filter', message: 'no' } }, 'content_filtered', 'content_filter'],
  ])('%j is %s of the kind %s', (raw, code, kind) => {
    expect(inBandFailure(raw, 'in_band')).toMatchObject({ code, kind })
  })
})
