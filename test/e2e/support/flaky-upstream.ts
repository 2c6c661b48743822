// An OpenAI-compatible server that fails before its first content in all the ways that real ones do. Owns the faults and a
// log of what it served. Whether it fails a request depends on the request's id alone, so that a test knows afterwards
// which requests could have been served.
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'

export const FAULTS = [
  'status_500',
  'status_529',
  'rate_limited_seconds',
  'rate_limited_date',
  'rate_limited_ms',
  'reset_before_head',
  'stall_before_head',
  'stall_before_content',
  'ok_with_error',
  'in_band_error',
  'half_line',
  'garbage',
] as const
export type Fault = (typeof FAULTS)[number]

export type Answered = { requestId: string; promptTokens: number; outputTokens: number }

const UINT32 = 2 ** 32

export class FlakyUpstream {
  readonly answered: Answered[] = []
  readonly faults = new Map<Fault, number>()
  readonly #name: string
  readonly #faultShare: number
  readonly #server: Server
  readonly #port: number

  private constructor(name: string, faultShare: number, server: Server, port: number) {
    this.#name = name
    this.#faultShare = faultShare
    this.#server = server
    this.#port = port
  }

  /** @param faultShare Of the requests, 0 to 1. */
  static async start(name: string, faultShare: number): Promise<FlakyUpstream> {
    const server = createServer({ keepAliveTimeout: 60_000 })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port was given')
    const upstream = new FlakyUpstream(name, faultShare, server, address.port)
    server.on('request', (request, response) => {
      upstream.#answer(request, response).catch(() => response.destroy())
    })
    return upstream
  }

  get baseUrl(): string {
    return `http://127.0.0.1:${this.#port}/v1`
  }

  /** How it treats the request with this id; undefined: it answers. */
  faultOf(requestId: string): Fault | undefined {
    const digest = createHash('sha256').update(`${this.#name} ${requestId}`).digest()
    if (digest.readUInt32BE(0) / UINT32 >= this.#faultShare) return undefined
    return FAULTS[digest.readUInt32BE(4) % FAULTS.length]
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = ''
    request.setEncoding('utf8')
    for await (const part of request) text += part
    const body = JSON.parse(text) as { messages: { content: string }[] }
    const requestId = String(request.headers['x-client-request-id'])
    const fault = this.faultOf(requestId)
    if (fault !== undefined) {
      this.faults.set(fault, (this.faults.get(fault) ?? 0) + 1)
      fail(fault, response)
      return
    }
    const promptTokens = body.messages.reduce((sum, { content }) => sum + Buffer.byteLength(content), 0)
    const outputTokens = 3 + (promptTokens % 5)
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(chunk({ role: 'assistant', content: '' }))
    for (let token = 0; token < outputTokens; token++) response.write(chunk({ content: 'word ' }))
    response.write(chunk({}, 'stop'))
    const usage = { prompt_tokens: promptTokens, completion_tokens: outputTokens }
    response.write(
      `data: ${JSON.stringify({ choices: [], usage: { ...usage, total_tokens: promptTokens + outputTokens } })}\n\n`,
    )
    this.answered.push({ requestId, promptTokens, outputTokens })
    response.end('data: [DONE]\n\n')
  }
}

function fail(fault: Fault, response: ServerResponse): void {
  const refuse = (status: number, headers: Record<string, string> = {}) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(JSON.stringify({ error: { message: 'not now', type: 'server_error', code: null } }))
  }
  const begin = () => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(chunk({ role: 'assistant', content: '' }))
  }
  switch (fault) {
    case 'status_500':
      return refuse(500)
    case 'status_529':
      return refuse(529)
    case 'rate_limited_seconds':
      return refuse(429, { 'retry-after': '1' })
    case 'rate_limited_date':
      return refuse(429, { 'retry-after': new Date(Date.now() + 1000).toUTCString() })
    case 'rate_limited_ms':
      return refuse(429, { 'retry-after-ms': '500' })
    case 'reset_before_head':
      response.socket?.resetAndDestroy()
      return
    case 'stall_before_head':
      return
    case 'stall_before_content':
      return begin()
    case 'ok_with_error':
      return refuse(200)
    case 'in_band_error':
      begin()
      response.end('data: {"error":{"message":"overloaded","type":"server_error"}}\n\n')
      return
    case 'half_line':
      begin()
      response.write('data: {"choices":[{"index":0,"del')
      setTimeout(() => response.socket?.resetAndDestroy(), 5)
      return
    case 'garbage':
      response.writeHead(200, { 'content-type': 'text/html' })
      response.end('<html><body>Bad gateway</body></html>')
      return
    default:
      fault satisfies never
  }
}

const chunk = (delta: Record<string, string>, finish: string | null = null): string =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`
