import { describe, expect, test } from 'vitest'
import type { LimitRule } from '../../../gateway/account/contract.ts'
import { denialToFailure, failureResponse } from '../../../gateway/errors.ts'
import { ERROR_CODES } from '../../../protocol/errors.ts'

const money: LimitRule = { scope: 'project', scopeId: 'p', meter: 'money', window: 'month', maxNanoUsd: 5_000_000_000n }

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

describe('a denial in words', () => {
  test('says which limit, how much and when again', () => {
    const rule: LimitRule = { scope: 'key', scopeId: 'k', meter: 'requests', window: 'minute', max: 3 }
    expect(denialToFailure({ reason: 'rate_limited', rule, retryAfterMs: 1500 })).toEqual({
      code: 'rate_limited',
      message: 'Rate limit reached: 3 requests per minute for this API key. Try again in 2 s.',
      retryAfterMs: 1500,
    })
    const concurrency: LimitRule = { scope: 'org', scopeId: 'o', meter: 'concurrency', max: 2 }
    expect(denialToFailure({ reason: 'concurrency_limited', rule: concurrency, running: 2 }).message).toBe(
      'Concurrency limit of 2 reached for this organisation: 2 requests are running. Wait for one of them to end.',
    )
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
    expect(denialToFailure({ reason: 'price_unknown', model: 'm' }).code).toBe('price_unknown')
  })
})
