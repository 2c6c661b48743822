// The stream of the fleet: its places are few, and whoever has stopped reading does not keep one.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Env } from '../../../../gateway/env.ts'
import { fleetEvents } from '../../../../gateway/fleet/live.ts'

/** As many as an isolate has places. */
const PLACES = 32

const env = { FLEET: { getByName: () => ({ list: async () => [] }) } } as unknown as Env

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

async function open() {
  const response = fleetEvents(env, crypto.randomUUID())
  const reader = response.body?.getReader()
  if (reader === undefined) throw new Error('there is no body')
  const { value } = response.status === 200 ? await reader.read() : { value: undefined }
  return { status: response.status, reader, text: new TextDecoder().decode(value) }
}

test('a page that stops reading loses its place to another, and one that reads keeps it', async () => {
  const pages = await Promise.all(Array.from({ length: PLACES }, open))
  expect(pages.map(({ status }) => status)).toEqual(new Array(PLACES).fill(200))
  expect(pages[0]?.text).toContain('event: snapshot')
  expect((await open()).status).toBe(503)

  const kept = pages[0]
  const heard: string[] = []
  const listening = (async () => {
    for (;;) {
      const read = await kept?.reader.read()
      if (read === undefined || read.done) return
      heard.push(new TextDecoder().decode(read.value))
    }
  })()
  await vi.advanceTimersByTimeAsync(31_000)
  await expect(pages[1]?.reader.read()).rejects.toThrow('nothing was read')
  // Fifteen seconds apart: it hears that nothing has changed.
  expect(heard).toEqual([': the same\n\n', ': the same\n\n'])
  const others = await Promise.all(Array.from({ length: PLACES - 1 }, open))
  expect(others.map(({ status }) => status)).toEqual(new Array(PLACES - 1).fill(200))
  expect((await open()).status).toBe(503)

  await Promise.all([kept, ...others].map((one) => one?.reader.cancel()))
  await listening
  expect((await open()).status).toBe(200)
})
