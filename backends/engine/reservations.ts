// Blocks that an engine sets aside for K and V that another one computes. Owns the ids and what the engine has said about
// each; when to ask, to renew and to let go is backends/handoff.
//
//   asked ──RESERVED ok──▶ granted ──TRANSFERRED 1──▶ arrived ──taken()──▶ (over)
//     └─ refused            ├─ release(), TRANSFERRED 0, end of the connection ──▶ (over)
//
// granted   the engine holds blocks for it; whoever has the grant may write into them once
// arrived   the blocks hold what was asked for, until the sequence that names them is admitted
// over      nothing is held, or the engine lets go of it by itself; its id is never used again
import type { AgentFrame } from '../../protocol/engine-frames.ts'
import type { Reserved } from '../../protocol/engine-handoff.ts'

export type Reservation = {
  readonly id: bigint
  /** What the engine answers; absent: the connection ended first. Never rejects: race it against a timer. */
  readonly answer: Promise<Reserved | undefined>
  /** True when the blocks are there, false when the reservation is over without them. Never rejects. */
  readonly arrived: Promise<boolean>
  /** Nobody may count on it any more. */
  readonly isOver: () => boolean
  renew: (leaseMs: number) => void
  release: () => void
  /** The sequence that named it runs, or ended in the queue: the engine has let go of it. */
  taken: () => void
}

type Open = { answer: (reserved: Reserved | undefined) => void; arrived: (complete: boolean) => void }

export class Reservations {
  readonly #send: (frame: AgentFrame) => void
  readonly #open = new Map<bigint, Open>()
  #nextId = 1n
  #closed = false

  constructor(send: (frame: AgentFrame) => void) {
    this.#send = send
  }

  get count(): number {
    return this.#open.size
  }

  reserve(tokens: number[], salt: bigint, leaseMs: number): Reservation {
    const id = this.#nextId++
    const answer = Promise.withResolvers<Reserved | undefined>()
    const arrived = Promise.withResolvers<boolean>()
    this.#open.set(id, { answer: answer.resolve, arrived: arrived.resolve })
    if (this.#closed) this.#end(id)
    else this.#send({ type: 'reserve', id, tokens, salt, leaseMs })
    const isOver = () => !this.#open.has(id)
    return {
      id,
      answer: answer.promise,
      arrived: arrived.promise,
      isOver,
      renew: (leaseForMs) => {
        if (!isOver()) this.#send({ type: 'renew', id, leaseMs: leaseForMs })
      },
      release: () => {
        if (isOver()) return
        this.#send({ type: 'release', id })
        this.#end(id)
      },
      taken: () => this.#end(id),
    }
  }

  /** @throws Error where the engine speaks of what it was never asked for. */
  reserved(frame: Reserved): void {
    this.#check(frame.type, frame.id)
    const open = this.#open.get(frame.id)
    // Released before its answer came.
    if (open === undefined) return
    open.answer(frame)
    if (frame.code !== 'ok') this.#end(frame.id)
    else if (frame.cachedBlocks >= frame.blocks) open.arrived(true)
  }

  /** @throws Error where the engine speaks of what it was never asked for. */
  transferred(frame: { type: 'transferred'; id: bigint; complete: boolean }): void {
    this.#check(frame.type, frame.id)
    if (frame.complete) this.#open.get(frame.id)?.arrived(true)
    else this.#end(frame.id)
  }

  /** The connection has ended. */
  close(): void {
    this.#closed = true
    for (const id of [...this.#open.keys()]) this.#end(id)
  }

  #check(type: string, id: bigint): void {
    if (id >= this.#nextId || id === 0n) throw new Error(`the engine sent ${type} of a reservation that nobody made`)
  }

  #end(id: bigint): void {
    const open = this.#open.get(id)
    this.#open.delete(id)
    open?.answer(undefined)
    open?.arrived(false)
  }
}
