// An OpenAI-compatible server that computes nothing and counts exactly: the books of the money run are held against its
// own. Owns its answers and its log. One chunk is one token; a prompt has as many tokens as bytes, which is the most a
// byte-level tokenizer can make of it.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

/** What one attempt had of this server. */
export type Served = {
  /** Of the client's request, as the gateway told it. */
  requestId: string
  promptTokens: number
  /** Tokens that were sent off; the last ones may never have arrived. */
  outputTokens: number
  /** The usage chunk and the end mark were sent. */
  complete: boolean
}

export type UpstreamOptions = {
  /** Pause before each chunk and before the usage; 0 writes the whole answer at once. */
  chunkMs: number
  /** Tokens of an answer, at most what the request allows. Default: all it allows. */
  outputTokens?: (allowed: number) => number
}

type ChatBody = { stream?: boolean; max_tokens?: number; messages?: { content: string }[] }

const DEFAULT_TOKENS = 16
const BODY_BYTES_MAX = 1024 * 1024

export class Upstream {
  readonly served: Served[] = []
  /** May be changed between requests. */
  options: UpstreamOptions
  readonly #server: Server
  readonly #port: number

  private constructor(server: Server, port: number, options: UpstreamOptions) {
    this.#server = server
    this.#port = port
    this.options = options
  }

  static async start(options: UpstreamOptions): Promise<Upstream> {
    const server = createServer({ keepAliveTimeout: 60_000 })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port was given')
    const upstream = new Upstream(server, address.port, options)
    server.on('request', (request, response) => {
      upstream.#answer(request, response).catch(() => response.destroy())
    })
    return upstream
  }

  get baseUrl(): string {
    return `http://127.0.0.1:${this.#port}/v1`
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readChat(request)
    const allowed = body.max_tokens ?? DEFAULT_TOKENS
    const { chunkMs, outputTokens = (tokens: number) => tokens } = this.options
    const tokens = Math.max(1, Math.min(allowed, outputTokens(allowed)))
    const served: Served = {
      requestId: String(request.headers['x-client-request-id']),
      promptTokens: (body.messages ?? []).reduce((sum, { content }) => sum + Buffer.byteLength(content), 0),
      outputTokens: 0,
      complete: false,
    }
    this.served.push(served)
    const usage = { prompt_tokens: served.promptTokens, completion_tokens: tokens }
    const reason = tokens < allowed ? 'stop' : 'length'
    if (body.stream !== true) {
      served.outputTokens = tokens
      served.complete = true
      response.writeHead(200, { 'content-type': 'application/json' })
      response.end(wholeAnswer('x'.repeat(tokens), reason, usage))
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const tail =
      `${chunk({}, reason)}data: ${JSON.stringify({ choices: [], usage: { ...usage, total_tokens: served.promptTokens + tokens } })}` +
      '\n\ndata: [DONE]\n\n'
    if (chunkMs === 0) {
      served.outputTokens = tokens
      served.complete = true
      response.end(chunk({ content: 'x' }).repeat(tokens) + tail)
      return
    }
    while (served.outputTokens < tokens) {
      await sleep(chunkMs)
      if (response.destroyed) return
      response.write(chunk({ content: 'x' }))
      served.outputTokens++
    }
    await sleep(chunkMs)
    if (response.destroyed) return
    response.end(tail)
    served.complete = true
  }
}

const chunk = (delta: { content?: string }, finish: string | null = null): string =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`

const wholeAnswer = (content: string, reason: string, usage: Record<string, number>): string =>
  JSON.stringify({
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 0,
    model: 'bench',
    choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: reason }],
    usage: { ...usage, total_tokens: Object.values(usage).reduce((sum, count) => sum + count, 0) },
  })

async function readChat(request: IncomingMessage): Promise<ChatBody> {
  let text = ''
  request.setEncoding('utf8')
  for await (const part of request) {
    text += part
    if (text.length > BODY_BYTES_MAX) throw new Error('a body of more than a megabyte')
  }
  return JSON.parse(text) as ChatBody
}
