// The end of an upstream's stream over real connections: one that is read to its end serves the next request, and one that does not
// end is let go of.
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import type { Env } from '../../../../gateway/env.ts'
import type { ProviderConfig, Target } from '../../../../gateway/policy/plan.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { HttpProvider } from '../../../../gateway/providers/http.ts'
import type { OpenContext } from '../../../../gateway/providers/provider.ts'
import { readToEnd } from '../../../../gateway/providers/stream-end.ts'
import { vendorOf } from '../../../../gateway/providers/vendors.ts'
import { PLAIN_REQUEST } from '../support/plain-request.ts'

const TARGET: Target = { provider: 'p', model: 'm', contextTokens: 1000, price: undefined }
const ANSWER =
  'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n' +
  'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\ndata: [DONE]\n\n'

const stops: (() => void)[] = []
afterEach(() => {
  for (const stop of stops.splice(0)) stop()
})

/** An upstream that says all of its answer, and then does as `after` says. */
async function upstream(after: (response: ServerResponse) => void) {
  const seen = { connections: 0 }
  const server = createServer((request, response) => {
    request.resume()
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(ANSWER)
    after(response)
  })
  server.on('connection', () => {
    seen.connections++
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  stops.push(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  return { baseUrl: `http://127.0.0.1:${port}/v1`, seen }
}

/** All events of one request. @returns also what was left to be done behind it */
async function ask(baseUrl: string): Promise<{ events: ProviderEvent[]; behind: Promise<unknown>[] }> {
  const config: ProviderConfig = {
    name: 'p',
    kind: 'openai_compatible',
    baseUrl,
    reach: 'anywhere',
    keys: [],
    options: {},
    usageDialect: 'openai',
    cutoff: 'cancel',
  }
  const behind: Promise<unknown>[] = []
  const context: OpenContext = {
    env: {} as Env,
    requestId: '01a2b3c4-0000-7000-8000-000000000000',
    attempt: 1,
    tenant: 't',
    deadlineInMs: 1000,
    maxOutputTokens: 10,
    signal: new AbortController().signal,
    fetch,
    waitUntil: (work) => behind.push(work),
    nowMs: () => 0,
    random: () => 0,
    newId: () => 'id',
    backendsTried: new Set(),
    resumeWaitMs: 0,
  }
  const provider = new HttpProvider(config, vendorOf('openai_compatible'), { name: 'k', secret: 'none', weight: 1 })
  const opened = await provider.open(PLAIN_REQUEST, TARGET, context)
  if (!opened.ok) throw new Error(opened.error.message)
  const events: ProviderEvent[] = []
  for await (const batch of opened.value.events) events.push(...batch)
  return { events, behind }
}

describe('an upstream that ends its answer a moment after its last word', () => {
  test('is asked again over the same connection', async () => {
    const { baseUrl, seen } = await upstream(async (response) => {
      await sleep(20)
      response.end()
    })
    for (let round = 0; round < 5; round++) {
      const { events, behind } = await ask(baseUrl)
      expect(events.map(({ type }) => type)).toEqual(['accepted', 'delta', 'finish', 'usage'])
      await Promise.all(behind)
      // The client frees a connection a turn after its answer is over.
      await sleep(10)
    }
    expect(seen.connections).toBe(1)
  })

  test('is waited for by nobody: the answer is over at its last word', async () => {
    const held = Promise.withResolvers<ServerResponse>()
    const { baseUrl } = await upstream((response) => held.resolve(response))
    const { events, behind } = await ask(baseUrl)
    expect(events.at(-1)?.type).toBe('usage')
    expect(behind).toHaveLength(1)
    const response = await held.promise
    response.end()
    await Promise.all(behind)
  })
})

describe('an upstream that does not end its answer', () => {
  test('is let go of after a while', async () => {
    const closed = Promise.withResolvers<void>()
    const { baseUrl } = await upstream((response) => response.on('close', () => closed.resolve()))
    const { behind } = await ask(baseUrl)
    await Promise.all(behind)
    await closed.promise
  })

  test('is let go of where it goes on and on, and so is one that breaks off', async () => {
    let isCancelled = false
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(4096)),
      cancel: () => {
        isCancelled = true
      },
    })
    await readToEnd(endless.getReader())
    expect(isCancelled).toBe(true)
    const broken = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error('reset')) })
    await expect(readToEnd(broken.getReader())).resolves.toBeUndefined()
  })
})
