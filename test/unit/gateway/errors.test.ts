import { describe, expect, test } from 'vitest'
import type { LimitRule } from '../../../gateway/account/limit.ts'
import { denialToFailure, errorDialectOf, failureResponse, failureStatus } from '../../../gateway/errors.ts'
import { ERROR_CODES } from '../../../protocol/errors.ts'

const where = { limitId: 'l', hard: true, timeZone: 'UTC' } as const
const money: LimitRule = {
  ...where,
  scope: 'project',
  scopeId: 'p',
  meter: 'money',
  window: 'month',
  maxNanoUsd: 5_000_000_000n,
}
const spent = { settledNanoUsd: 4_000_000_000n, heldNanoUsd: 500_000_000n, askNanoUsd: 600_000_000n }

describe('a failure as a response', () => {
  test.each(ERROR_CODES.map((code) => [code]))('%s has a status of 400 or more and the OpenAI shape', async (code) => {
    const response = failureResponse({ code, message: 'why' }, 'id-1')
    expect(response.status).toBeGreaterThanOrEqual(400)
    expect(await response.json()).toEqual({
      error: { message: 'why', type: expect.any(String), param: null, code: expect.any(String) },
    })
    expect(response.headers.get('x-request-id')).toBe('id-1')
    expect(response.headers.get('x-penstock-request-id')).toBe('id-1')
    expect(['true', 'false']).toContain(response.headers.get('x-should-retry'))
    expect(response.headers.has('retry-after')).toBe(false)
  })

  test.each([
    [0, '0', '0', 'true'],
    [1, '1', '1', 'true'],
    [999.2, '1', '1000', 'true'],
    [1001, '2', '1001', 'true'],
    [60_000, '60', '60000', 'true'],
    [60_001, '61', '60001', 'false'],
  ])('a wait of %d ms is rounded up, and one over a minute is not worth a retry', (retryAfterMs, s, ms, retry) => {
    const { headers } = failureResponse({ code: 'rate_limited', message: '', retryAfterMs }, 'id')
    expect(headers.get('retry-after')).toBe(s)
    expect(headers.get('retry-after-ms')).toBe(ms)
    expect(headers.get('x-should-retry')).toBe(retry)
  })

  test('carries the field at fault, a finer status and further headers', async () => {
    const response = failureResponse({ code: 'invalid_request', message: 'm', param: 'messages[0]' }, 'id', {
      status: 405,
      headers: { allow: 'GET' },
    })
    expect(response.status).toBe(405)
    expect(response.headers.get('allow')).toBe('GET')
    expect(await response.json()).toMatchObject({ error: { param: 'messages[0]' } })
  })
})

describe('a failure in the messages dialect', () => {
  test.each(ERROR_CODES.map((code) => [code]))('%s has its shape, its code and the id of the request', async (code) => {
    const failure = { code, message: 'why', param: 'model', kind: 'status' as const }
    const response = failureResponse(failure, 'id-1', { dialect: 'messages' })
    expect(response.status).toBe(failureStatus(code, 'messages'))
    expect(await response.json()).toEqual({
      type: 'error',
      error: { type: expect.any(String), message: 'why', details: { error_code: code, param: 'model' } },
      request_id: 'id-1',
    })
    expect(response.headers.get('request-id')).toBe('id-1')
  })

  test.each([
    ['invalid_request', 400, 'invalid_request_error'],
    ['invalid_api_key', 401, 'authentication_error'],
    ['budget_exhausted', 402, 'billing_error'],
    ['permission_denied', 403, 'permission_error'],
    ['model_not_found', 404, 'not_found_error'],
    ['request_too_large', 413, 'request_too_large'],
    ['rate_limited', 429, 'rate_limit_error'],
    ['internal', 500, 'api_error'],
    ['deadline_exceeded', 504, 'timeout_error'],
    ['overloaded', 529, 'overloaded_error'],
  ] as const)('%s is %d %s', async (code, status, type) => {
    const response = failureResponse({ code, message: 'why' }, 'id', { dialect: 'messages' })
    expect(response.status).toBe(status)
    expect(await response.json()).toMatchObject({ error: { type } })
  })

  test.each([
    ['/v1/messages', {}, 'messages'],
    ['/v1/messages/count_tokens', {}, 'messages'],
    ['/v1/messages/nothing', {}, 'messages'],
    ['/v1/messagesx', {}, 'openai'],
    ['/v1/models', {}, 'openai'],
    ['/v1/models/a/b', { 'anthropic-version': '2023-06-01' }, 'messages'],
    ['/v1/chat/completions', { 'anthropic-version': '2023-06-01' }, 'openai'],
  ])('%s with %j is answered in the dialect %s', (path, headers, dialect) => {
    expect(errorDialectOf(path, new Headers(headers))).toBe(dialect)
  })
})

describe('a denial in words', () => {
  test('says which limit, how much and when again', () => {
    const rule: LimitRule = { ...where, scope: 'key', scopeId: 'k', meter: 'requests', window: 'minute', max: 3 }
    const counts = { used: 1n, held: 2n, asked: 1n }
    expect(denialToFailure({ reason: 'rate_limited', rule, ...counts, retryAfterMs: 1500 })).toEqual({
      code: 'rate_limited',
      message: 'Rate limit reached: 3 requests per minute for this API key: 3 made. Try again in 2 s.',
      retryAfterMs: 1500,
    })
    expect(denialToFailure({ reason: 'rate_limited', rule: { ...rule, window: 'lifetime' }, ...counts })).toEqual({
      code: 'rate_limited',
      message: 'Rate limit reached: 3 requests in total for this API key: 3 made. The limit does not renew.',
    })
    const concurrency: LimitRule = { ...where, scope: 'org', scopeId: 'o', meter: 'concurrency', max: 2 }
    expect(denialToFailure({ reason: 'concurrency_limited', rule: concurrency, running: 2 }).message).toBe(
      'Concurrency limit of 2 reached for this organisation: 2 requests are running. Wait for one of them to end.',
    )
  })

  test('of tokens tells a window that is used up from a request that never fits', () => {
    const rule: LimitRule = {
      ...where,
      scope: 'end_user',
      scopeId: '*',
      model: 'small',
      meter: 'output_tokens',
      window: 'day',
      timeZone: 'Europe/Berlin',
      max: 1_000,
    }
    const denial = { reason: 'rate_limited', rule, used: 700n, held: 100n } as const
    expect(denialToFailure({ ...denial, asked: 500n, retryAfterMs: 61_000 })).toEqual({
      code: 'rate_limited',
      message:
        'Rate limit reached: 1000 output tokens per day (Europe/Berlin) for this end user and model small: 700 used, ' +
        '100 held by running requests, and this request may use up to 500. Try again in 61 s.',
      retryAfterMs: 61_000,
    })
    const never = denialToFailure({ ...denial, asked: 1_001n })
    expect(never.message).toContain('Lower max_tokens: waiting does not help.')
    expect(never.retryAfterMs).toBeUndefined()
    const { headers, status } = failureResponse(never, 'id')
    expect([status, headers.get('retry-after'), headers.get('x-should-retry')]).toEqual([429, null, 'false'])
    const input = denialToFailure({ ...denial, rule: { ...rule, meter: 'input_tokens' }, asked: 1_001n })
    expect(input.message).toContain('Shorten the input')
  })

  test.each(['org', 'project', 'team', 'user', 'key', 'end_user'] as const)('names whose limit it is: %s', (scope) => {
    const rule: LimitRule = { ...where, scope, scopeId: 'x', meter: 'requests', window: 'hour', max: 1 }
    const names = {
      org: 'organisation',
      project: 'project',
      team: 'team',
      user: 'user',
      key: 'API key',
      end_user: 'end user',
    }
    const { message } = denialToFailure({
      reason: 'rate_limited',
      rule,
      used: 1n,
      held: 0n,
      asked: 1n,
      retryAfterMs: 1,
    })
    expect(message).toContain(`for this ${names[scope]}:`)
  })

  test('of credit says what was granted and that waiting does not help', () => {
    const credit = { grantedNanoUsd: 5_000_000_000n, overdraftNanoUsd: 0n }
    const failure = denialToFailure({ reason: 'credit_exhausted', credit, ...spent })
    expect(failure).toEqual({
      code: 'budget_exhausted',
      message:
        'Prepaid credit of $5 is used up for this organisation: $4 spent, $0.5 held by running requests, and this ' +
        'request may cost up to $0.6. Add credit, or ask for less.',
    })
    expect(failureResponse(failure, 'id').headers.get('x-should-retry')).toBe('false')
    const overdrawn = { reason: 'credit_exhausted', credit: { ...credit, overdraftNanoUsd: 1n }, ...spent } as const
    expect(denialToFailure(overdrawn).message).toContain('$5 and an overdraft of $0.000000001')
  })

  test.each([
    ['idempotency_conflict', 'another'],
    ['idempotency_running', 'still running'],
    ['idempotency_answered', 'answered and charged'],
  ] as const)('of %s is a conflict that names the earlier request', (reason, words) => {
    const failure = denialToFailure({ reason, requestId: 'r-1' })
    expect(failure.code).toBe('conflict')
    expect(failure.message).toContain('r-1')
    expect(failure.message).toContain(words)
    expect(failureResponse(failure, 'id').status).toBe(409)
  })

  test('shows money exactly, down to the nano-dollar', () => {
    const failure = denialToFailure({
      reason: 'budget_exhausted',
      rule: money,
      settledNanoUsd: 4_999_999_999n,
      heldNanoUsd: 0n,
      askNanoUsd: 2n,
      resetAtMs: Date.UTC(2026, 11, 1),
    })
    expect(failure).toEqual({
      code: 'budget_exhausted',
      message:
        'Budget of $5 per month exhausted for this project: $4.999999999 spent, $0 held by running requests, and this ' +
        'request may cost up to $0.000000002. The budget renews at 2026-12-01T00:00:00.000Z.',
    })
  })

  test('of a revoked key is a wrong key, of an unreachable account a 503', () => {
    expect(denialToFailure({ reason: 'key_revoked' }).code).toBe('invalid_api_key')
    expect(denialToFailure({ reason: 'unavailable', retryAfterMs: 5 })).toMatchObject({
      code: 'unavailable',
      retryAfterMs: 5,
    })
    expect(denialToFailure({ reason: 'outbox_full', retryAfterMs: 5 })).toMatchObject({ code: 'unavailable' })
    expect(denialToFailure({ reason: 'request_closed' })).toMatchObject({ code: 'unavailable', retryAfterMs: 1000 })
    expect(denialToFailure({ reason: 'price_unknown', model: 'm' }).code).toBe('price_unknown')
    const endedAs = (status: 'ok' | 'upstream_error') =>
      denialToFailure({ reason: 'attempt_ended', status, isClosed: true }).code
    expect([endedAs('ok'), endedAs('upstream_error')]).toEqual(['unavailable', 'upstream_error'])
  })
})
