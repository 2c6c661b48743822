// When the launcher calls a model ready: an engine that finishes requests has been reported by a live backend.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { AdminClient } from '../../../scripts/admin-client.ts'
import { waitUntilRoutable } from '../../../scripts/bootstrap.ts'

const closing: (() => void)[] = []
afterEach(() => {
  for (const close of closing.splice(0)) close()
})

/** A gateway's list of backends, one page after the other; the last stays. */
async function listing(pages: object[][]): Promise<{ admin: AdminClient; asked: () => number }> {
  let asked = 0
  const server = createServer((_, response) => {
    const data = pages[Math.min(asked++, pages.length - 1)]
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ data }))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(() => server.close())
  const { port } = server.address() as AddressInfo
  return { admin: new AdminClient(`http://127.0.0.1:${port}`, 'token'), asked: () => asked }
}

const engine = (role: string, draining = false, model = 'm') => ({ model, role, draining })
const backend = (state: string, ...models: object[]) => ({ state, models })

test('a model is ready once an engine that finishes requests is reported, and not before', async () => {
  const pages = [
    [],
    [backend('live')],
    [backend('live', engine('prefill'))],
    [backend('live', engine('prefill'), engine('decode', true))],
    [backend('stale', engine('decode'))],
    [backend('live', engine('decode', false, 'another'))],
    [backend('live', engine('prefill'), engine('decode'))],
  ]
  const { admin, asked } = await listing(pages)
  await waitUntilRoutable(admin, 'm', new AbortController().signal)
  expect(asked()).toBe(pages.length)
})

test('one engine that does everything is enough', async () => {
  const { admin, asked } = await listing([[backend('live', engine('both'))]])
  await waitUntilRoutable(admin, 'm', new AbortController().signal)
  expect(asked()).toBe(1)
})
