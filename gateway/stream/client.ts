// The client's end of a streamed answer. Owns the pump's last metre: backpressure, joining what waits into one write,
// keep-alive comments, noticing that the client is gone, and a bounded goodbye.
import { life } from '../handover/life.ts'
import { Appointment, Appointments } from './appointments.ts'
import { SSE_KEEP_ALIVE } from './sse.ts'
import type { Stop } from './stop.ts'
import { within } from './within.ts'

/** A client that has not taken the last bytes by then is not reading any more. */
const GOODBYE_MS = 5000
/** Text that may wait for the client before the upstream is kept waiting: some hundred chunks. */
const WAITING_CHARS_MAX = 32 * 1024

const encoder = new TextEncoder()

export class ClientStream {
  readonly readable: ReadableStream<Uint8Array>
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>
  readonly #stop: Stop
  readonly #appointments: Appointments
  readonly #keepAlive: Appointment
  /** What came while a write was under way: it goes out together, as one write. */
  #waiting = ''
  #flushing: Promise<void> | undefined
  /** Nothing was written since the last tick. */
  #isQuiet = true

  /**
   * @param stop Of the request: a failing write stops it as `client_gone`.
   * @param keepAliveMs Silence after which a comment goes out, so that proxies keep the connection and a client that
   *   is gone is noticed: over a plain connection only a write finds out.
   * @param appointments Of the request. Default: for this stream alone.
   */
  constructor(stop: Stop, keepAliveMs: number, appointments = new Appointments()) {
    const pipe = new IdentityTransformStream()
    this.readable = pipe.readable
    this.#writer = pipe.writable.getWriter()
    this.#writer.closed.catch(() => {})
    this.#stop = stop
    this.#appointments = appointments
    this.#keepAlive = new Appointment(() => {
      if (life.isOverdue(Date.now())) return stop.stop('replaced')
      if (this.#isQuiet && this.#flushing === undefined) this.send(SSE_KEEP_ALIVE).catch(() => {})
      this.#isQuiet = true
      appointments.set(this.#keepAlive, keepAliveMs)
    })
    appointments.set(this.#keepAlive, keepAliveMs)
  }

  /**
   * Resolves at once while the client keeps up, else when it has caught up: whoever awaits it goes no faster than the
   * client reads.
   * @throws Stopped when the client is gone or the request's time is over.
   */
  async send(text: string): Promise<void> {
    this.#isQuiet = false
    this.#waiting += text
    this.#flushing ??= this.#flush()
    if (this.#waiting.length > WAITING_CHARS_MAX) await this.#stop.race(this.#flushing)
  }

  /**
   * Last words, then the end of the stream. Works after the deadline too, and never throws or takes long.
   * Where the client is gone there is nobody to say anything to.
   */
  async end(text: string): Promise<void> {
    this.#appointments.drop(this.#keepAlive)
    if (this.#stop.reason === 'client_gone') {
      this.#writer.abort().catch(() => {})
      return
    }
    this.#waiting += text
    const goodbye = (async () => {
      await (this.#flushing ?? this.#flush())
      await this.#writer.close()
      return true
    })().catch(() => {})
    if ((await within(goodbye, GOODBYE_MS, this.#appointments)) === true) return
    this.#writer.abort().catch(() => {})
  }

  /** Ends the connection so that its client sees it broken: there is more, to be asked for again. */
  breakOff(): void {
    this.#appointments.drop(this.#keepAlive)
    this.#writer.abort().catch(() => {})
  }

  /** Writes until nothing waits. Never rejects: a client that is gone is a reason to stop, not an error. */
  async #flush(): Promise<void> {
    try {
      while (this.#waiting !== '') {
        const bytes = encoder.encode(this.#waiting)
        this.#waiting = ''
        await this.#writer.write(bytes)
      }
    } catch {
      this.#stop.stop('client_gone')
    } finally {
      this.#flushing = undefined
    }
  }
}
