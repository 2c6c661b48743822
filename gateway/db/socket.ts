// The TCP (and TLS) stream that postgres.js talks through in workerd. Owns connecting, the upgrade to TLS and the
// promise that every failure is one `error` and one `close` event. In place of the stream that postgres.js brings for
// workerd, which leaves promises without a handler when a server goes away.
import { connect } from 'cloudflare:sockets'

/**
 * libpq's `sslmode`: `disable` never encrypts, `prefer` encrypts where the server offers it, everything stronger
 * insists. Certificates are always checked: the runtime offers nothing weaker.
 */
export type TlsMode = 'disable' | 'prefer' | 'require'

type Listener = (value?: unknown) => void
type Event = 'data' | 'error' | 'close' | 'drain' | 'connect'

/** Length 8, request code 80877103: may this connection become TLS? */
const TLS_REQUEST = new Uint8Array([0, 0, 0, 8, 4, 210, 22, 47])
const TLS_OFFERED = 'S'.charCodeAt(0)

/** postgres.js parses with Node's Buffer; the global is there under `nodejs_compat`. */
type BufferMaker = { from(bytes: ArrayBufferLike, offset: number, length: number): Uint8Array }
const { Buffer } = globalThis as unknown as { Buffer: BufferMaker }

/** No connection came about: the server is not there, or there is no TLS with it. */
export class ConnectFailed extends Error {
  override name = 'ConnectFailed'
}

/** Starts connecting and answers at once; what is written before the connection stands waits for it. */
export function openSocket(host: string, port: number, tls: TlsMode): DatabaseSocket {
  return new DatabaseSocket(host, port, tls)
}

/** The part of Node's net.Socket that postgres.js uses. */
class DatabaseSocket {
  /** Read by postgres.js: `open` until the close event. */
  readyState: 'open' | 'closed' = 'open'
  readonly host: string
  readonly port: number
  readonly #listeners = new Map<Event, Set<Listener>>()
  readonly #ready: Promise<WritableStreamDefaultWriter<Uint8Array> | undefined>
  #raw: Socket | undefined

  constructor(host: string, port: number, tls: TlsMode) {
    this.host = host
    this.port = port
    this.#ready = this.#open(tls).catch((error: unknown) => this.#fail(new ConnectFailed(messageOf(error))))
  }

  on(event: Event, listener: Listener): this {
    const listeners = this.#listeners.get(event) ?? new Set()
    this.#listeners.set(event, listeners.add(listener))
    return this
  }

  once(event: Event, listener: Listener): this {
    const first: Listener = (value) => {
      this.removeListener(event, first)
      listener(value)
    }
    return this.on(event, first)
  }

  removeListener(event: Event, listener: Listener): this {
    this.#listeners.get(event)?.delete(listener)
    return this
  }

  removeAllListeners(): this {
    this.#listeners.clear()
    return this
  }

  /** Never asks the writer to wait: the port bounds how many statements are under way. */
  write(bytes: Uint8Array, done?: () => void): boolean {
    this.#send(bytes).then(done, (error: unknown) => this.#fail(error))
    return true
  }

  /** Sends the last bytes, then closes. */
  end(last?: Uint8Array): void {
    const sent = last === undefined ? Promise.resolve() : this.#send(last)
    sent.then(
      () => this.destroy(),
      () => this.destroy(),
    )
  }

  destroy(): void {
    this.#close(false)
  }

  async #open(tls: TlsMode): Promise<WritableStreamDefaultWriter<Uint8Array> | undefined> {
    const secureTransport = tls === 'disable' ? 'off' : 'starttls'
    const plain = connect({ hostname: this.host, port: this.port }, { secureTransport, allowHalfOpen: false })
    const socket = tls === 'disable' ? this.#adopt(plain) : await this.#upgrade(this.#adopt(plain), tls)
    await socket.opened
    if (this.readyState === 'closed') return undefined
    const writer: WritableStreamDefaultWriter<Uint8Array> = socket.writable.getWriter()
    // A failed write is reported by the write itself.
    writer.closed.catch(() => {})
    this.#read(socket.readable.getReader()).catch((error: unknown) => this.#fail(error))
    return writer
  }

  async #upgrade(plain: Socket, tls: TlsMode): Promise<Socket> {
    const writer: WritableStreamDefaultWriter<Uint8Array> = plain.writable.getWriter()
    await writer.write(TLS_REQUEST)
    writer.releaseLock()
    const reader: ReadableStreamDefaultReader<Uint8Array> = plain.readable.getReader()
    const { value } = await reader.read()
    reader.releaseLock()
    // Anything behind the one byte would have been sent before encryption, by whoever sits in between.
    if (value?.length === 1 && value[0] === TLS_OFFERED) return this.#adopt(plain.startTls())
    if (tls === 'prefer' && value?.length === 1) return plain
    throw new Error('the server does not offer TLS')
  }

  #adopt(socket: Socket): Socket {
    this.#raw = socket
    // Reading and writing see every failure; these only tell it a second time.
    socket.opened.catch(() => {})
    socket.closed.catch(() => {})
    return socket
  }

  async #read(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
    reader.closed.catch(() => {})
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return this.#close(false)
      this.#emit('data', Buffer.from(value.buffer, value.byteOffset, value.byteLength))
    }
  }

  async #send(bytes: Uint8Array): Promise<void> {
    const writer = await this.#ready
    if (writer === undefined || this.readyState === 'closed') return
    await writer.write(bytes)
  }

  #fail(error: unknown): undefined {
    if (this.readyState === 'closed') return
    this.#emit('error', error instanceof Error ? error : new Error(messageOf(error)))
    this.#close(true)
  }

  #close(afterError: boolean): void {
    if (this.readyState === 'closed') return
    this.readyState = 'closed'
    this.#raw?.close().catch(() => {})
    this.#emit('close', afterError)
  }

  #emit(event: Event, value: unknown): void {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) listener(value)
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
