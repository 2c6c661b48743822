// An upstream's answer as text: no more than the bound, no wait behind what it declared.
import { expect, test } from 'vitest'
import { readLimited } from '../../../../gateway/providers/bounded-body.ts'

/** Stays open behind what it sends, unless it is told to end. */
function answer(parts: string[], headers: Record<string, string> = {}, ends = false) {
  const seen = { isCancelled: false }
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const part of parts) controller.enqueue(new TextEncoder().encode(part))
      if (ends) controller.close()
    },
    cancel() {
      seen.isCancelled = true
    },
  })
  return { response: new Response(body, { headers }), seen }
}

test('an answer of a declared length is over where that is reached', async () => {
  const { response, seen } = answer(['ab', 'c'], { 'content-length': '3' })
  expect(await readLimited(response, 100)).toBe('abc')
  expect(seen.isCancelled).toBe(true)
})

test('a length that counts packed bytes says nothing of the text', async () => {
  const { response } = answer(['ab', 'cd'], { 'content-length': '2', 'content-encoding': 'gzip' }, true)
  expect(await readLimited(response, 100)).toBe('abcd')
})

test('what is over the bound is dropped', async () => {
  const { response, seen } = answer(['abc', 'def'])
  expect(await readLimited(response, 4)).toBe('abcd')
  expect(seen.isCancelled).toBe(true)
})
