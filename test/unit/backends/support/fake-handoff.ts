// The fake engine's side of hand-overs: reservations, leases, and blocks that really go from one process to the other over its
// kv address, as one line of JSON when it begins and one when everything is there. Owns what RESERVE, RENEW, RELEASE and PUSH do.
import { randomBytes } from 'node:crypto'
import { connect, createServer, type Socket } from 'node:net'
import type { EngineFrame } from '../../../../protocol/engine-frames.ts'
import {
  type Push,
  type Reserve,
  type ReserveCode,
  TRANSFER_SECRET_BYTES,
  type TransferGrant,
} from '../../../../protocol/engine-handoff.ts'

export type FakeHandoffSettings = {
  /** Between ADMITTED and FINISHED of a PUSH. Default: 5. */
  pushMs?: number
  /** Between the arrival of the blocks and FINISHED of the PUSH: the step that it makes meanwhile. Default: 0. */
  noticedMs?: number
  /** RESERVE is answered so, or never. */
  reserve?: ReserveCode | 'never' | 'crash'
  /** There is no room for a rest that fills no block. */
  wholeOnly?: boolean
  /** What becomes of a PUSH: refused, ended by the transport, never, or the process ends in the middle of it. */
  push?: 'reject' | 'fail' | 'never' | 'crash'
  /** The process that receives ends when the blocks begin to arrive, or says that they did not. */
  receive?: 'crash' | 'damage'
}

export type FakeCache = {
  blockTokens: number
  blocksTotal: number
  has: (hash: bigint) => boolean
  store: (hashes: readonly bigint[]) => void
  hashes: (tokens: readonly number[], salt: bigint) => bigint[]
}

type Held = {
  grant: TransferGrant
  hashes: bigint[]
  tokens: number[]
  blocks: number
  cached: number
  leaseUntilMs: number
  isCommitted: boolean
  socket?: Socket
}
type Line = { grant: string; content: string } | { end: true; seeds: string[] }

const RESERVED_SHARE = 1 / 2
const LEASE_MS_MAX = 120_000

const grantText = ({ id, generation, secret }: TransferGrant) =>
  `${id}-${generation}-${Buffer.from(secret).toString('hex')}`
const contentText = (tokens: readonly number[], firstBlock: number) => `${firstBlock}:${tokens.join(',')}`

export class FakeHandoff {
  readonly #settings: FakeHandoffSettings
  readonly #cache: FakeCache
  readonly #send: (frame: EngineFrame) => void
  readonly #held = new Map<bigint, Held>()
  readonly #pushes = new Map<bigint, { push: Push; end: (reason: 'stop' | 'transfer' | 'cancelled') => void }>()
  /** Seeds of first tokens that came with a reservation. */
  readonly #firsts = new Map<bigint, string[]>()
  #generation = 0n
  address: string | undefined

  constructor(
    settings: FakeHandoffSettings,
    cache: FakeCache,
    listen: string | undefined,
    send: (frame: EngineFrame) => void,
  ) {
    this.#settings = settings
    this.#cache = cache
    this.#send = send
    const addresses = listen?.split(' ') ?? []
    this.address = listen
    for (const [at, address] of addresses.entries()) {
      const server = createServer((socket) => this.#receive(socket))
      server.listen(target(address), () => {
        const bound = server.address()
        // Port 0 is any.
        if (bound !== null && typeof bound === 'object') addresses[at] = `tcp:${bound.address}:${bound.port}`
        this.address = addresses.join(' ')
      })
    }
    setInterval(() => this.#expire(), 10)
  }

  /** Held or set aside by reservations. */
  get blocksUsed(): number {
    return [...this.#held.values()].reduce((sum, { blocks }) => sum + blocks, 0)
  }
  get pushing(): number {
    return this.#pushes.size
  }

  reserve(frame: Reserve): void {
    const { blockTokens, blocksTotal } = this.#cache
    const forced = this.#settings.reserve
    if (forced === 'crash') process.exit(1)
    if (forced === 'never') return
    const hashes = this.#cache.hashes(frame.tokens, frame.salt)
    const missing = hashes.findIndex((hash) => !this.#cache.has(hash))
    const cached = missing < 0 ? hashes.length : missing
    // The rest alone is not worth it.
    const tokens =
      missing < 0 || this.#settings.wholeOnly ? frame.tokens.slice(0, hashes.length * blockTokens) : frame.tokens
    const blocks = Math.ceil(tokens.length / blockTokens)
    const grant = {
      id: frame.id,
      generation: ++this.#generation,
      secret: Uint8Array.from(randomBytes(TRANSFER_SECRET_BYTES)),
    }
    let code: ReserveCode = forced ?? 'ok'
    if (this.address === undefined || blocks === 0 || frame.leaseMs === 0 || this.#held.has(frame.id)) code = 'invalid'
    else if (this.blocksUsed + blocks - cached > blocksTotal * RESERVED_SHARE) code = 'no_room'
    if (code === 'ok') {
      const leaseUntilMs = Date.now() + Math.min(frame.leaseMs, LEASE_MS_MAX)
      const isCommitted = cached === blocks
      this.#held.set(frame.id, { grant, hashes, tokens, blocks, cached, leaseUntilMs, isCommitted })
    }
    this.#send({ type: 'reserved', id: frame.id, code, grant, blocks, cachedBlocks: cached })
  }

  renew(id: bigint, leaseMs: number): void {
    const held = this.#held.get(id)
    if (held !== undefined) held.leaseUntilMs = Date.now() + Math.min(leaseMs, LEASE_MS_MAX)
  }

  /** Whether another engine has drawn the first token of this sequence, once. */
  takeFirst(id: bigint, seed: bigint): boolean {
    const seeds = this.#firsts.get(id) ?? []
    const at = seeds.indexOf(String(seed))
    if (at >= 0) seeds.splice(at, 1)
    return at >= 0
  }

  /** RELEASE, or the sequence that names it is admitted or ends in the queue. */
  release(id: bigint): void {
    const held = this.#held.get(id)
    this.#held.delete(id)
    held?.socket?.destroy()
  }

  push(push: Push, admitted: (cachedTokens: number, hashes: bigint[]) => void): void {
    const hashes = this.#cache.hashes(push.tokens, push.salt)
    const missing = hashes.findIndex((hash) => !this.#cache.has(hash))
    const found = (missing < 0 ? hashes.length : missing) * this.#cache.blockTokens
    const forced = this.#settings.push
    if (forced === 'reject') return this.#send({ type: 'rejected', id: push.id, code: 'queue_full', message: 'full' })
    if (forced === 'crash') process.exit(1)
    let socket: Socket | undefined
    const timers: NodeJS.Timeout[] = []
    const end = (reason: 'stop' | 'transfer' | 'cancelled' | 'deadline') => {
      if (!this.#pushes.delete(push.id)) return
      for (const timer of timers) clearTimeout(timer)
      socket?.destroy()
      const counts = { promptTokens: push.tokens.length, cachedTokens: found, outputTokens: 0 }
      this.#send({ type: 'finished', id: push.id, reason, ...counts })
    }
    this.#pushes.set(push.id, { push, end })
    admitted(found, hashes)
    if (push.deadlineMs > 0) timers.push(setTimeout(() => end('deadline'), push.deadlineMs))
    const say = (line: Line) => socket?.write(`${JSON.stringify(line)}\n`)
    // The first address that it reaches, best first.
    const [address = ''] = push.address.split(' ')
    socket = connect(target(address))
    socket.on('connect', () => {
      say({ grant: grantText(push.grant), content: contentText(push.tokens, push.firstBlock) })
      if (forced === 'never') return
      timers.push(
        setTimeout(() => {
          if (forced === 'fail') return end('transfer')
          this.#cache.store(hashes)
          say({ end: true, seeds: push.draw?.seeds.map(String) ?? [] })
        }, this.#settings.pushMs ?? 5),
      )
    })
    let hasArrived = false
    socket.on('data', (chunk) => {
      hasArrived = String(chunk).startsWith('ok')
      if (hasArrived) timers.push(setTimeout(() => end('stop'), this.#settings.noticedMs ?? 0))
      else end('transfer')
    })
    socket.on('error', () => end('transfer'))
    socket.on('close', () => {
      if (!hasArrived) end('transfer')
    })
  }

  /** Whether the id was one of a push. */
  cancel(id: bigint): boolean {
    const found = this.#pushes.get(id)
    found?.end('cancelled')
    return found !== undefined
  }

  /** The agent is gone. */
  clear(): void {
    for (const id of [...this.#held.keys()]) this.release(id)
    for (const { end } of [...this.#pushes.values()]) end('cancelled')
  }

  #expire(): void {
    for (const [id, { leaseUntilMs }] of [...this.#held]) if (leaseUntilMs <= Date.now()) this.#giveUp(id)
  }

  #giveUp(id: bigint): void {
    if (!this.#held.has(id)) return
    this.release(id)
    this.#send({ type: 'transferred', id, complete: false })
  }

  #receive(socket: Socket): void {
    let id: bigint | undefined
    let rest = ''
    socket.on('data', (chunk) => {
      rest += String(chunk)
      const lines = rest.split('\n')
      rest = lines.pop() ?? ''
      for (const text of lines) {
        const line: Line = JSON.parse(text)
        if ('grant' in line) {
          const [found] = [...this.#held].filter(
            ([, held]) => grantText(held.grant) === line.grant && !held.isCommitted,
          )
          const isMeant = found !== undefined && contentText(found[1].tokens, found[1].cached) === line.content
          if (this.#settings.receive === 'crash') process.exit(1)
          if (found === undefined || !isMeant) {
            socket.end('no\n')
            continue
          }
          id = found[0]
          found[1].socket = socket
          continue
        }
        const held = id === undefined ? undefined : this.#held.get(id)
        if (id === undefined || held === undefined) return void socket.end('no\n')
        if (this.#settings.receive === 'damage') {
          this.#giveUp(id)
          return void socket.end('no\n')
        }
        held.isCommitted = true
        if ('seeds' in line) this.#firsts.set(id, line.seeds)
        this.#cache.store(held.hashes)
        this.#send({ type: 'transferred', id, complete: true })
        delete held.socket
        id = undefined
        socket.end('ok\n')
      }
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      if (id !== undefined) this.#giveUp(id)
    })
  }
}

function target(address: string): { path: string } | { host: string; port: number } {
  if (address.startsWith('unix:')) return { path: address.slice(5) }
  const [, host = '', port = ''] = /^tcp:(.+):(\d+)$/.exec(address) ?? []
  return { host, port: Number(port) }
}
