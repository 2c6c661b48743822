// The pure parts: pauses, breakers, budgets, and what an answer that is none means.
import { describe, expect, it } from 'vitest'
import { Breaker } from '../../../sdk/src/breaker.ts'
import { pauseMs, readRetryAfter } from '../../../sdk/src/retry-after.ts'
import { RetryBudget } from '../../../sdk/src/retry-budget.ts'
import { inBandVerdict, verdictOf } from '../../../sdk/src/verdict.ts'

const OURS = { 'x-penstock-request-id': 'req_1', 'x-request-id': 'req_1' }
const body = (code: string) => JSON.stringify({ error: { message: 'words', code } })
const gateway = (status: number, code: string, headers: Record<string, string> = {}) =>
  verdictOf(new Response(null, { status, headers: { ...OURS, ...headers } }), body(code), true, 0)

describe('Retry-After', () => {
  it.each([
    [{ 'retry-after-ms': '1500' }, 1500],
    [{ 'retry-after': '2' }, 2000],
    [{ 'retry-after': '0.5' }, 500],
    [{ 'retry-after': 'Thu, 01 Jan 1970 00:00:30 GMT' }, 20_000],
    [{ 'retry-after': 'Thu, 01 Jan 1970 00:00:01 GMT' }, 0],
    [{ 'retry-after': 'soon' }, undefined],
    [{ 'retry-after-ms': '-5', 'retry-after': '1' }, 1000],
    [{}, undefined],
  ])('%j means %s ms', (headers, expected) => {
    expect(readRetryAfter(new Headers(headers as Record<string, string>), 10_000)).toBe(expected)
  })

  it('is never undercut, and jitter is added on top', () => {
    expect(pauseMs(0, 3000, 0)).toBe(3000)
    expect(pauseMs(0, undefined, 0.5)).toBe(250)
    expect(pauseMs(10, undefined, 0.999)).toBeLessThanOrEqual(8000)
  })
})

describe('a refusal of the gateway', () => {
  it.each([
    [401, 'invalid_api_key', 'authentication', false, false],
    [429, 'insufficient_quota', 'budget_exhausted', false, false],
    [402, 'budget_exhausted', 'budget_exhausted', false, false],
    [429, 'rate_limit_exceeded', 'rate_limited', true, false],
    [400, 'context_length_exceeded', 'context_length', false, false],
    [503, 'no_target', 'overloaded', true, false],
    [502, 'upstream_error', 'provider_failed', true, false],
    [503, 'unavailable', 'gateway_unreachable', true, true],
    [500, 'internal_error', 'gateway_unreachable', true, true],
  ])('HTTP %i %s is %s', (status, code, expected, retryable, isGatewayDown) => {
    expect(gateway(status, code)).toMatchObject({ code: expected, retryable, isGatewayDown, requestId: 'req_1' })
  })

  it('with a 5xx and no id of ours is of what stands before it, and the gateway is down', () => {
    const edge = verdictOf(new Response(null, { status: 503 }), '<html>', true, 0)
    expect(edge).toMatchObject({ code: 'gateway_unreachable', origin: 'gateway', isGatewayDown: true })
  })

  it('with a 4xx never means that the gateway is down, whoever says it', () => {
    for (const status of [400, 401, 402, 403, 404, 409, 413, 422, 429]) {
      expect(verdictOf(new Response(null, { status }), '', true, 0).isGatewayDown).toBe(false)
    }
  })

  it('is not tried again where it says so', () => {
    expect(gateway(503, 'no_target', { 'x-should-retry': 'false' }).retryable).toBe(false)
  })

  it('tells its code in the messages dialect too', () => {
    const text = JSON.stringify({
      type: 'error',
      error: { type: 'overloaded_error', message: 'm', details: { error_code: 'no_target' } },
    })
    expect(verdictOf(new Response(null, { status: 529, headers: OURS }), text, true, 0)).toMatchObject({
      code: 'overloaded',
    })
    expect(inBandVerdict(text, true)).toMatchObject({ code: 'overloaded', message: 'm' })
  })
})

describe('a refusal of a direct provider', () => {
  it('never says anything about the gateway', () => {
    for (const status of [400, 429, 500, 503]) {
      expect(verdictOf(new Response(null, { status }), body('unavailable'), false, 0).isGatewayDown).toBe(false)
    }
  })

  it('is final where the provider has no credit left', () => {
    expect(verdictOf(new Response(null, { status: 429 }), body('insufficient_quota'), false, 0)).toMatchObject({
      code: 'budget_exhausted',
      retryable: false,
    })
  })
})

describe('a breaker', () => {
  it('opens after failures, lets one probe through after its rest, and closes when it answers', () => {
    const breaker = new Breaker()
    for (let failure = 0; failure < 3; failure++) breaker.ended(true, 1000)
    expect(breaker.state(1000)).toBe('open')
    expect(breaker.admit(2000)).toBe(false)
    expect(breaker.state(6000)).toBe('half_open')
    expect(breaker.admit(6000)).toBe(true)
    expect(breaker.admit(6001)).toBe(false)
    breaker.ended(false, 6100)
    expect(breaker.state(6100)).toBe('closed')
  })

  it('stays open where the probe fails, and hands the probe on where it said nothing', () => {
    const breaker = new Breaker()
    for (let failure = 0; failure < 3; failure++) breaker.ended(true, 0)
    breaker.admit(5000)
    breaker.ended(undefined, 5100)
    expect(breaker.admit(5200)).toBe(true)
    breaker.ended(true, 5300)
    expect(breaker.state(5400)).toBe('open')
    expect(breaker.state(10_300)).toBe('half_open')
  })

  it('forgets what is older than its window', () => {
    const breaker = new Breaker()
    breaker.ended(true, 0)
    breaker.ended(true, 0)
    breaker.ended(true, 40_000)
    expect(breaker.state(40_000)).toBe('closed')
  })
})

describe('the budget', () => {
  it('gives a burst of ten, then a tenth of the calls', () => {
    const budget = new RetryBudget()
    expect(Array.from({ length: 12 }, () => budget.spend()).filter(Boolean)).toHaveLength(10)
    for (let call = 0; call < 10; call++) budget.earn()
    expect(budget.spend()).toBe(true)
    expect(budget.spend()).toBe(false)
  })
})
