// Server-sent events, both ways. Owns framing: decoding what an upstream sends and encoding what a client reads. Pure.
import { LineSplitter, LineTooLong } from './lines.ts'

export type SseEvent = { event: string; data: string }

/** One event's data over all its lines; beyond it the peer is broken or hostile. */
export const SSE_EVENT_BYTES_MAX = 1024 * 1024

/**
 * Decodes an event stream cut anywhere: CR, LF and CRLF line ends, comments, several data lines, a byte order mark,
 * and a last event without its blank line (many servers close right after `data: [DONE]`).
 * @throws LineTooLong when a line or an event is over the bound.
 */
export class SseDecoder {
  readonly #bytesMax: number
  readonly #lines: LineSplitter
  #event = ''
  #data: string[] = []
  #dataLength = 0

  /** @param bytesMax Of one event. Default: SSE_EVENT_BYTES_MAX. */
  constructor(bytesMax = SSE_EVENT_BYTES_MAX) {
    this.#bytesMax = bytesMax
    this.#lines = new LineSplitter(bytesMax)
  }

  push(chunk: Uint8Array): SseEvent[] {
    const events: SseEvent[] = []
    for (const line of this.#lines.push(chunk)) this.#line(line, events)
    return events
  }

  end(): SseEvent[] {
    const events: SseEvent[] = []
    const rest = this.#lines.end()
    if (rest !== undefined) this.#line(rest, events)
    this.#line('', events)
    return events
  }

  #line(line: string, events: SseEvent[]): void {
    if (line === '') {
      if (this.#data.length > 0) events.push({ event: this.#event || 'message', data: this.#data.join('\n') })
      this.#event = ''
      this.#data = []
      this.#dataLength = 0
      return
    }
    const colon = line.indexOf(':')
    if (colon === 0) return
    const name = colon < 0 ? line : line.slice(0, colon)
    const rest = colon < 0 ? '' : line.slice(colon + 1)
    const value = rest.startsWith(' ') ? rest.slice(1) : rest
    if (name === 'data') {
      // A line of its own takes memory even when it is empty.
      this.#dataLength += value.length + 1
      if (this.#dataLength > this.#bytesMax) throw new LineTooLong('an event is over the bound')
      this.#data.push(value)
    } else if (name === 'event') this.#event = value
  }
}

/** One event for the client. JSON has no raw line ends, so one data line is enough. */
export const sseData = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`

export const SSE_DONE = 'data: [DONE]\n\n'
/** A comment: clients skip it, proxies see traffic. */
export const SSE_KEEP_ALIVE = ': keep-alive\n\n'

export const SSE_HEADERS: Record<string, string> = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  // nginx and its relatives hold a response back without it.
  'x-accel-buffering': 'no',
}
