// Scripted upstreams for tests of your own code: a `fetch` that answers, stalls, breaks off and refuses as it is told. Owns the
// steps; nothing here is used by the other entries.

/**
 * One answer of a scripted target; the last one stands for all further calls.
 *
 * @example
 * ```ts
 * const overloaded: Step = { kind: 'json', status: 503, body: { error: { message: 'later' } } }
 * ```
 */
export type Step =
  /** A whole answer in JSON. */
  | { kind: 'json'; status?: number; headers?: Record<string, string>; body: unknown }
  /** Anything. */
  | { kind: 'text'; status?: number; headers?: Record<string, string>; body: string }
  /** A stream of these pieces, each a part of the bytes. What comes after them is `then`; default: a clean end. */
  | {
      kind: 'stream'
      headers?: Record<string, string>
      pieces: readonly (string | Uint8Array)[]
      then?: 'end' | 'reset' | 'stall'
    }
  /** Nobody is there. */
  | { kind: 'refuse' }
  /** Takes the request and says nothing. */
  | { kind: 'stall' }

/**
 * A request that reached a scripted target.
 *
 * @example
 * ```ts
 * const keyOf = ({ headers }: Seen) => headers.get('authorization')
 * ```
 */
export type Seen = {
  url: string
  method: string
  headers: Headers
  redirect: RequestRedirect
  body: unknown
  atMs: number
}

/**
 * A `fetch` that plays its script and remembers who asked.
 *
 * @example
 * ```ts
 * const fetch: ScriptedFetch = scriptedFetch({ 'http://gateway.test': [chatAnswer('hello')] })
 * const asked = () => fetch.seen.length
 * ```
 */
export type ScriptedFetch = typeof fetch & {
  /** Every request so far, in order. */
  readonly seen: readonly Seen[]
}

/**
 * Makes a `fetch` for tests of your own code.
 *
 * @param scripts Steps by the beginning of the address.
 * @example
 * ```ts
 * const fetch = scriptedFetch({ 'http://gateway.test': [{ kind: 'refuse' }], 'http://spare.test': [chatAnswer('hello')] })
 * const penstock = new Penstock({ gateway, direct, fetch })
 * ```
 */
export function scriptedFetch(scripts: Record<string, readonly Step[]>): ScriptedFetch {
  const seen: Seen[] = []
  const counts = new Map<string, number>()
  const scripted = async (input: Parameters<typeof fetch>[0], init?: RequestInit): Promise<Response> => {
    const request = new Request(input, init)
    const signal = init?.signal ?? request.signal
    const text = request.method === 'POST' ? await request.text() : ''
    const body: unknown = text === '' ? undefined : JSON.parse(text)
    const { url, method, headers, redirect } = request
    seen.push({ url, method, headers, redirect, body, atMs: Date.now() })
    const target = Object.keys(scripts).find((prefix) => request.url.startsWith(prefix))
    const steps = target === undefined ? [] : (scripts[target] ?? [])
    const count = counts.get(target ?? '') ?? 0
    counts.set(target ?? '', count + 1)
    return await played(steps[Math.min(count, steps.length - 1)] ?? { kind: 'refuse' }, signal)
  }
  return Object.assign(scripted as typeof fetch, { seen })
}

/**
 * A whole chat answer.
 *
 * @example
 * ```ts
 * const fetch = scriptedFetch({ 'http://gateway.test': [chatAnswer('hello', { model: 'small' })] })
 * ```
 */
export function chatAnswer(content: string, more: Record<string, unknown> = {}): Step {
  const body = {
    id: 'chatcmpl-test',
    object: 'chat.completion',
    created: 0,
    model: 'test',
    choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }],
    usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    ...more,
  }
  return { kind: 'json', body }
}

/**
 * The pieces of a streamed chat answer, one per text.
 *
 * @example
 * ```ts
 * const broken: Step = { kind: 'stream', pieces: chatPieces(['half an ans'], false), then: 'reset' }
 * ```
 */
export function chatPieces(texts: readonly string[], end: boolean = true): string[] {
  const chunk = (delta: object, more: object = {}) =>
    `data: ${JSON.stringify({
      id: 'chatcmpl-test',
      object: 'chat.completion.chunk',
      created: 0,
      model: 'test',
      choices: [{ index: 0, delta, finish_reason: null }],
      ...more,
    })}\n\n`
  const usage = {
    choices: [],
    usage: { prompt_tokens: 3, completion_tokens: texts.length, total_tokens: 3 + texts.length },
  }
  return [
    chunk({ role: 'assistant', content: '' }),
    ...texts.map((content) => chunk({ content })),
    ...(end ? [chunk({}, usage), 'data: [DONE]\n\n'] : []),
  ]
}

async function played(step: Step, signal: AbortSignal): Promise<Response> {
  signal.throwIfAborted()
  switch (step.kind) {
    case 'refuse':
      throw new TypeError('fetch failed', { cause: new Error('connect ECONNREFUSED') })
    case 'stall':
      return await new Promise<never>((_, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason), { once: true })
      })
    case 'json':
      return new Response(JSON.stringify(step.body), {
        status: step.status ?? 200,
        headers: { 'content-type': 'application/json', ...step.headers },
      })
    case 'text':
      return new Response(step.body, { status: step.status ?? 200, headers: step.headers ?? {} })
    case 'stream':
      return new Response(streamOf(step, signal), {
        headers: { 'content-type': 'text/event-stream', ...step.headers },
      })
    default:
      return step satisfies never
  }
}

function streamOf(step: Extract<Step, { kind: 'stream' }>, signal: AbortSignal): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let index = 0
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      // A turn of the event loop between pieces, so that each is read by itself.
      await new Promise((resolve) => setTimeout(resolve, 0))
      const piece = step.pieces[index++]
      if (piece !== undefined) {
        controller.enqueue(typeof piece === 'string' ? encoder.encode(piece) : piece)
        return
      }
      if (step.then === 'reset') {
        controller.error(new TypeError('terminated', { cause: new Error('ECONNRESET') }))
        return
      }
      if (step.then !== 'stall') {
        controller.close()
        return
      }
      await new Promise<void>((resolve) => {
        if (signal.aborted) resolve()
        signal.addEventListener('abort', () => resolve(), { once: true })
      })
      controller.error(signal.reason)
    },
  })
}
