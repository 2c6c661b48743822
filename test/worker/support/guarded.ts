// A world whose requests pass guards: a vendor whose words a test sets, a tenant of its own for each test, and short ways to
// set guards and to read what came out. Owns the helpers; what is shown with them stands in the guards' tests.
import { expect } from 'vitest'
import { admin, type Json, newTenant } from './admin.ts'
import { readSse, World } from './path.ts'

export class Guarded {
  readonly world = new World()
  /** The answer of the vendor, piece by piece. */
  said: string[] = []
  orgId = ''
  #provider = ''

  get vendorHost(): string {
    return `${this.#provider}.example.com`
  }

  /** Makes the vendor and the model; once for all tests of a file. */
  async open(): Promise<void> {
    this.#provider = await this.world.provider(() => {
      const chunks = this.said.map((content) => ({ choices: [{ index: 0, delta: { content } }] }))
      const end = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }
      const counted = { choices: [], usage: { prompt_tokens: 5, completion_tokens: 3 } }
      const texts = [...chunks, end, counted].map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`)
      return new Response(inPieces([...texts, 'data: [DONE]\n\n']), {
        headers: { 'content-type': 'text/event-stream' },
      })
    })
    await this.world.catalog([{ provider: this.#provider, model: 'vendor-model', context_tokens: 4096 }])
  }

  /** A new tenant, and a vendor that says hello. */
  async begin(key: Record<string, unknown> = {}): Promise<void> {
    this.said = ['Hello.']
    this.world.calls.length = 0
    this.world.tenant = await newTenant(key)
    this.orgId = this.world.tenant.orgId
  }

  put(path: string, body: unknown) {
    return admin('PUT', `/organisations/${this.orgId}/${path}`, body)
  }

  /** Puts these content rules in force, in their order. */
  async rules(...hooks: Record<string, unknown>[]): Promise<Json[]> {
    const named = hooks.map((hook, index) => ({ name: `rule-${index}`, ...hook }))
    const answer = await this.put('guard-hooks', { hooks: named })
    expect([answer.status, answer.text]).toEqual([200, expect.any(String)])
    return answer.body.hooks
  }

  /** The vendor's own calls; a webhook's are others. */
  upstream() {
    return this.world.calls.filter(({ host }) => host === this.vendorHost)
  }

  /** Contents of the messages that the vendor saw, call by call. */
  sent(): Json[] {
    return this.upstream().map(({ body }) => (body as Json).messages.map((one: Json) => one.content))
  }

  async ask(over: Record<string, unknown> = {}, options: Parameters<World['chat']>[1] = {}) {
    const { response, settled } = await this.world.chat(over, options)
    const text = await response.text()
    await settled()
    const body: Json = text.startsWith('{') ? JSON.parse(text) : undefined
    const stream = body === undefined ? readSse(text) : undefined
    const words = stream?.data.map((one) => (one as Json).choices?.[0]?.delta?.content ?? '').join('')
    return {
      status: response.status,
      headers: response.headers,
      error: body?.error ?? (stream?.data.at(-1) as Json)?.error,
      text: words ?? body?.choices?.[0].message.content,
      done: stream?.done,
    }
  }
}

/** Each text comes as a chunk of its own. */
function inPieces(texts: string[]): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  const left = [...texts]
  return new ReadableStream({
    pull(controller) {
      const next = left.shift()
      if (next === undefined) controller.close()
      else controller.enqueue(encoder.encode(next))
    },
  })
}

export const user = (content: string) => ({ messages: [{ role: 'user', content }] })
