// Requests per second and latency of the whole gateway beside a peer and beside a bare proxy, in turn on one machine. Owns
// one round and the memory run; who is measured is rival.ts and path.ts, the load wrk.ts.
import { readFile } from 'node:fs/promises'
import { ANSWER_TOKENS, type PathBench } from './path.ts'
import { type Rival, startDurableProxy, startPeer, startProxy } from './rival.ts'
import { type Loaded, load } from './wrk.ts'

export const CONNECTIONS = [1, 32, 256] as const
export const WHO = ['proxy', 'durable', 'peer', 'gateway'] as const
export type Who = (typeof WHO)[number]

export type VersusCell = { stream: boolean; connections: number; results: Record<Who | 'upstream', Loaded> }
export type VersusRound = VersusCell[]
export type Memory = { requests: number; beforeMiB: number; midMiB: number; afterMiB: number }

const MEMORY_CONNECTIONS = 32
const KIB = 1024

export class Versus {
  readonly #path: PathBench
  readonly #rivals: Record<Exclude<Who, 'gateway'>, Rival>

  private constructor(path: PathBench, rivals: Record<Exclude<Who, 'gateway'>, Rival>) {
    this.#path = path
    this.#rivals = rivals
  }

  static async start(path: PathBench): Promise<Versus> {
    const started: Rival[] = []
    const start = async (rival: Promise<Rival>): Promise<Rival> => {
      started.push(await rival)
      return rival
    }
    try {
      const { upstreamUrl } = path
      const proxy = await start(startProxy(upstreamUrl))
      const durable = await start(startDurableProxy(upstreamUrl))
      return new Versus(path, { proxy, durable, peer: await start(startPeer(upstreamUrl)) })
    } catch (error) {
      await Promise.all(started.map((rival) => rival.stop()))
      throw error
    }
  }

  get peerName(): string {
    return this.#rivals.peer.name
  }

  /** @throws Error where one of them does not answer as it should, or more than a hundredth of its requests fail */
  async round(seconds: number): Promise<VersusRound> {
    const cells: VersusRound = []
    for (const stream of [true, false]) {
      const body = this.#path.chatBody(stream)
      for (const target of this.#targets()) await requireAnswer(target, body, stream)
      for (const connections of CONNECTIONS) {
        const results: Partial<Record<Who | 'upstream', Loaded>> = {}
        for (const { who, url, headers } of this.#targets()) {
          const loaded = await load({ url, headers, body, connections, seconds })
          if (loaded.failed > loaded.requests / 100) {
            throw new Error(
              `${who}: ${loaded.failed} of ${loaded.requests} requests failed at ${connections} connections`,
            )
          }
          results[who] = loaded
        }
        cells.push({ stream, connections, results: results as VersusCell['results'] })
      }
    }
    return cells
  }

  /** Resident memory of the gateway before, in the middle of, and after so many requests. */
  async memory(requests: number): Promise<Memory> {
    const pid = this.#path.stack.gatewayPid
    const gateway = this.#targets().find(({ who }) => who === 'gateway')
    if (gateway === undefined) throw new Error('no gateway')
    const { url, headers } = gateway
    const body = this.#path.chatBody(true)
    const beforeMiB = await residentMiB(pid)
    let midMiB: number | undefined
    let done = 0
    while (done < requests) {
      const loaded = await load({ url, headers, body, connections: MEMORY_CONNECTIONS, seconds: 20 })
      done += loaded.requests
      if (midMiB === undefined && done >= requests / 2) midMiB = await residentMiB(pid)
    }
    const afterMiB = await residentMiB(pid)
    return { requests: done, beforeMiB, midMiB: midMiB ?? afterMiB, afterMiB }
  }

  async stop(): Promise<void> {
    await Promise.all(Object.values(this.#rivals).map((rival) => rival.stop()))
  }

  #targets(): { who: Who | 'upstream'; url: string; headers: Record<string, string> }[] {
    const { proxy, durable, peer } = this.#rivals
    const { url, key } = this.#path.limited
    return [
      { who: 'upstream', url: `${this.#path.upstreamUrl}/chat/completions`, headers: { authorization: 'Bearer none' } },
      { who: 'proxy', url: proxy.url, headers: proxy.headers },
      { who: 'durable', url: durable.url, headers: durable.headers },
      { who: 'peer', url: peer.url, headers: peer.headers },
      { who: 'gateway', url, headers: { authorization: `Bearer ${key}` } },
    ]
  }
}

/** wrk looks at no body: a fast refusal would count as a fast answer. */
async function requireAnswer(
  { who, url, headers }: { who: string; url: string; headers: Record<string, string> },
  body: string,
  stream: boolean,
): Promise<void> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  })
  const text = await response.text()
  const isWhole = stream
    ? text.trimEnd().endsWith('data: [DONE]')
    : text.includes('"finish_reason"') && text.includes('x'.repeat(ANSWER_TOKENS))
  if (response.status !== 200 || !isWhole) throw new Error(`${who} answered ${response.status}: ${text.slice(0, 300)}`)
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN) / KIB
}
