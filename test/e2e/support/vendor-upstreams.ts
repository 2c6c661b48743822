// Two vendors as their documentation describes them, for tests with official clients: one that speaks chat completions, one
// that speaks messages. Owns their answers: asked with tools, they call the first one; told what it said, or asked without,
// they answer in text. Both stream, since that is what a gateway asks them for, and both count exactly.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'

export const WORDS = ['The', ' answer', ' is', ' 42', '.']
export const ANSWER = WORDS.join('')
export const THOUGHT = 'Let me think.'
export const ARGUMENTS = '{"city":"Oslo"}'
export const INPUT_TOKENS = 11

type Json = Record<string, unknown>
type Answering = (body: Json, response: ServerResponse, path: string) => void

export class VendorUpstream {
  /** Bodies as they came, with the path they came to. */
  readonly asked: { path: string; body: Json; headers: IncomingMessage['headers'] }[] = []
  readonly #server: Server
  readonly #port: number

  private constructor(server: Server, port: number) {
    this.#server = server
    this.#port = port
  }

  static async start(answering: Answering): Promise<VendorUpstream> {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port was given')
    const upstream = new VendorUpstream(server, address.port)
    server.on('request', async (request, response) => {
      let text = ''
      request.setEncoding('utf8')
      for await (const part of request) text += part
      const body = JSON.parse(text) as Json
      const path = request.url ?? ''
      upstream.asked.push({ path, body, headers: request.headers })
      answering(body, response, path)
    })
    return upstream
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

const listOf = (value: unknown): Json[] => (Array.isArray(value) ? (value as Json[]) : [])

/** `POST …/chat/completions` and `…/embeddings`. */
export const chatVendor: Answering = (body, response, path) => {
  if (path.endsWith('/embeddings')) {
    const vector = Buffer.from(new Float32Array([0.5, -0.25]).buffer).toString('base64')
    const inputs = Array.isArray(body.input) ? body.input.length : 1
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(
      JSON.stringify({
        object: 'list',
        data: Array.from({ length: inputs }, (_, index) => ({ object: 'embedding', index, embedding: vector })),
        model: body.model,
        usage: { prompt_tokens: INPUT_TOKENS, total_tokens: INPUT_TOKENS },
      }),
    )
    return
  }
  const chunk = (delta: Json, finish: string | null = null) =>
    `data: ${JSON.stringify({
      id: 'chatcmpl-up',
      object: 'chat.completion.chunk',
      created: 1,
      model: body.model,
      choices: [{ index: 0, delta, finish_reason: finish, logprobs: null }],
      usage: null,
    })}\n\n`
  const wasAnswered = listOf(body.messages).some(({ role }) => role === 'tool')
  const tool = listOf(body.tools)[0]?.function as { name: string } | undefined
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write(chunk({ role: 'assistant', content: '' }))
  let output = 0
  if (tool !== undefined && !wasAnswered) {
    const head = { index: 0, id: 'call_up_1', type: 'function', function: { name: tool.name, arguments: '' } }
    response.write(chunk({ tool_calls: [head] }))
    for (const piece of [ARGUMENTS.slice(0, 5), ARGUMENTS.slice(5)]) {
      response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: piece } }] }))
      output++
    }
    response.write(chunk({}, 'tool_calls'))
  } else {
    for (const word of WORDS) {
      response.write(chunk({ content: word }))
      output++
    }
    response.write(chunk({}, 'stop'))
  }
  const usage = { prompt_tokens: INPUT_TOKENS, completion_tokens: output, total_tokens: INPUT_TOKENS + output }
  response.write(
    `data: ${JSON.stringify({ id: 'chatcmpl-up', object: 'chat.completion.chunk', choices: [], usage })}\n\n`,
  )
  response.end('data: [DONE]\n\n')
}

/** `POST /v1/messages`. */
export const messagesVendor: Answering = (body, response) => {
  const event = (type: string, fields: Json) =>
    response.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`)
  const wasAnswered = listOf(body.messages).some(({ content }) =>
    listOf(content).some(({ type }) => type === 'tool_result'),
  )
  const tool = listOf(body.tools)[0]
  const thinks = (body.thinking as { type?: string } | undefined)?.type === 'enabled'
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  event('message_start', {
    message: {
      id: 'msg_up',
      type: 'message',
      role: 'assistant',
      model: body.model,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: {
        input_tokens: INPUT_TOKENS,
        output_tokens: 1,
        cache_read_input_tokens: 0,
        cache_creation_input_tokens: 0,
      },
    },
  })
  event('ping', {})
  let index = 0
  let output = 0
  if (thinks) {
    event('content_block_start', { index, content_block: { type: 'thinking', thinking: '', signature: '' } })
    event('content_block_delta', { index, delta: { type: 'thinking_delta', thinking: THOUGHT } })
    event('content_block_delta', { index, delta: { type: 'signature_delta', signature: 'c2VhbA==' } })
    event('content_block_stop', { index })
    index++
    output += 4
  }
  const calls = tool !== undefined && !wasAnswered
  if (calls) {
    event('content_block_start', {
      index,
      content_block: { type: 'tool_use', id: 'toolu_up_1', name: tool.name, input: {} },
    })
    for (const piece of ['', ARGUMENTS.slice(0, 5), ARGUMENTS.slice(5)]) {
      event('content_block_delta', { index, delta: { type: 'input_json_delta', partial_json: piece } })
    }
    output += 3
  } else {
    event('content_block_start', { index, content_block: { type: 'text', text: '' } })
    for (const text of WORDS) event('content_block_delta', { index, delta: { type: 'text_delta', text } })
    output += WORDS.length
  }
  event('content_block_stop', { index })
  event('message_delta', {
    delta: { stop_reason: calls ? 'tool_use' : 'end_turn', stop_sequence: null },
    usage: { output_tokens: output },
  })
  event('message_stop', {})
  response.end()
}
