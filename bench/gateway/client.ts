// A client that can hang up at any point of a streamed answer. Owns one request over a connection of its own; whom to
// send it and when is the run's.
import { request as httpRequest } from 'node:http'

/** Where the client hangs up; `never` reads to the end and lets the server close. */
export type CutAt = 'never' | 'before_headers' | 'first_chunk' | 'before_usage' | 'after_end'

export type Ask = {
  port: number
  key: string
  body: Record<string, unknown>
  headers?: Record<string, string>
  cutAt: CutAt
  /** With `before_headers`: how long after sending. */
  cutAfterMs?: number
  /** Hang up with a reset, which is noticed at once, and not with an end of sending, which only a later write finds. */
  reset?: boolean
}

export type Outcome = {
  /** Absent: the connection ended before there was one. */
  status: number | undefined
  requestId: string | undefined
  /** Whole: the end mark was read. Cut: by us. Broken: by the server. Refused: any status but 200. */
  ended: 'whole' | 'cut' | 'broken' | 'refused'
  /** Of a refusal, or of an error inside the stream. */
  code: string | undefined
  retryAfterMs: number | undefined
  message: string | undefined
}

/** A connection that is silent for this long is dead, whatever the deadline said. */
const SILENCE_MAX_MS = 30_000
const USAGE_CHUNK = '"usage":{'
const FINISH_CHUNK = /"finish_reason":"/

/** Sends one streamed chat completion. Never rejects. */
export function ask({ port, key, body, headers = {}, cutAt, cutAfterMs = 0, reset = false }: Ask): Promise<Outcome> {
  return new Promise((resolve) => {
    const outcome: Outcome = {
      status: undefined,
      requestId: undefined,
      ended: 'broken',
      code: undefined,
      retryAfterMs: undefined,
      message: undefined,
    }
    const request = httpRequest({
      host: '127.0.0.1',
      port,
      path: '/v1/chat/completions',
      method: 'POST',
      agent: false,
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
    })
    let timer: NodeJS.Timeout | undefined
    let finished = false
    const finish = (ended: Outcome['ended']) => {
      if (finished) return
      finished = true
      clearTimeout(timer)
      outcome.ended = ended
      resolve(outcome)
    }
    const hangUp = () => {
      if (reset) request.socket?.resetAndDestroy()
      request.destroy()
    }
    const cut = () => {
      finish('cut')
      hangUp()
    }
    request.setTimeout(SILENCE_MAX_MS, () => request.destroy())
    request.on('error', () => finish('broken'))
    request.on('response', (response) => {
      outcome.status = response.statusCode
      outcome.requestId = String(response.headers['x-request-id'] ?? '')
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part: string) => {
        text += part
        if (outcome.status !== 200) return
        if (cutAt === 'first_chunk') cut()
        else if (cutAt === 'before_usage' && FINISH_CHUNK.test(text) && !text.includes(USAGE_CHUNK)) cut()
        else if (cutAt === 'after_end' && text.includes('data: [DONE]')) {
          finish('whole')
          hangUp()
        }
      })
      response.on('error', () => finish('broken'))
      response.on('close', () => {
        if (outcome.status !== 200) {
          const error = errorOf(text)
          outcome.code = error?.code
          outcome.message = error?.message
          const wait = Number(response.headers['retry-after-ms'] ?? Number.NaN)
          if (Number.isFinite(wait)) outcome.retryAfterMs = wait
          finish('refused')
          return
        }
        outcome.code = /"error":\{[^}]*"code":"(\w+)"/.exec(text)?.[1]
        finish(text.includes('data: [DONE]') ? 'whole' : 'broken')
      })
    })
    request.end(JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }))
    if (cutAt === 'before_headers') timer = setTimeout(cut, cutAfterMs)
  })
}

function errorOf(text: string): { code?: string; message?: string } | undefined {
  try {
    return (JSON.parse(text) as { error?: { code?: string; message?: string } }).error
  } catch {
    return undefined
  }
}
