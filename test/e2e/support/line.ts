// The line between a client and a gateway, which can be cut: a host that is gone refuses connections, where a gateway that is only
// started anew has them wait. Owns a port of its own and the connections through it.
import { connect, createServer, type Server, type Socket } from 'node:net'

export class Line {
  readonly #target: { host: string; port: number }
  readonly #sockets = new Set<Socket>()
  #server: Server
  #port = 0

  private constructor(origin: string) {
    const { hostname, port } = new URL(origin)
    this.#target = { host: hostname, port: Number(port) }
    this.#server = this.#newServer()
  }

  static async to(origin: string): Promise<Line> {
    const line = new Line(origin)
    await line.restore()
    return line
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  /** Nobody is there any more: what is open is reset, what is new is refused. */
  async cut(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    for (const socket of this.#sockets) socket.resetAndDestroy()
    await closed
  }

  async restore(): Promise<void> {
    this.#server = this.#newServer()
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(this.#port, '127.0.0.1', resolve)
    })
    const address = this.#server.address()
    if (address === null || typeof address === 'string') throw new Error('no port was given')
    this.#port = address.port
  }

  #newServer(): Server {
    return createServer((near) => {
      const far = connect(this.#target)
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(one)
        one.pipe(other)
        one.on('error', () => other.resetAndDestroy())
        one.on('close', () => {
          this.#sockets.delete(one)
          other.destroy()
        })
      }
    })
  }
}
