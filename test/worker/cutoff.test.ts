// Answers that are cut off in their middle, under each policy of a provider: who reads on, what is counted, who pays.
import { env } from 'cloudflare:test'
import { exports } from 'cloudflare:workers'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { admin } from './support/admin.ts'
import { gate, readSse, World } from './support/path.ts'

const chunk = (content: string) => ({ choices: [{ index: 0, delta: { content } }] })
const finish = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }
const usage = { prompt_tokens: 50, completion_tokens: 40, total_tokens: 90 }
type Piece = Record<string, unknown> | '[DONE]' | 'break' | Promise<void> | (() => void)

const END: Piece[] = [finish, { choices: [], usage }, '[DONE]']

/** A vendor that streams its pieces and notes whether the gateway let go of it before the end. */
class Vendor {
  isLetGo = false
  readonly #pieces: Piece[]

  constructor(...pieces: Piece[]) {
    this.#pieces = pieces
  }

  readonly handle = (request: Request): Response => {
    const pieces = [...this.#pieces]
    const letGo = () => {
      this.isLetGo = true
    }
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        request.signal.addEventListener('abort', () => {
          letGo()
          try {
            controller.error(request.signal.reason)
          } catch {
            // Over already.
          }
        })
      },
      async pull(controller) {
        for (;;) {
          const piece = pieces.shift()
          if (piece === undefined) return controller.close()
          if (piece === 'break') return controller.error(new Error('connection reset'))
          if (typeof piece === 'function') {
            piece()
            continue
          }
          if (piece instanceof Promise) {
            await piece
            continue
          }
          const text = piece === '[DONE]' ? piece : JSON.stringify(piece)
          controller.enqueue(new TextEncoder().encode(`data: ${text}\n\n`))
          return
        }
      },
      cancel: letGo,
    })
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  }
}

async function worldOf(vendor: Vendor, cutoff: string): Promise<World> {
  const world = new World()
  const name = await world.provider(vendor.handle)
  const base_url = `https://${name}.example.com/v1`
  const put = await admin('PUT', `/providers/${name}`, { kind: 'openai_compatible', base_url, cutoff })
  expect(put.status).toBe(200)
  await world.catalog([{ provider: name, model: 'vendor-model', context_tokens: 4096 }])
  return world
}

async function rawUsage(world: World): Promise<unknown> {
  const { orgId } = await world.ownTenant()
  const text = 'select raw_usage from usage_attempts where org_id = $1'
  const { rows } = await connect(env).run({ text, params: [orgId] })
  return rows.map(([raw]) => (raw === null ? null : JSON.parse(String(raw))))
}

async function readUntil(reader: ReadableStreamDefaultReader<Uint8Array>, text: string): Promise<void> {
  const decoder = new TextDecoder()
  let seen = ''
  while (!seen.includes(text)) {
    const { done, value } = await reader.read()
    if (done) throw new Error(`the answer ended before ${text}: ${seen}`)
    seen += decoder.decode(value, { stream: true })
  }
}

/** The deployed Worker, reached over the runtime's own connection. */
const worker = (exports as unknown as { default: Fetcher }).default

afterEach(() => {
  vi.restoreAllMocks()
})

/** Streams until the second word has come, then hangs up. */
async function leaveInTheMiddle(world: World): Promise<() => Promise<void>> {
  const client = new AbortController()
  const { response, settled } = await world.chat({ stream: true }, { signal: client.signal })
  if (response.body === null) throw new Error('the answer has no body')
  await readUntil(response.body.getReader(), 'two')
  client.abort()
  return settled
}

describe('drain', () => {
  test('reads on without the client and charges the true count, with the provider’s own words', async () => {
    const rest = gate()
    const vendor = new Vendor(chunk('one'), chunk(' two'), rest.opened, chunk(' three'), ...END)
    const world = await worldOf(vendor, 'drain')
    const settled = await leaveInTheMiddle(world)
    expect(vendor.isLetGo).toBe(false)
    rest.open()
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      { status: 'client_cancelled', charge: 'customer', source: 'provider', input: 50, output: 40 },
    ])
    expect(requests).toEqual([{ status: 'client_cancelled', attempts: 1 }])
    expect(await rawUsage(world)).toEqual([usage])
    expect(holds).toBe(0)
  })

  test('goes on over a real connection after the runtime has told that the client is gone', async () => {
    const rest = gate()
    const vendor = new Vendor(chunk('one'), chunk(' two'), rest.opened, ...END)
    const world = await worldOf(vendor, 'drain')
    const { key, orgId } = await world.ownTenant()
    vi.spyOn(globalThis, 'fetch').mockImplementation((input, init) => world.fetch(input as RequestInfo, init))
    const lines: string[] = []
    vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line))
    const client = new AbortController()
    const response = await worker.fetch('http://gateway.test/v1/chat/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key}` },
      body: JSON.stringify({ model: world.model, messages: [{ role: 'user', content: 'x' }], stream: true }),
      signal: client.signal,
    })
    if (response.body === null) throw new Error('the answer has no body')
    await readUntil(response.body.getReader(), 'two')
    client.abort()
    await vi.waitFor(() => expect(lines.join()).toContain('"outcome":"cancelled"'), { timeout: 5000 })
    expect(vendor.isLetGo).toBe(false)
    rest.open()
    await vi.waitFor(async () => expect((await env.ACCOUNT.getByName(orgId).inspect()).openHolds).toEqual([]), {
      timeout: 5000,
    })
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'client_cancelled', charge: 'customer', source: 'provider', input: 50, output: 40 },
    ])
  })

  test('of an answer in one piece reads on as well', async () => {
    const [begun, rest] = [gate(), gate()]
    const vendor = new Vendor(chunk('one'), begun.open, rest.opened, chunk(' two'), ...END)
    const world = await worldOf(vendor, 'drain')
    await world.ownTenant()
    const client = new AbortController()
    const sending = world.chat({}, { signal: client.signal })
    await begun.opened
    client.abort()
    const { settled } = await sending
    expect(vendor.isLetGo).toBe(false)
    rest.open()
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'client_cancelled', charge: 'customer', source: 'provider', input: 50, output: 40, httpStatus: 499 },
    ])
  })

  test('lets the client go at its deadline and settles when the rest has come', async () => {
    const rest = gate()
    const vendor = new Vendor(chunk('one'), rest.opened, chunk(' two'), ...END)
    const world = await worldOf(vendor, 'drain')
    const { response, settled } = await world.chat({ stream: true }, { headers: { 'x-penstock-deadline-ms': '2000' } })
    const { data, done } = readSse(await response.text())
    expect(done).toBe(false)
    expect(data.at(-1)).toMatchObject({ error: { code: 'deadline_exceeded' } })
    expect((await world.recorded()).holds).toBe(1)
    rest.open()
    await settled()
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'deadline_exceeded', source: 'provider', input: 50, output: 40 }])
    expect(holds).toBe(0)
  })

  test('keeps what was counted where the provider breaks off meanwhile', async () => {
    const rest = gate()
    const vendor = new Vendor(chunk('one'), chunk(' two'), rest.opened, chunk(' three'), 'break')
    const world = await worldOf(vendor, 'drain')
    const settled = await leaveInTheMiddle(world)
    rest.open()
    await settled()
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      { status: 'client_cancelled', charge: 'customer', source: 'stream_partial', output: 3 },
    ])
    expect(await rawUsage(world)).toEqual([null])
    expect(holds).toBe(0)
  })

  test('has nothing to read before the provider has answered: the call is ended', async () => {
    const world = await worldOf(new Vendor(), 'drain')
    let isAborted = false
    const [host] = [...world.hosts.keys()]
    world.hosts.set(host ?? '', (request) => {
      request.signal.addEventListener('abort', () => {
        isAborted = true
      })
      return new Promise<Response>(() => {})
    })
    await world.ownTenant()
    const client = new AbortController()
    const sending = world.chat({ stream: true }, { signal: client.signal })
    await vi.waitFor(() => expect(world.calls).toHaveLength(1))
    client.abort()
    const { settled } = await sending
    await settled()
    expect(isAborted).toBe(true)
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'client_cancelled', input: 0, output: 0, costNanoUsd: 0n }])
    expect(holds).toBe(0)
  })
})

test('cancel ends the call and charges what was counted', async () => {
  const vendor = new Vendor(chunk('one'), chunk(' two'), new Promise(() => {}))
  const world = await worldOf(vendor, 'cancel')
  const settled = await leaveInTheMiddle(world)
  await settled()
  await vi.waitFor(() => expect(vendor.isLetGo).toBe(true))
  const { attempts, holds } = await world.recorded()
  expect(attempts).toMatchObject([
    { status: 'client_cancelled', charge: 'customer', source: 'stream_partial', output: 2 },
  ])
  expect(attempts[0]?.input).toBeGreaterThan(0)
  expect(attempts[0]?.costNanoUsd).toBeGreaterThan(0n)
  expect(holds).toBe(0)
})

test('cancel takes the prompt’s length from the provider where it has told it', async () => {
  const soFar = { ...chunk(' two'), usage: { prompt_tokens: 50, completion_tokens: 1 } }
  const vendor = new Vendor(chunk('one'), soFar, new Promise(() => {}))
  const world = await worldOf(vendor, 'cancel')
  const settled = await leaveInTheMiddle(world)
  await settled()
  expect((await world.recorded()).attempts).toMatchObject([{ source: 'stream_partial', input: 50, output: 2 }])
})

test('cancel_free ends the call, and the gateway bears what was counted: the loss stands in the row', async () => {
  const vendor = new Vendor(chunk('one'), chunk(' two'), new Promise(() => {}))
  const world = await worldOf(vendor, 'cancel_free')
  const settled = await leaveInTheMiddle(world)
  await settled()
  await vi.waitFor(() => expect(vendor.isLetGo).toBe(true))
  const { attempts, holds } = await world.recorded()
  expect(attempts).toMatchObject([
    { status: 'client_cancelled', charge: 'absorbed', source: 'stream_partial', output: 2 },
  ])
  expect(attempts[0]?.costNanoUsd).toBeGreaterThan(0n)
  expect(holds).toBe(0)
})

test.each(['drain', 'cancel', 'cancel_free'])(
  '%s changes nothing about an answer that came to its end',
  async (cutoff) => {
    const world = await worldOf(new Vendor(chunk('one'), chunk(' two'), ...END), cutoff)
    const { response, settled } = await world.chat({ stream: true })
    expect(readSse(await response.text()).done).toBe(true)
    await settled()
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'ok', charge: 'customer', source: 'provider', input: 50, output: 40 }])
    expect(await rawUsage(world)).toEqual([usage])
    expect(holds).toBe(0)
  },
)

test('a provider that falls silent was not cut off: under drain, too, its call is ended', async () => {
  const vendor = new Vendor(chunk('one'), new Promise(() => {}))
  const world = new World({ idleMs: 1_000 })
  const name = await world.provider(vendor.handle)
  const base_url = `https://${name}.example.com/v1`
  await admin('PUT', `/providers/${name}`, { kind: 'openai_compatible', base_url, cutoff: 'drain' })
  await world.catalog([{ provider: name, model: 'vendor-model', context_tokens: 4096 }])
  const { response, settled } = await world.chat({ stream: true })
  expect(await response.text()).toContain('upstream_error')
  await settled()
  await vi.waitFor(() => expect(vendor.isLetGo).toBe(true))
  expect((await world.recorded()).attempts).toMatchObject([{ status: 'upstream_error', source: 'stream_partial' }])
})
