// What each provider's recorded HTTP errors mean to a caller, to routing and to the breakers.
import { describe, expect, test } from 'vitest'
import { UPSTREAM_FAULT_KINDS } from '../../protocol/errors.ts'
import { failureOf } from './provider.ts'
import { readRecording } from './recording.ts'
import { PROVIDERS } from './vendors/all.ts'

for (const promised of PROVIDERS) {
  describe(promised.title, () => {
    test.each(promised.errors)('$fixture is $code, $kind', ({ fixture, says = '', ...expected }) => {
      const failure = failureOf(promised, readRecording(`${promised.folder}/${fixture}`))
      expect(failure).toMatchObject(expected)
      expect(failure.retryAfterMs).toBe(expected.retryAfterMs)
      expect(failure.message).toContain(says)
      expect(failure.message.length).toBeLessThan(800)
    })

    test.each([400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 425, 429, 500, 502, 503, 504, 522, 529, 302, 204])(
      'status %i with the page of some proxy has a code and a kind',
      (status) => {
        for (const text of [
          '',
          '<html>no</html>',
          '{"error":5}',
          '[]',
          'null',
          '{"error":{"message":{}}}',
          '{"message":7}',
        ]) {
          const recording = { status, headers: new Headers(), contentType: 'text/html', text }
          const failure = failureOf(promised, {
            ...recording,
            bytes: new Uint8Array(0),
            isFramed: false,
            encode: () => new Uint8Array(0),
          })
          expect(UPSTREAM_FAULT_KINDS).toContain(failure.kind)
          expect(failure.message).toMatch(/./)
          // Only what the request says is the caller's fault.
          if (![400, 413, 422].includes(status)) expect(['upstream_error', 'overloaded']).toContain(failure.code)
        }
      },
    )

    test.each([429, 503])('status %i waits as long as the header asks, in each of its forms', (status) => {
      const wait = (headers: Record<string, string>) => {
        const recording = { status, headers: new Headers(headers), contentType: 'application/json', text: '{}' }
        return failureOf(promised, {
          ...recording,
          bytes: new Uint8Array(0),
          isFramed: false,
          encode: () => new Uint8Array(0),
        }).retryAfterMs
      }
      expect(wait({ 'retry-after': '7' })).toBe(7000)
      expect(wait({ 'retry-after': 'Sun, 22 Nov 2026 12:00:30 GMT' })).toBe(30_000)
      expect(wait({ 'retry-after': 'Sun, 22 Nov 2026 11:00:00 GMT' })).toBe(0)
      expect(wait({ 'retry-after-ms': '250', 'retry-after': '1' })).toBe(250)
      expect(wait({ 'retry-after': 'soon' })).toBeUndefined()
      expect(wait({})).toBeUndefined()
    })
  })
}
