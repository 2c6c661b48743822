// The events of one answer as they come. Owns the body's reader: silence is bounded, and letting go closes the connection.
import { type Scope, within } from './deadline.ts'
import { type Dialect, type Reading, readEvent } from './dialect.ts'
import { type SseEvent, SseParser } from './sse.ts'

export type Told = { event: SseEvent; reading: Reading }

export class EventReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #parser = new SseParser()
  readonly #dialect: Dialect
  readonly #idleTimeoutMs: number
  readonly #scope: Scope

  constructor(body: ReadableStream<Uint8Array>, dialect: Dialect, idleTimeoutMs: number, scope: Scope) {
    this.#reader = body.getReader()
    this.#dialect = dialect
    this.#idleTimeoutMs = idleTimeoutMs
    this.#scope = scope
  }

  /**
   * What came next, perhaps nothing but a sign of life; undefined at the end of the body.
   * @throws what the network throws, TimedOut, SseTooLong, or the reason of the abort.
   */
  async next(): Promise<Told[] | undefined> {
    const reading = this.#reader.read()
    const { done, value } = await within(reading, this.#idleTimeoutMs, 'the stream fell silent', this.#scope.signal)
    // What a connection that broke off left of an event is none.
    const events = done ? this.#parser.end().filter(({ data }) => isWhole(data)) : this.#parser.push(value)
    if (done && events.length === 0) return undefined
    return events.map((event) => ({ event, reading: readEvent(this.#dialect, event) }))
  }

  /** Nobody reads any more. */
  close(): void {
    this.#scope.abort(new Error('the stream was left'))
    this.#reader.cancel().catch(() => {})
  }
}

function isWhole(data: string): boolean {
  if (data === '[DONE]') return true
  try {
    JSON.parse(data)
    return true
  } catch {
    return false
  }
}
