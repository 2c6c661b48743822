// The client's end of a streamed answer. Owns the pump's last metre: backpressure, keep-alive comments, noticing that
// the client is gone, and a bounded goodbye.
import { SSE_KEEP_ALIVE } from './sse.ts'
import type { Stop } from './stop.ts'

/** A client that has not taken the last bytes by then is not reading any more. */
const GOODBYE_MS = 5000

const encoder = new TextEncoder()

export class ClientStream {
  readonly readable: ReadableStream<Uint8Array>
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>
  readonly #stop: Stop
  readonly #keepAlive: ReturnType<typeof setInterval>
  /** Nothing was written since the last tick. */
  #isQuiet = true
  #isWriting = false

  /**
   * @param stop Of the request: a failing write stops it as `client_gone`.
   * @param keepAliveMs Silence after which a comment goes out, so that proxies keep the connection.
   */
  constructor(stop: Stop, keepAliveMs: number) {
    const pipe = new IdentityTransformStream()
    this.readable = pipe.readable
    this.#writer = pipe.writable.getWriter()
    this.#writer.closed.catch(() => {})
    this.#stop = stop
    this.#keepAlive = setInterval(() => {
      if (this.#isQuiet && !this.#isWriting) this.send(SSE_KEEP_ALIVE).catch(() => {})
      this.#isQuiet = true
    }, keepAliveMs)
  }

  /**
   * Resolves when the client has taken the bytes: whoever awaits it goes no faster than the client reads.
   * @throws Stopped when the client is gone or the request's time is over.
   */
  async send(text: string): Promise<void> {
    this.#isQuiet = false
    this.#isWriting = true
    try {
      await this.#stop.race(this.#write(text))
    } finally {
      this.#isWriting = false
    }
  }

  /**
   * Last words, then the end of the stream. Works after the deadline too, and never throws or takes long.
   * Where the client is gone there is nobody to say anything to.
   */
  async end(text: string): Promise<void> {
    clearInterval(this.#keepAlive)
    if (this.#stop.reason === 'client_gone') {
      this.#writer.abort().catch(() => {})
      return
    }
    let timer: ReturnType<typeof setTimeout> | null = null
    const patience = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, GOODBYE_MS)
    })
    const goodbye = (async () => {
      if (text !== '') await this.#writer.write(encoder.encode(text))
      await this.#writer.close()
    })().catch(() => {})
    await Promise.race([goodbye, patience])
    clearTimeout(timer)
    this.#writer.abort().catch(() => {})
  }

  async #write(text: string): Promise<void> {
    try {
      await this.#writer.write(encoder.encode(text))
    } catch (error) {
      this.#stop.stop('client_gone')
      throw error
    }
  }
}
