// A `fetch` for the official OpenAI client: its calls get the fallback of this package. Owns the translation of requests and
// answers; the loop is call.ts. Of the client only its own `fetch` contract is used.
import { answer, newCall } from './call.ts'
import { type Core, coreOf, type Surroundings } from './core.ts'
import { dialectOf, readUsage } from './dialect.ts'
import { PenstockError } from './errors.ts'
import type { CallOptions, ClientOptions } from './options.ts'
import { tell } from './report.ts'
import type { SseEvent } from './sse.ts'
import { eventsOf } from './stream.ts'
import { isRedirect, type WireRequest } from './target.ts'
import type { UsageReport } from './usage-queue.ts'

/**
 * A `fetch` that posts the usage of direct calls to the gateway when told to, as {@link Penstock.flushUsage} does.
 *
 * @example
 * ```ts
 * const fetch: PenstockFetch = penstockFetch(options)
 * await fetch.flushUsage()
 * ```
 */
export type PenstockFetch = typeof fetch & { flushUsage: () => Promise<UsageReport> }

/**
 * Set the client's own `maxRetries` to 0: two loops of retries multiply.
 *
 * @param options As of {@link Penstock}; the client's own `baseURL` and `apiKey` are not used.
 * @param defaults For each call.
 * @example
 * ```ts
 * const client = new OpenAI({ apiKey: 'unused', maxRetries: 0, fetch: penstockFetch(options) })
 * ```
 */
export function penstockFetch(
  options: ClientOptions,
  defaults: CallOptions = {},
  surroundings?: Surroundings,
): PenstockFetch {
  const core = coreOf(options, surroundings)
  const penstockFetch: typeof fetch = async (input, init) => {
    const request = new Request(input, init)
    const pathname = new URL(request.url).pathname
    const text = request.method === 'POST' ? await request.text() : ''
    const body = text === '' ? undefined : jsonObject(text)
    if (dialectOf(pathname) === undefined || (text !== '' && body === undefined))
      return await passed(core, request, text)
    const wire: WireRequest = {
      method: request.method as WireRequest['method'],
      path: pathUnderVersion(request.url),
      ...(body === undefined ? {} : { body }),
      headers: kept(request.headers),
      isStream: body?.stream === true,
    }
    const call = newCall(core, wire, { ...defaults, signal: request.signal })
    try {
      const won = await answer(core, call)
      const headers = new Headers(won.headers)
      headers.set('x-penstock-sdk-target', won.target.name)
      // The body was decoded on its way here.
      for (const name of ['content-encoding', 'content-length']) headers.delete(name)
      if (won.kind === 'whole') {
        call.scope.abort(new Error('the call is over'))
        tell(core, call, won, 'answered', readUsage(jsonObject(won.text)))
        return new Response(won.text, { status: won.status, headers })
      }
      return new Response(bytesOf(eventsOf(core, call, won)), { status: won.status, headers })
    } catch (error) {
      if (error instanceof PenstockError) return errorResponse(error)
      throw error
    }
  }
  return Object.assign(penstockFetch, { flushUsage: () => core.reports.flush() })
}

/** A route that is not a call of a model goes to the gateway as it is. */
async function passed(core: Core, request: Request, text: string): Promise<Response> {
  const { gateway } = core
  const key = typeof gateway.apiKey === 'string' ? gateway.apiKey : await gateway.apiKey()
  const headers = new Headers({ ...kept(request.headers), ...gateway.headers, authorization: `Bearer ${key}` })
  const response = await core.fetch(`${gateway.baseUrl}${pathUnderVersion(request.url)}`, {
    method: request.method,
    headers,
    redirect: 'manual',
    signal: request.signal,
    ...(text === '' ? {} : { body: text }),
  })
  if (isRedirect(response)) throw new TypeError('redirects are not followed')
  return response
}

/** What the client says about itself and the call; its key and what the network sets stay behind. */
function kept(headers: Headers): Record<string, string> {
  const names = [...headers].filter(([name]) => /^(x-|openai-|anthropic-|content-type$|accept$|user-agent$)/.test(name))
  return Object.fromEntries(names.filter(([name]) => name !== 'x-api-key'))
}

function pathUnderVersion(address: string): string {
  const { pathname, search } = new URL(address)
  return `${pathname.replace(/^.*?\/v\d+(?=\/)/, '')}${search}`
}

function bytesOf(events: AsyncGenerator<SseEvent, void, undefined>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await events.next()
        if (done === true) controller.close()
        else controller.enqueue(encoder.encode(textOf(value)))
      } catch (error) {
        controller.error(error)
      }
    },
    async cancel() {
      await events.return(undefined)
    },
  })
}

function textOf({ event, data, id }: SseEvent): string {
  const name = event === 'message' ? '' : `event: ${event}\n`
  const number = id === undefined ? '' : `id: ${id}\n`
  return `${name}${number}${data
    .split('\n')
    .map((line) => `data: ${line}\n`)
    .join('')}\n`
}

/** In the client's own shape, and never to be tried again: the tries are over. */
function errorResponse(error: PenstockError): Response {
  if (error.code === 'aborted') throw error
  const status = error.status ?? (error.code === 'timeout' ? 504 : 503)
  const { code, message, requestId, retryAfterMs } = error
  const headers: Record<string, string> = { 'content-type': 'application/json', 'x-should-retry': 'false' }
  if (requestId !== undefined) headers['x-request-id'] = requestId
  if (retryAfterMs !== undefined) headers['retry-after-ms'] = String(retryAfterMs)
  return new Response(JSON.stringify({ error: { message, code, type: error.origin } }), { status, headers })
}

function jsonObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined
  } catch {
    return undefined
  }
}
