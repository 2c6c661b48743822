// The two servers of the scenario on loopback. Owns the gateway's script (a stream that dies with its process, then nobody, then well
// again, with a route for reports that keeps each record once) and the direct provider's. Both answer browsers of any origin.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { checkedCall, type ReportedCall, UsageImport } from '../../protocol/usage-import.ts'
import { chatPieces } from '../../sdk/src/testing.ts'

export const WORDS = ['The', ' answer', ' is', ' 42', '.']
const DYING = ['The', ' ans']

type Files = (path: string) => Promise<{ type: string; text: string } | undefined>
type Asked = { path: string; body: { model?: string; stream?: boolean; records?: unknown[] } }
type Answering = (asked: Asked, response: ServerResponse, request: IncomingMessage) => void | Promise<void>

export class Servers {
  /** By id, as the gateway would store them. */
  readonly reported = new Map<string, ReportedCall>()
  /** Records that came again, or that no gateway would believe. */
  readonly unwanted: unknown[] = []
  readonly keys = new Set<string | undefined>()
  readonly #files: Files
  #gateway: Server | undefined
  #spare: Server | undefined
  #gatewayPort = 0
  #sparePort = 0
  #isDying = true

  /** @param files What a browser loads from the gateway's origin. */
  constructor(files: Files = async () => undefined) {
    this.#files = files
  }

  get gateway(): string {
    return `http://127.0.0.1:${this.#gatewayPort}`
  }

  get spare(): string {
    return `http://127.0.0.1:${this.#sparePort}`
  }

  async start(): Promise<void> {
    this.#gateway = await listening((asked, response, request) => this.#ofGateway(asked, response, request), 0)
    this.#gatewayPort = portOf(this.#gateway)
    this.#spare = await listening((asked, response) => this.#ofSpare(asked, response), 0)
    this.#sparePort = portOf(this.#spare)
  }

  async stop(): Promise<void> {
    await Promise.all([this.#gateway, this.#spare].map((server) => ended(server)))
  }

  async #ofGateway({ path, body }: Asked, response: ServerResponse, request: IncomingMessage): Promise<void> {
    const file = await this.#files(path)
    if (file !== undefined) {
      response.writeHead(200, { 'content-type': file.type })
      response.end(file.text)
      return
    }
    // A browser asks for an icon by itself.
    if (request.method !== 'POST') return void response.writeHead(404).end()
    response.setHeader('x-penstock-request-id', 'req_1')
    this.keys.add(request.headers.authorization)
    if (path === '/v1/usage/import') return this.#import(body, response)
    if (!this.#isDying) return whole(response, 'from the gateway')
    this.#isDying = false
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    for (const piece of chatPieces(DYING, false)) response.write(piece)
    // What was written is on its way before the process dies.
    await new Promise((resolve) => setTimeout(resolve, 50))
    response.socket?.resetAndDestroy()
    await ended(this.#gateway)
  }

  #import(body: Asked['body'], response: ServerResponse): void {
    const { records } = UsageImport.parse(body)
    const results = records.map((record, index) => {
      const checked = checkedCall(record, Date.now())
      if (!checked.ok || this.reported.has(checked.call.id)) {
        this.unwanted.push(record)
        return { index, outcome: 'refused' }
      }
      this.reported.set(checked.call.id, checked.call)
      return { index, id: checked.call.id, outcome: 'accepted' }
    })
    json(response, { results })
  }

  async #ofSpare({ path, body }: Asked, response: ServerResponse): Promise<void> {
    if (path === '/control/raise-gateway') {
      const answering: Answering = (asked, answer, request) => this.#ofGateway(asked, answer, request)
      this.#gateway = await listening(answering, this.#gatewayPort)
      return json(response, {})
    }
    if (body.stream !== true) return whole(response, WORDS.join(''))
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const isCut = body.model === 'cut'
    for (const piece of chatPieces(isCut ? ['half'] : WORDS, !isCut)) response.write(piece)
    if (!isCut) return void response.end()
    await new Promise((resolve) => setTimeout(resolve, 50))
    response.socket?.resetAndDestroy()
  }
}

async function listening(answering: Answering, port: number): Promise<Server> {
  const server = createServer(async (request, response) => {
    response.setHeader('access-control-allow-origin', '*')
    response.setHeader('access-control-allow-headers', request.headers['access-control-request-headers'] ?? '*')
    response.setHeader('access-control-expose-headers', '*')
    if (request.method === 'OPTIONS') return void response.writeHead(204).end()
    let text = ''
    request.setEncoding('utf8')
    for await (const part of request) text += part
    await answering({ path: request.url ?? '', body: text === '' ? {} : JSON.parse(text) }, response, request)
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  return server
}

function portOf(server: Server): number {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port was given')
  return address.port
}

/** As where a process is gone: its connections are reset, and nobody listens. */
async function ended(server: Server | undefined): Promise<void> {
  if (server?.listening !== true) return
  const closed = new Promise((resolve) => server.close(resolve))
  server.closeAllConnections()
  await closed
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(JSON.stringify(value))
}

function whole(response: ServerResponse, content: string): void {
  json(response, {
    id: 'chatcmpl-test',
    object: 'chat.completion',
    created: 0,
    model: 'test',
    choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }],
    usage: { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 },
  })
}
