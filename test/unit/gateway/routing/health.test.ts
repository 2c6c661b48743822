// Keys, repeats, waits, speeds: what an isolate remembers of its targets, and what follows from it.
import { describe, expect, test } from 'vitest'
import { ModelPolicy } from '../../../../gateway/policy/model-policy.ts'
import type { ProviderKey, Target } from '../../../../gateway/policy/plan.ts'
import { BACKOFF_BASE_MS, BACKOFF_MAX_MS, retryWaitMs, WAIT_MAX_MS } from '../../../../gateway/routing/backoff.ts'
import { FAILURES_IN_ROW } from '../../../../gateway/routing/breaker.ts'
import { Health, KEY_REFUSED_MS, UNKNOWN_MODEL_MS } from '../../../../gateway/routing/health.ts'
import { chooseKey, type KeyStanding } from '../../../../gateway/routing/keys.ts'
import { RETRIES_MIN, RETRY_SHARE, RetryBudget } from '../../../../gateway/routing/retry-budget.ts'
import {
  expectedMs,
  measuredFirstContent,
  measuredRate,
  SPEED_FORGOTTEN_MS,
  TYPICAL_OUTPUT_TOKENS,
} from '../../../../gateway/routing/speed.ts'
import { verdictOf } from '../../../../gateway/routing/verdict.ts'
import type { Failure } from '../../../../protocol/errors.ts'

const T = 1_700_000_000_000
const target: Target = { provider: 'p', model: 'm', contextTokens: 100, price: undefined }
const other: Target = { ...target, model: 'n' }
const key = (name: string, over: Partial<ProviderKey> = {}): ProviderKey => ({
  name,
  secret: `s-${name}`,
  weight: 1,
  ...over,
})
const failing = (health: Health, used: ProviderKey, failure: Partial<Failure>, atMs = T) => {
  const full: Failure = { code: 'upstream_error', message: 'x', ...failure }
  health.failed(
    target,
    used,
    verdictOf(full, ModelPolicy.parse({}), { isFleet: false, hadContent: false }),
    full.retryAfterMs,
    atMs,
  )
}

describe('the choice of a key', () => {
  const keys = [key('a', { weight: 3 }), key('b'), key('c')]
  const well = (): KeyStanding => ({ standing: 'closed', untilMs: 0 })
  const name = (choice: ReturnType<typeof chooseKey>) =>
    choice === undefined ? undefined : 'key' in choice ? choice.key.name : choice.untilMs

  test('is by weight among those that are well and were not tried', () => {
    const drawn = Array.from({ length: 10 }, (_, index) => name(chooseKey(keys, well, new Set(), index / 10)))
    expect(drawn).toEqual(['a', 'a', 'a', 'a', 'a', 'a', 'b', 'b', 'c', 'c'])
    expect(name(chooseKey(keys, well, new Set(['a', 'c']), 0.99))).toBe('b')
    expect(chooseKey(keys, well, new Set(['a', 'b', 'c']), 0)).toBeUndefined()
  })

  test('falls on a resting one only where none is well, and on a barred one never', () => {
    const standing = (a: KeyStanding, b: KeyStanding) => (one: ProviderKey) =>
      one.name === 'a' ? a : one.name === 'b' ? b : { standing: 'barred' as const, untilMs: T + 900 }
    const resting = { standing: 'resting', untilMs: T + 50 } as const
    const barred = { standing: 'barred', untilMs: T + 100 } as const
    expect(name(chooseKey(keys, standing(resting, well()), new Set(), 0))).toBe('b')
    expect(name(chooseKey(keys, standing(resting, barred), new Set(), 0))).toBe('a')
    expect(name(chooseKey(keys, standing(barred, { ...barred, untilMs: T + 700 }), new Set(), 0))).toBe(T + 100)
  })
})

describe('what an isolate remembers', () => {
  test('a limit bars the key for that model until the time named, and for no other model', () => {
    const health = new Health()
    failing(health, key('a'), { code: 'overloaded', kind: 'rate_limited', retryAfterMs: 3_000 })
    expect(health.keyStanding('p', key('a'), 'm', T + 2_999).standing).toBe('barred')
    expect(health.keyStanding('p', key('a'), 'm', T + 3_000).standing).toBe('half_open')
    expect(health.keyStanding('p', key('a'), 'n', T).standing).toBe('closed')
    expect(health.targetStanding(target, T)).toBe('closed')
  })

  test('a limit without a time only puts the key behind the others', () => {
    const health = new Health()
    failing(health, key('a'), { code: 'overloaded', kind: 'rate_limited' })
    expect(health.keyStanding('p', key('a'), 'm', T + 1).standing).toBe('resting')
  })

  test('a refused key rests for every model, and a renewed one under its name does not', () => {
    const health = new Health()
    failing(health, key('a'), { kind: 'credentials' })
    expect(health.keyStanding('p', key('a'), 'n', T + KEY_REFUSED_MS - 1).standing).toBe('resting')
    expect(health.keyStanding('p', key('a', { secret: 'new' }), 'n', T).standing).toBe('closed')
    health.succeeded(target, key('a'), T + 1)
    expect(health.keyStanding('p', key('a'), 'm', T + 1).standing).toBe('closed')
  })

  test('a model that the provider does not know rests, another one of the provider does not', () => {
    const health = new Health()
    failing(health, key('a'), { kind: 'unknown_model' })
    expect(health.targetStanding(target, T + UNKNOWN_MODEL_MS - 1)).toBe('resting')
    expect(health.targetStanding(other, T)).toBe('closed')
  })

  test('a row of failures opens the target, one probe goes out, its success closes it', () => {
    const health = new Health()
    for (let index = 0; index < FAILURES_IN_ROW; index++) failing(health, key('a'), { kind: 'connect' })
    expect(health.targetStanding(target, T)).toBe('resting')
    expect(health.targetStanding(target, T + 60_000)).toBe('half_open')
    health.began(target, key('a'), false, T + 60_000)
    expect(health.targetStanding(target, T + 60_001)).toBe('resting')
    health.succeeded(target, key('a'), T + 60_002)
    expect(health.targetStanding(target, T + 60_002)).toBe('closed')
  })

  test('open attempts are counted until they end, once each', () => {
    const health = new Health()
    const [first, second] = [health.began(target, undefined, false, T), health.began(target, undefined, true, T)]
    expect(health.inFlight(target)).toBe(2)
    first()
    first()
    expect(health.inFlight(target)).toBe(1)
    second()
    expect(health.inFlight(target)).toBe(0)
  })
})

describe('repeats', () => {
  test('stay within a share of the requests of the last seconds, or a few', () => {
    const budget = new RetryBudget()
    const taken = (atMs: number) => Array.from({ length: 100 }, () => budget.takeRetry(atMs)).filter(Boolean).length
    expect(taken(T)).toBe(RETRIES_MIN)
    for (let index = 0; index < 200; index++) budget.noteRequest(T + 1000)
    expect(taken(T + 1000)).toBe(200 * RETRY_SHARE - RETRIES_MIN)
    expect(taken(T + 9_999)).toBe(0)
    // The first few have left the window.
    expect(taken(T + 10_999)).toBe(RETRIES_MIN)
    expect(taken(T + 60_000)).toBe(RETRIES_MIN)
  })

  test('wait anything up to a bound that doubles, and at least the time named', () => {
    expect(retryWaitMs(1, undefined, 0)).toBe(0)
    expect(retryWaitMs(1, undefined, 0.999)).toBeLessThan(BACKOFF_BASE_MS)
    expect(retryWaitMs(3, undefined, 0.5)).toBe(2 * BACKOFF_BASE_MS)
    expect(retryWaitMs(30, undefined, 1)).toBe(BACKOFF_MAX_MS)
    expect(retryWaitMs(1, 1_000, 0)).toBe(1_000)
    expect(retryWaitMs(1, 1_000, 0.9)).toBeGreaterThan(1_000)
    expect(retryWaitMs(1, WAIT_MAX_MS + 1, 0)).toBeUndefined()
  })
})

describe('a speed', () => {
  test('predicts an answer of ordinary length from first content and rate', () => {
    const speed = measuredRate(measuredFirstContent(undefined, 400, T), 100, T)
    expect(expectedMs(speed, T)).toBe(400 + (TYPICAL_OUTPUT_TOKENS / 100) * 1000)
    expect(expectedMs(undefined, T)).toBeUndefined()
  })

  test('follows what is measured, old measurements count less, and very old ones not at all', () => {
    const slow = measuredFirstContent(undefined, 1000, T)
    const soon = measuredFirstContent(slow, 100, T + 1)
    const later = measuredFirstContent(slow, 100, T + 300_000)
    expect(soon.firstContentMs).toBeGreaterThan(800)
    expect(later.firstContentMs).toBeLessThan(120)
    expect(expectedMs(slow, T + SPEED_FORGOTTEN_MS + 1)).toBeUndefined()
  })
})
