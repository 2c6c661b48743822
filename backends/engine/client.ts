// The agent's end of one engine connection. Owns frames over the socket, sequence ids, and which handler gets which frame;
// when to connect and what to do when it ends is spawn.ts, how many tokens to allow is session.ts.
import { connect, type Socket } from 'node:net'
import {
  type AgentFrame,
  ENGINE_PROTOCOL,
  encodeFrame,
  type Finished,
  type Frame,
  FrameDecoder,
  type RejectCode,
  type SampledToken,
  type Submit,
  type VocabularyFrame,
} from '../../protocol/engine-frames.ts'
import type { Push } from '../../protocol/engine-handoff.ts'
import type { Ready, Stats } from '../../protocol/engine-status.ts'
import { messageOf } from '../log.ts'
import { ChunkTable } from '../prefix/chunk-table.ts'
import type { ChunkEnd } from '../prompt-chunks.ts'
import { PrefixBlocks } from './prefix-blocks.ts'
import { type Reservation, Reservations } from './reservations.ts'

/** How a sequence ended. After this its handlers are not called again. */
export type SequenceEnd =
  | { kind: 'finished'; finished: Finished }
  | { kind: 'rejected'; code: RejectCode; message: string }
  /** The connection or the process ended first. */
  | { kind: 'lost'; message: string }

export type SequenceHandlers = {
  token: (token: SampledToken) => void
  end: (end: SequenceEnd) => void
  /** Once, when the sequence runs for the first time: how much of its prompt the prefix cache had. */
  admitted?: (cachedTokens: number) => void
  /** Once, before the end of a sequence that was submitted with a pooling. */
  embedding?: (values: number[]) => void
}

export type Sequence = {
  /** Asks the engine to stop; the end arrives as always. */
  cancel: () => void
  /** Allows `tokens` more. */
  grant: (tokens: number) => void
}

/** `chunks`: of the prompt, so that it is known which of them the engine holds from then on. */
export type SequenceParameters = Omit<Submit, 'type' | 'id'> & { chunks?: readonly ChunkEnd[] }
export type PushParameters = Omit<Push, 'type' | 'id'> & { chunks?: readonly ChunkEnd[] }

export type ConnectionHandlers = {
  stats: (stats: Stats) => void
  /** Once, when the connection has ended for any reason; every open sequence has ended before. */
  closed: (reason: string) => void
}

type Open = { handlers: SequenceHandlers; creditTokens: number; chunks: readonly ChunkEnd[] }

export class EngineConnection {
  readonly ready: Ready
  /** The beginnings of prompts that the engine holds, until the connection ends. */
  readonly chunks: ChunkTable
  readonly #socket: Socket
  readonly #handlers: ConnectionHandlers
  readonly #sequences = new Map<bigint, Open>()
  readonly #prefixBlocks: PrefixBlocks
  readonly #pings = new Map<bigint, () => void>()
  readonly #reservations = new Reservations((frame) => this.#send(frame))
  #nextId = 1n
  #nextNonce = 1n
  #closedBecause: string | undefined
  stats: Stats | undefined
  /** Called before each sequence, push and reservation: whoever runs only while nothing else does gives way. */
  onWork: (() => void) | undefined

  private constructor(socket: Socket, ready: Ready, handlers: ConnectionHandlers) {
    this.#socket = socket
    this.ready = ready
    this.#handlers = handlers
    this.#prefixBlocks = new PrefixBlocks(ready.blocksTotal)
    this.chunks = new ChunkTable(ready, (hash) => this.#prefixBlocks.has(hash))
  }

  /**
   * Connects and waits for READY.
   * @throws Error where the socket refuses, the engine speaks another protocol, or `signal` fires first.
   */
  static async open(path: string, handlers: ConnectionHandlers, signal: AbortSignal): Promise<EngineConnection> {
    signal.throwIfAborted()
    const socket = connect({ path })
    const decoder = new FrameDecoder()
    let connection: EngineConnection | undefined
    return await new Promise<EngineConnection>((resolve, reject) => {
      const fail = (reason: string) => {
        signal.removeEventListener('abort', abort)
        socket.destroy()
        if (connection === undefined) reject(new Error(reason))
        else connection.#close(reason)
      }
      const abort = () => fail('gave up waiting for the engine')
      signal.addEventListener('abort', abort, { once: true })
      socket.on('connect', () => socket.write(encodeFrame({ type: 'hello', protocol: ENGINE_PROTOCOL })))
      socket.on('error', (error) => fail(error.message))
      socket.on('close', () => fail('the engine closed the connection'))
      socket.on('data', (chunk) => {
        try {
          for (const frame of decoder.push(chunk)) {
            if (connection !== undefined) connection.#receive(frame)
            else if (frame.type === 'ready' && frame.protocol === ENGINE_PROTOCOL) {
              signal.removeEventListener('abort', abort)
              connection = new EngineConnection(socket, frame, handlers)
              resolve(connection)
            } else if (frame.type === 'fatal') throw new Error(frame.message)
            else
              throw new Error(
                `the engine began with ${frame.type}${frame.type === 'ready' ? ` of protocol ${frame.protocol}` : ''}`,
              )
          }
        } catch (thrown) {
          fail(messageOf(thrown))
        }
      })
    })
  }

  /** Blocks that a prompt with the same beginning would find. */
  get prefixBlocks(): number {
    return this.#prefixBlocks.count
  }

  /** Sequences that have not ended. */
  get openSequences(): number {
    return this.#sequences.size
  }

  /** Sequences that have used up their allowance: the engine rightly makes no step for them. */
  get starvedSequences(): number {
    let count = 0
    for (const { creditTokens } of this.#sequences.values()) if (creditTokens <= 0) count++
    return count
  }

  get closed(): boolean {
    return this.#closedBecause !== undefined
  }

  /** Tells the engine what grammars are made of: before the first sequence with one. */
  setVocabulary(vocabulary: Omit<VocabularyFrame, 'type'>): void {
    this.#send({ type: 'vocabulary', ...vocabulary })
  }

  /** Submits a sequence. Handlers are called later, never from within this call. */
  submit({ chunks = [], ...parameters }: SequenceParameters, handlers: SequenceHandlers): Sequence {
    this.onWork?.()
    const id = this.#nextId++
    if (this.#closedBecause !== undefined) {
      const message = this.#closedBecause
      queueMicrotask(() => handlers.end({ kind: 'lost', message }))
      return { cancel: () => {}, grant: () => {} }
    }
    const state = { handlers, creditTokens: parameters.creditTokens, chunks }
    this.#send({ type: 'submit', id, ...parameters })
    // After it: what cannot be sent is not open.
    this.#sequences.set(id, state)
    return {
      cancel: () => {
        if (this.#sequences.has(id)) this.#send({ type: 'cancel', id })
      },
      grant: (tokens) => {
        if (tokens <= 0 || !this.#sequences.has(id)) return
        state.creditTokens += tokens
        this.#send({ type: 'credit', id, tokens })
      },
    }
  }

  /** Sets blocks aside for `tokens`, which another engine is to compute. */
  reserve(tokens: number[], salt: bigint, leaseMs: number): Reservation {
    this.onWork?.()
    return this.#reservations.reserve(tokens, salt, leaseMs)
  }

  get openReservations(): number {
    return this.#reservations.count
  }

  /** Computes a prompt for another engine and hands it over. It ends with `stop` when everything has arrived. */
  push(
    { chunks = [], ...parameters }: PushParameters,
    handlers: Pick<SequenceHandlers, 'admitted' | 'end'>,
  ): Pick<Sequence, 'cancel'> {
    this.onWork?.()
    const id = this.#nextId++
    if (this.#closedBecause !== undefined) {
      const message = this.#closedBecause
      queueMicrotask(() => handlers.end({ kind: 'lost', message }))
      return { cancel: () => {} }
    }
    // It samples nothing: it is never out of credit.
    const state = { handlers: { ...handlers, token: () => {} }, creditTokens: Number.POSITIVE_INFINITY, chunks }
    this.#send({ type: 'push', id, ...parameters })
    this.#sequences.set(id, state)
    return {
      cancel: () => {
        if (this.#sequences.has(id)) this.#send({ type: 'cancel', id })
      },
    }
  }

  /** Resolves with the answer of the engine's socket thread. Never rejects: race it against a timer. */
  ping(): Promise<void> {
    return new Promise((resolve) => {
      const nonce = this.#nextNonce++
      this.#pings.set(nonce, resolve)
      this.#send({ type: 'ping', nonce })
    })
  }

  /** Asks the engine to cancel everything and exit. */
  shutdown(): void {
    this.#send({ type: 'shutdown' })
  }

  destroy(reason: string): void {
    this.#socket.destroy()
    this.#close(reason)
  }

  #send(frame: AgentFrame): void {
    if (this.#closedBecause === undefined) this.#socket.write(encodeFrame(frame))
  }

  #receive(frame: Frame): void {
    switch (frame.type) {
      case 'tokens':
        for (const token of frame.tokens) {
          const state = this.#sequences.get(token.id)
          if (state === undefined) continue
          state.creditTokens--
          state.handlers.token(token)
        }
        return
      case 'finished':
        return this.#end(frame.id, { kind: 'finished', finished: frame })
      case 'rejected':
        return this.#end(frame.id, { kind: 'rejected', code: frame.code, message: frame.message })
      case 'stats':
        this.stats = frame
        return this.#handlers.stats(frame)
      case 'pong':
        this.#pings.get(frame.nonce)?.()
        this.#pings.delete(frame.nonce)
        return
      case 'fatal':
        throw new Error(frame.message)
      case 'embedding':
        return this.#sequences.get(frame.id)?.handlers.embedding?.(frame.values)
      case 'admitted': {
        const state = this.#sequences.get(frame.id)
        if (state !== undefined && state.chunks.length > 0) this.chunks.admitted(state.chunks, frame.hashes)
        return state?.handlers.admitted?.(frame.cachedTokens)
      }
      case 'blocks':
        this.#prefixBlocks.apply(frame)
        return this.chunks.blocks(frame.events)
      case 'reserved':
        return this.#reservations.reserved(frame)
      case 'transferred':
        return this.#reservations.transferred(frame)
      case 'vocabulary':
      case 'ready':
      case 'hello':
      case 'submit':
      case 'cancel':
      case 'credit':
      case 'ping':
      case 'shutdown':
      case 'reserve':
      case 'renew':
      case 'release':
      case 'push':
        throw new Error(`the engine sent ${frame.type}`)
      default:
        frame satisfies never
    }
  }

  #end(id: bigint, end: SequenceEnd): void {
    const state = this.#sequences.get(id)
    this.#sequences.delete(id)
    state?.handlers.end(end)
  }

  #close(reason: string): void {
    if (this.#closedBecause !== undefined) return
    this.#closedBecause = reason
    this.#pings.clear()
    this.#reservations.close()
    this.chunks.close()
    for (const id of [...this.#sequences.keys()]) this.#end(id, { kind: 'lost', message: reason })
    this.#handlers.closed(reason)
  }
}
