// Bodies and short answers of the agent's HTTP side. Owns the limit of a body, refusals and their statuses; the routes are
// server.ts and handoff/prefill-route.ts.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { DispatchRefusal } from '../protocol/dispatch.ts'
import type { Failure } from '../protocol/errors.ts'
import { MAX_BODY_BYTES } from '../protocol/request.ts'
import { err, ok, type Result } from '../protocol/result.ts'

/** The gateway's own limit, doubled for escapes that its re-encoding may add, and room for the envelope. */
export const DISPATCH_BODY_BYTES_MAX = 2 * MAX_BODY_BYTES + 1024 * 1024

export type Refusal = { status: 400 | 401 | 404 | 413 | 429 | 503; failure: Failure }

/** The whole body within the limit. What lies beyond is read and dropped, so that the refusal reaches a caller still sending. */
export function readBody(request: IncomingMessage): Promise<Result<Uint8Array, Refusal>> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let bytes = 0
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes <= DISPATCH_BODY_BYTES_MAX) {
        chunks.push(chunk)
        return
      }
      chunks.length = 0
      const message = `a dispatch is at most ${DISPATCH_BODY_BYTES_MAX} bytes`
      resolve(err({ status: 413, failure: { code: 'request_too_large', message } }))
    })
    request.on('end', () => resolve(ok(Buffer.concat(chunks))))
    request.on('error', () => resolve(err(malformed('the body ended early'))))
    request.on('close', () => resolve(err(malformed('the body ended early'))))
  })
}

export const malformed = (message: string, param?: string): Refusal => ({
  status: 400,
  failure: { code: 'invalid_request', message, ...(param === undefined ? {} : { param }) },
})

export function sendRefusal(response: ServerResponse, refusal: Refusal): void {
  const body: DispatchRefusal = refusal.failure
  if (body.retryAfterMs !== undefined) response.setHeader('retry-after', Math.ceil(body.retryAfterMs / 1000))
  // A body that nobody reads would hold up the connection; `requestTimeout` bounds how long it may go on.
  response.req.resume()
  sendJson(response, refusal.status, body)
}

export function sendJson(response: ServerResponse, status: number, body: object): void {
  if (response.destroyed) return
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
}
