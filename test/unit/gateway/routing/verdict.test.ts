import { describe, expect, test } from 'vitest'
import { ModelPolicy } from '../../../../gateway/policy/model-policy.ts'
import { verdictOf } from '../../../../gateway/routing/verdict.ts'
import { ERROR_CODES, type Failure, mayFallOver, UPSTREAM_FAULT_KINDS } from '../../../../protocol/errors.ts'

const policy = ModelPolicy.parse({})
const of = (over: Partial<Failure>, made = policy, hadContent = false) =>
  verdictOf({ code: 'upstream_error', message: 'x', ...over }, made, { isFleet: false, hadContent })

describe('a fault of the target', () => {
  test.each([
    ['connect', 'any', false, true, 'failed', 'none'],
    ['status', 'any', false, true, 'failed', 'none'],
    ['broken_off', 'any', false, true, 'failed', 'none'],
    ['in_band', 'any', false, true, 'failed', 'none'],
    ['ok_with_error', 'any', false, true, 'failed', 'none'],
    ['overloaded', 'any', false, true, 'failed', 'none'],
    ['head_timeout', 'any', false, false, 'failed', 'none'],
    ['first_token_timeout', 'any', false, false, 'failed', 'none'],
    ['stall', 'any', false, false, 'failed', 'none'],
    ['malformed', 'any', false, false, 'failed', 'none'],
    ['rate_limited', 'any', true, true, 'none', 'limited'],
    ['credentials', 'any', true, false, 'none', 'refused'],
    ['unknown_model', 'any', false, false, 'rest', 'none'],
  ] as const)(
    '%s: next %s, other key %s, same again %s, target %s, key %s',
    (kind, next, otherKey, sameAgain, target, key) => {
      expect(of({ kind })).toEqual({ next, otherKey, sameAgain, target, key })
    },
  )

  test('without a kind: a provider’s counts as one of its statuses, own backends have their own memory', () => {
    expect(of({})).toEqual(of({ kind: 'status' }))
    for (const code of ['engine_lost', 'backend_lost', 'no_target', 'overloaded'] as const)
      expect(of({ code })).toMatchObject({ next: 'any', sameAgain: false, target: 'none' })
  })
})

test('a fault of own backends is held against no target and not waited for, whatever its kind', () => {
  for (const kind of UPSTREAM_FAULT_KINDS) {
    const failure = { code: 'backend_lost', message: 'x', kind } as const
    const verdict = verdictOf(failure, policy, { isFleet: true, hadContent: false })
    expect(verdict).toEqual({ next: 'any', otherKey: false, sameAgain: false, target: 'none', key: 'none' })
  }
})

describe('a fault found in the request', () => {
  const wishes = [
    ['content_filtered', 'content_filter', 'content_filter', 'any'],
    ['context_length_exceeded', 'context_length', 'context_length', 'larger_window'],
    ['invalid_request', 'refused', 'refused', 'any'],
  ] as const

  test.each(wishes)('%s stays the caller’s, unless the policy names it', (code, kind, name, next) => {
    const wishing = ModelPolicy.parse({ fallback_on: [name] })
    for (const failure of [{ code }, { code, kind }]) {
      expect(of(failure).next).toBe('none')
      expect(of(failure, wishing)).toMatchObject({ next, target: 'none', key: 'none', sameAgain: false })
      // It was computed: every target would do so again.
      expect(of(failure, wishing, true).next).toBe('none')
    }
  })

  test('a cascade may escalate what a content filter refused', () => {
    const made = ModelPolicy.parse({ cascade: { escalate_on: ['content_filter'] } })
    expect(of({ code: 'content_filtered' }, made).next).toBe('any')
  })
})

test('what no target can help is never tried again and held against nobody', () => {
  const wishing = ModelPolicy.parse({ fallback_on: ['content_filter', 'context_length', 'refused'] })
  const asked = new Set(['invalid_request', 'content_filtered', 'context_length_exceeded'])
  for (const code of ERROR_CODES.filter((one) => !mayFallOver(one) && !asked.has(one)))
    expect(of({ code }, wishing)).toEqual({
      next: 'none',
      otherKey: false,
      sameAgain: false,
      target: 'none',
      key: 'none',
    })
})

test('every kind has a verdict under every code', () => {
  for (const code of ERROR_CODES)
    for (const kind of UPSTREAM_FAULT_KINDS) expect(of({ code, kind }).next === 'none').toBe(!mayFallOver(code))
})
