import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type Breaker,
  beginProbe,
  CLOSED,
  COOL_DOWN_MAX_MS,
  COOL_DOWN_MS,
  FAILURES_IN_ROW,
  failed,
  REST_MAX_MS,
  rest,
  standingOf,
  succeeded,
} from '../../../../gateway/routing/breaker.ts'

const T = 1_000_000
const repeat = (breaker: Breaker, times: number, step: (breaker: Breaker, index: number) => Breaker) =>
  Array.from({ length: times }).reduce<Breaker>((now, _, index) => step(now, index), breaker)
const broken = (atMs = T) => repeat(CLOSED, FAILURES_IN_ROW, (now) => failed(now, atMs))

describe('a breaker', () => {
  test('rests after a row of failures, and a success before the last one starts the row anew', () => {
    const almost = repeat(CLOSED, FAILURES_IN_ROW - 1, (now) => failed(now, T))
    expect(standingOf(almost, T)).toBe('closed')
    expect(standingOf(failed(almost, T), T)).toBe('resting')
    expect(standingOf(failed(succeeded(almost, T), T), T)).toBe('closed')
  })

  test('rests where half of many recent results are failures, never five in a row', () => {
    const mixed = (failures: number) =>
      repeat(CLOSED, 40, (now, index) => (index % 10 < failures ? failed(now, T) : succeeded(now, T)))
    expect(standingOf(mixed(3), T)).toBe('closed')
    const alternating = repeat(CLOSED, 40, (now, index) => (index % 2 === 0 ? succeeded(now, T) : failed(now, T)))
    expect(standingOf(alternating, T)).toBe('resting')
  })

  test('forgets failures of long ago', () => {
    const old = repeat(CLOSED, 15, (now, index) => (index % 3 === 0 ? succeeded(now, T) : failed(now, T)))
    const later = repeat(old, 10, (now, index) =>
      index % 3 === 0 ? failed(now, T + 600_000) : succeeded(now, T + 600_000),
    )
    expect(standingOf(later, T + 600_000)).toBe('closed')
  })

  test('lets one request look after its rest, while the others stay away', () => {
    const now = T + COOL_DOWN_MS
    expect(standingOf(broken(), now - 1)).toBe('resting')
    expect(standingOf(broken(), now)).toBe('half_open')
    const probing = beginProbe(broken(), now)
    expect(standingOf(probing, now)).toBe('resting')
    expect(standingOf(succeeded(probing, now + 5), now + 5)).toBe('closed')
  })

  test('rests twice as long each time the look fails, up to a bound', () => {
    let breaker = broken()
    let now = T
    const rests: number[] = []
    for (let round = 0; round < 8; round++) {
      const until = breaker.rest?.untilMs ?? 0
      rests.push(until - now)
      now = until
      breaker = failed(beginProbe(breaker, now), now)
    }
    expect(rests.slice(0, 4)).toEqual([1, 2, 4, 8].map((times) => times * COOL_DOWN_MS))
    expect(Math.max(...rests)).toBe(COOL_DOWN_MAX_MS)
  })

  test('a look that never ends does not keep the next one from looking', () => {
    const now = T + COOL_DOWN_MS
    expect(standingOf(beginProbe(broken(), now), now + 30_000)).toBe('half_open')
  })

  test('failing as the last resort makes no rest longer', () => {
    const resting = broken()
    expect(failed(resting, T + 1).rest).toEqual(resting.rest)
  })

  test('is barred for the time that was named, within a bound', () => {
    const told = rest(CLOSED, T, 2_000, true)
    expect(standingOf(told, T + 1_999)).toBe('barred')
    expect(standingOf(told, T + 2_000)).toBe('half_open')
    expect(rest(CLOSED, T, 86_400_000, true).rest?.untilMs).toBe(T + REST_MAX_MS)
    // A shorter time said later does not shorten it, and a soft rest does not lift the bar.
    expect(rest(told, T, 500, false)).toBe(told)
    expect(standingOf(rest(told, T, 5_000, false), T + 100)).toBe('barred')
  })

  test('whatever happens, it comes back: a success closes it, and no rest is longer than the bound', () => {
    const step = fc.record({ kind: fc.constantFrom('fail', 'succeed', 'probe', 'rest'), afterMs: fc.nat(60_000) })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        let breaker = CLOSED
        let now = T
        for (const { kind, afterMs } of steps) {
          now += afterMs
          if (kind === 'fail') breaker = failed(breaker, now)
          if (kind === 'succeed') breaker = succeeded(breaker, now)
          if (kind === 'probe') breaker = beginProbe(breaker, now)
          if (kind === 'rest') breaker = rest(breaker, now, afterMs * 10, afterMs % 2 === 0)
          if (kind === 'succeed') expect(standingOf(breaker, now)).toBe('closed')
          expect((breaker.rest?.untilMs ?? now) - now).toBeLessThanOrEqual(REST_MAX_MS)
        }
        expect(['closed', 'half_open']).toContain(standingOf(breaker, now + REST_MAX_MS))
      }),
    )
  })
})
