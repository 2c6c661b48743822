// Prompts that this agent's engines compute for others: its own decode engines and backends of other hosts. Owns the bounded,
// fair queue in front of the prefill engines, which engine takes a prompt, and what became of it; who may ask is
// prefill-authority.ts, what an asker does about a refusal handover.ts.
import type { Draw, TransferGrant } from '../../protocol/engine-handoff.ts'
import type { Failure } from '../../protocol/errors.ts'
import { Admission } from '../admission.ts'
import type { EngineConnection, SequenceEnd } from '../engine/client.ts'
import type { ChunkEnd } from '../prompt-chunks.ts'
import { type Computer, tokenMs } from './decision.ts'

/** At once in one engine: while the blocks of one leave, the next is computed. More would share it and make each one late. */
const PUSHES_PER_ENGINE_MAX = 4
/** Prompts that wait; whoever is turned away computes its own. */
const QUEUE_MAX = 64
/** The engine answers CANCEL within a step, or when the transport has let go. */
const CANCEL_WAIT_MS = 15_000
/** setTimeout's own limit. */
const TIMER_MS_MAX = 2 ** 31 - 1

export type PushAsk = {
  tokens: number[]
  /** First tokens, drawn here. */
  draw?: Draw
  firstBlock: number
  /** Of the prompt, as far as they are known here. */
  chunks?: readonly ChunkEnd[]
  /** `READY.kv_address` of the engine that gets them. */
  address: string
  /** Its layout: engines with another one cannot be paired. */
  fingerprint: string
  grant: TransferGrant
  priority: number
  /** Opaque, for fair sharing; `salt` separates prefix caches. */
  tenant: string
  tenantNumber: bigint
  salt: bigint
  /** On the clock that `nowMs` reads. */
  deadlineAtMs: number
  /** How much of the prompt the engine has that is to compute it, as soon as that is known; of another host's only at the end. */
  admitted?: (cachedTokens: number) => void
}

export type PushEnd =
  | {
      kind: 'arrived'
      computedTokens: number
      /** That the engine which computed it had. */
      cachedTokens: number
      /** Beyond the computation itself, as far as that is known: what moving the blocks took. */
      leftOverMs?: number
    }
  /** Nothing was sent: the grant can be used by somebody else. */
  | { kind: 'refused'; failure: Failure }
  /** Something may have been sent: the grant is spent. */
  | { kind: 'failed'; reason: string; isLate?: boolean }

/** An engine that may compute for others, as the desk sees it. */
export type PrefillEngine = {
  connection: Pick<EngineConnection, 'ready' | 'push' | 'chunks'> | undefined
  /** Takes new prompts. */
  takesPrompts: boolean
  /** Tokens of pushes that have not ended, for choosing and estimating. */
  pushTokens: number
  computer: () => Computer
}

export class PrefillDesk {
  readonly #engines: () => readonly PrefillEngine[]
  readonly #nowMs: () => number
  readonly #ended: (end: PushEnd) => void
  readonly #admission: Admission
  readonly #running = new Set<() => void>()
  #closed = false

  /** @param ended of each prompt, once. */
  constructor(engines: () => readonly PrefillEngine[], nowMs: () => number, ended: (end: PushEnd) => void) {
    this.#engines = engines
    this.#nowMs = nowMs
    this.#ended = ended
    this.#admission = new Admission(QUEUE_MAX, nowMs)
  }

  get queued(): number {
    return this.#admission.queued
  }
  get queueMax(): number {
    return QUEUE_MAX
  }
  /** Pushes that have not ended. */
  get running(): number {
    return this.#running.size
  }

  /** An engine came, went, or changed its role. */
  enginesChanged(): void {
    this.#admission.setSlotsMax(this.#ready().length * PUSHES_PER_ENGINE_MAX)
  }

  /** No new prompts; those that run end by themselves. */
  setClosed(closed: boolean): void {
    if (closed === this.#closed) return
    this.#closed = closed
    if (closed) this.#admission.close(REFUSED_CLOSED)
    else this.#admission.open()
  }

  /** Ends what runs: the askers compute for themselves. */
  cancelAll(): void {
    for (const cancel of [...this.#running]) cancel()
  }

  /** Computes and pushes. Never throws. @param signal cancels; resolves when the engine has let go, or cannot be waited for. */
  async push(ask: PushAsk, signal: AbortSignal, exclude?: PrefillEngine): Promise<PushEnd> {
    const end = await this.#push(ask, signal, exclude)
    this.#ended(end)
    return end
  }

  /** The one that a prompt would get now. */
  best(exclude?: PrefillEngine): PrefillEngine | undefined {
    return this.#closed ? undefined : this.#ready(exclude).sort((a, b) => a.pushTokens - b.pushTokens)[0]
  }

  async #push(ask: PushAsk, signal: AbortSignal, exclude?: PrefillEngine): Promise<PushEnd> {
    if (this.#ready(exclude).length === 0) return refused('no prefill engine is running here')
    const { tenant, priority, deadlineAtMs } = ask
    const waiting = new AbortController()
    const giveUp = () => waiting.abort(WAITED_TOO_LONG)
    const timer = setTimeout(giveUp, Math.max(0, Math.min(TIMER_MS_MAX, deadlineAtMs - this.#nowMs())))
    if (signal.aborted) giveUp()
    else signal.addEventListener('abort', giveUp, { once: true })
    const entered = await this.#admission.enter({ slots: 1, tenant, priority, deadlineAtMs }, waiting.signal)
    clearTimeout(timer)
    signal.removeEventListener('abort', giveUp)
    if (!entered.ok) return { kind: 'refused', failure: entered.error }
    try {
      const engine = this.best(exclude)
      const connection = engine?.connection
      if (engine === undefined || connection === undefined) return refused('no prefill engine is running here')
      if (connection.ready.kvFingerprint !== ask.fingerprint) return refused(LAYOUT_DIFFERS, 'invalid_request')
      return await this.#run(ask, engine, connection, signal)
    } finally {
      entered.value.release()
    }
  }

  async #run(
    ask: PushAsk,
    engine: PrefillEngine,
    connection: NonNullable<PrefillEngine['connection']>,
    signal: AbortSignal,
  ): Promise<PushEnd> {
    const tokens = ask.tokens.length
    const { firstBlock, address, grant, priority, salt } = ask
    const deadlineMs = Math.min(0xffff_ffff, Math.max(1, Math.ceil(ask.deadlineAtMs - this.#nowMs())))
    const known = {
      ...(ask.chunks === undefined ? {} : { chunks: ask.chunks }),
      ...(ask.draw === undefined ? {} : { draw: ask.draw }),
    }
    let cachedTokens = 0
    let beganMs: number | undefined
    /** Beside other prompts nobody can say what the time went to. */
    const isAlone = () => engine.pushTokens === tokens
    let isOver = false
    let timer: NodeJS.Timeout | undefined
    engine.pushTokens += tokens
    const end = await new Promise<SequenceEnd>((resolve) => {
      const over = (ended: SequenceEnd) => {
        if (isOver) return
        isOver = true
        clearTimeout(timer)
        signal.removeEventListener('abort', cancel)
        this.#running.delete(cancel)
        resolve(ended)
      }
      const push = connection.push(
        {
          tokens: ask.tokens,
          firstBlock,
          address,
          grant,
          priority,
          deadlineMs,
          tenant: ask.tenantNumber,
          salt,
          ...known,
        },
        {
          admitted: (cached) => {
            cachedTokens = cached
            ask.admitted?.(cached)
            if (isAlone()) beganMs = this.#nowMs()
          },
          end: over,
        },
      )
      const cancel = () => {
        if (timer !== undefined || isOver) return
        push.cancel()
        timer = setTimeout(() => over({ kind: 'lost', message: 'no answer to CANCEL' }), CANCEL_WAIT_MS)
      }
      this.#running.add(cancel)
      if (signal.aborted) cancel()
      else signal.addEventListener('abort', cancel, { once: true })
    })
    const runMs = beganMs === undefined || !isAlone() ? undefined : this.#nowMs() - beganMs
    engine.pushTokens -= tokens
    if (end.kind === 'lost') return { kind: 'failed', reason: end.message }
    if (end.kind === 'rejected') return refused(end.message, end.code === 'invalid' ? 'invalid_request' : 'overloaded')
    const { reason } = end.finished
    if (reason !== 'stop') return { kind: 'failed', reason, isLate: reason === 'deadline' }
    const computedTokens = Math.max(0, tokens - cachedTokens)
    if (runMs === undefined) return { kind: 'arrived', cachedTokens, computedTokens }
    const leftOverMs = Math.max(0, runMs - computedTokens * tokenMs(engine.computer()))
    return { kind: 'arrived', cachedTokens, computedTokens, leftOverMs }
  }

  #ready(exclude?: PrefillEngine): PrefillEngine[] {
    return this.#engines().filter(
      (engine) => engine !== exclude && engine.takesPrompts && engine.connection !== undefined,
    )
  }
}

const LAYOUT_DIFFERS = 'this backend keeps keys and values in another layout'
const RETRY_AFTER_MS = 1000
const WAITED_TOO_LONG: Failure = { code: 'overloaded', message: 'the prompt waited for too long' }
const REFUSED_CLOSED: Failure = {
  code: 'overloaded',
  message: 'this backend takes no prompts',
  retryAfterMs: RETRY_AFTER_MS,
}

const refused = (message: string, code: 'overloaded' | 'invalid_request' = 'overloaded'): PushEnd => ({
  kind: 'refused',
  failure: code === 'overloaded' ? { code, message, retryAfterMs: RETRY_AFTER_MS } : { code, message },
})
