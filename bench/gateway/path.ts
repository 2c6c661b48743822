// The whole path under load: client → gateway → an upstream that answers at once. Owns the load from Node and the times a
// client sees; the load, the gateway, Postgres and the upstream share the machine, so this is what all of them can do.
import { Agent, request as httpRequest } from 'node:http'
import { Worker } from 'node:worker_threads'
import { z } from 'zod'
import type { Latency } from './measure.ts'
import { GatewayStack } from './stack.ts'
import { quantile } from './statistics.ts'

export type PathRound = {
  /** Whole answers per second at PATH_CLIENTS clients, with usual limits. */
  requests: number
  /** One request at a time, from sending to the last byte. */
  upstream: Latency
  withoutLimits: Latency
  withLimits: Latency
}

export const PATH_CLIENTS = 64
export const ANSWER_TOKENS = 16
const MODEL = 'bench'
const PROVIDER = 'bench-vendor'
const WARM_UP = 50

const Identified = z.object({ id: z.string() })
const NewKey = z.object({ id: z.string(), key: z.string() })

export class PathBench {
  readonly stack: GatewayStack
  /** Base URL up to and with `/v1`. */
  readonly upstreamUrl: string
  readonly #upstream: Worker
  readonly #unlimitedKey: string
  readonly #limitedKey: string

  private constructor(stack: GatewayStack, upstream: Worker, upstreamUrl: string, keys: [string, string]) {
    this.stack = stack
    this.#upstream = upstream
    this.upstreamUrl = upstreamUrl
    ;[this.#unlimitedKey, this.#limitedKey] = keys
  }

  static async start(): Promise<PathBench> {
    const upstream = new Worker(new URL('./upstream-thread.ts', import.meta.url))
    try {
      const upstreamUrl = await new Promise<string>((resolve, reject) => {
        upstream.once('message', resolve)
        upstream.once('error', reject)
      })
      const stack = await GatewayStack.start()
      try {
        const keys = await makeKeys(stack, upstreamUrl)
        return new PathBench(stack, upstream, upstreamUrl, keys)
      } catch (error) {
        await stack.stop()
        throw error
      }
    } catch (error) {
      await upstream.terminate()
      throw error
    }
  }

  /** @throws Error where a request is not answered whole */
  async measure({ workMs, samples }: { workMs: number; samples: number }): Promise<PathRound> {
    const upstream = { url: `${this.upstreamUrl}/chat/completions`, key: 'none' }
    const gateway = (key: string) => ({ url: `${this.stack.baseUrl}/v1/chat/completions`, key })
    const targets = [upstream, gateway(this.#unlimitedKey), gateway(this.#limitedKey)]
    const times = await alternate(targets, samples)
    const [ofUpstream, withoutLimits, withLimits] = times.map((all) => ({
      p50Ms: quantile(all, 0.5),
      p99Ms: quantile(all, 0.99),
    }))
    if (ofUpstream === undefined || withoutLimits === undefined || withLimits === undefined)
      throw new Error('a target was not measured')
    const requests = await throughput(gateway(this.#limitedKey), workMs)
    return { requests, upstream: ofUpstream, withoutLimits, withLimits }
  }

  /** The route with a key under the usual limits. */
  get limited(): { url: string; key: string } {
    return { url: `${this.stack.baseUrl}/v1/chat/completions`, key: this.#limitedKey }
  }

  chatBody(stream: boolean): string {
    return bodyText(stream)
  }

  async stop(): Promise<void> {
    await this.stack.stop()
    await this.#upstream.terminate()
  }
}

/** Keys of two organisations: one without any limit, one with the usual ones, none of which is ever reached. */
async function makeKeys({ admin }: GatewayStack, upstreamUrl: string): Promise<[string, string]> {
  await admin.call('PUT', `/providers/${PROVIDER}`, z.unknown(), {
    kind: 'openai_compatible',
    base_url: upstreamUrl,
    allow_private: true,
    secret: 'bench',
  })
  await admin.call('POST', '/prices', z.unknown(), {
    provider: PROVIDER,
    model: MODEL,
    usd_per_million: { input_uncached: '1', input_cache_read: '1', output_text: '2', output_reasoning: '2' },
  })
  const targets = [{ provider: PROVIDER, model: MODEL, context_tokens: 8192 }]
  await admin.call('PUT', `/models/${MODEL}`, z.unknown(), { targets })
  const keyOf = async (slug: string) => {
    const org = await admin.call('POST', '/organisations', Identified, { slug, name: slug })
    const project = await admin.call('POST', `/organisations/${org.id}/projects`, Identified, { slug, name: slug })
    const path = `/organisations/${org.id}/keys`
    const made = await admin.call('POST', path, NewKey, { project_id: project.id, name: slug })
    return { ...made, org: org.id, path: `${path}/${made.id}/limits` }
  }
  const [unlimited, limited] = [await keyOf('unlimited'), await keyOf('limited')]
  await admin.call('PUT', `/organisations/${limited.org}/limits`, z.unknown(), {
    limits: [{ meter: 'money', window: 'month', max_usd: '1000000' }],
  })
  await admin.call('PUT', limited.path, z.unknown(), {
    limits: [
      { meter: 'requests', window: 'minute', max: 100_000_000 },
      { meter: 'money', window: 'lifetime', max_usd: '1000000' },
      { meter: 'concurrency', max: 100_000 },
    ],
  })
  return [unlimited.key, limited.key]
}

type Target = { url: string; key: string }

/** Times of each target's requests, taken in turn over one connection each. */
async function alternate(targets: Target[], samples: number): Promise<number[][]> {
  const agents = targets.map(() => new Agent({ keepAlive: true, maxSockets: 1 }))
  const times: number[][] = targets.map(() => [])
  try {
    for (let sample = -WARM_UP; sample < samples; sample++) {
      for (const [index, target] of targets.entries()) {
        const ms = await answerTime(target, agents[index])
        if (sample >= 0) times[index]?.push(ms)
      }
    }
  } finally {
    for (const agent of agents) agent.destroy()
  }
  return times
}

async function throughput(target: Target, ms: number): Promise<number> {
  const agent = new Agent({ keepAlive: true, maxSockets: PATH_CLIENTS })
  let answered = 0
  const startMs = performance.now()
  const client = async () => {
    while (performance.now() - startMs < ms) {
      await answerTime(target, agent)
      answered++
    }
  }
  try {
    await Promise.all(Array.from({ length: PATH_CLIENTS }, client))
    return (1000 * answered) / (performance.now() - startMs)
  } finally {
    agent.destroy()
  }
}

const bodyText = (stream: boolean): string =>
  JSON.stringify({
    model: MODEL,
    stream,
    max_tokens: ANSWER_TOKENS,
    messages: [{ role: 'user', content: 'How long does this take on its way?' }],
  })
const BODY = bodyText(true)

/** From sending to the last byte. */
function answerTime({ url, key }: Target, agent: Agent | undefined): Promise<number> {
  return new Promise((resolve, reject) => {
    const startMs = performance.now()
    const request = httpRequest(url, {
      method: 'POST',
      ...(agent && { agent }),
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    })
    request.on('error', reject)
    request.on('response', (response) => {
      let tail = ''
      response.setEncoding('utf8')
      response.on('data', (part: string) => {
        tail = (tail + part).slice(-200)
      })
      response.on('end', () => {
        if (response.statusCode === 200 && tail.endsWith('data: [DONE]\n\n')) resolve(performance.now() - startMs)
        else reject(new Error(`an answer of status ${response.statusCode} ends in: ${tail}`))
      })
    })
    request.end(BODY)
  })
}
