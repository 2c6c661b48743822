// The sequences of one dispatch, as session.ts submits them: each at once, to an engine that is asked for here, after its prompt
// was handed over where that pays. Owns which sequences share a prompt, cancelling one that was not submitted yet, and what of
// a prompt counts as cached; how a prompt is handed over is handover.ts.
//
//   submit() ─▶ waiting ──handed over, or decided against──▶ submitted to the engine ─▶ its end
//                  └────cancel(), no engine──▶ its end, made here
//
// An engine that dies before it has begun a sequence costs nothing but time, where another one is up: it begins there.
import type { PrefillPlace } from '../../protocol/dispatch.ts'
import type { Draw } from '../../protocol/engine-handoff.ts'
import type { Sequence, SequenceEnd, SequenceHandlers, SequenceParameters } from '../engine/client.ts'
import type { EngineUnit } from '../engine-unit.ts'
import type { Given } from '../engine-work.ts'
import type { ChunkEnd } from '../prompt-chunks.ts'
import {
  decideFor,
  HANDOVER_TIMING,
  type Handover,
  type HandoverAsk,
  type HandoverOutcome,
  type HandoverTiming,
  type HelperPort,
  handOver,
  placeOf,
} from './handover.ts'

export type Picked = {
  unit: EngineUnit
  /** To be computed there, by prediction; 0: elsewhere. */
  promptTokens: number
  /** Of the prompt, in its cache or about to be. */
  heldTokens: number
}

export type SequencesOptions = {
  /** An engine to finish it; absent: none is up. */
  pick: (parameters: SequenceParameters) => Picked | undefined
  /** Who may compute a prompt for this engine. */
  helpers: (unit: EngineUnit, chunks: readonly ChunkEnd[]) => HelperPort[]
  /** Where nobody may: whether an engine of this agent is missed, or backends of other hosts alone. */
  missed: (unit: EngineUnit) => HandoverAsk['missed']
  /** For fair sharing on the way. */
  tenant: string
  /** On the clock that `nowMs` reads. */
  deadlineAtMs: number
  nowMs: () => number
  /** Of each prompt, once. */
  count: (outcome: HandoverOutcome, transferred: { tokens: number; bytes: number }, place: PrefillPlace) => void
  timing?: Partial<HandoverTiming>
}

type Waiting = {
  parameters: SequenceParameters
  handlers: SequenceHandlers
  group: Group
  submittedMs: number
  grantedTokens: number
  /** Set where it is in an engine, or over. */
  sequence?: Sequence
  isCancelled: boolean
  /** Once: a prompt that ends engines must not go through all of them. */
  hasMoved: boolean
}

/** A prompt and the sequences that begin with it. */
type Group = {
  unit: EngineUnit
  /** What the unit is told that it has with this. */
  given: Given
  /** Of the prompt, without what its cache has. */
  missingTokens: number
  /** Sequences that have not ended. */
  open: number
  /** Where its blocks and first tokens are. */
  reserved?: { id: bigint; connection: EngineUnit['connection'] }
  waiting: Waiting[]
  abort: AbortController
  handover?: Handover
  place?: PrefillPlace
}

/** The choices of a prompt are drawn alike, each from its own seed. */
function drawOf(waiting: readonly Waiting[]): Draw | undefined {
  const seeds = waiting.map(({ parameters }) => parameters.seed)
  const first = waiting[0]?.parameters
  if (first === undefined) return undefined
  const { temperature, topP, topK, minP, bias, logprobsTop, grammar } = first
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = first
  return {
    promptTokens: first.prompt.length,
    seeds,
    temperature,
    topP,
    topK,
    minP,
    repetitionPenalty,
    presencePenalty,
    frequencyPenalty,
    bias,
    ...(logprobsTop === undefined ? {} : { logprobsTop }),
    ...(grammar === undefined ? {} : { grammar }),
  }
}

const lengthOf = ({ prompt, output }: SequenceParameters): number => prompt.length + (output?.length ?? 0)

/** Nothing of the prompt is left to compute but its last tokens. */
const isThere = (outcome: HandoverOutcome): boolean => outcome === 'arrived' || outcome === 'present'

const NOTHING: Sequence = { cancel: () => {}, grant: () => {} }

export class DispatchSequences {
  readonly #options: SequencesOptions
  /** By the array itself: the choices of one prompt share it. */
  readonly #groups = new Map<readonly number[], Group>()
  readonly #units = new Set<EngineUnit>()
  readonly #places: PrefillPlace[] = []
  readonly #moving = new AbortController()
  readonly #watched: AbortSignal[] = []
  readonly #move = () => this.#moving.abort()

  constructor(options: SequencesOptions) {
    this.#options = options
  }

  /** The engine that got the first of them. */
  get unit(): EngineUnit | undefined {
    return this.#units.values().next().value
  }
  /** Fires when an engine that has some of them gives up what it has. */
  get moving(): AbortSignal {
    return this.#moving.signal
  }
  /** They are over: nobody listens any more. */
  close(): void {
    for (const signal of this.#watched.splice(0)) signal.removeEventListener('abort', this.#move)
  }

  /** Where the prompts were computed, as far as that is known; absent: it is not, or there was no choice. */
  get place(): PrefillPlace | undefined {
    if (this.#places.includes('degraded')) return 'degraded'
    return this.#places.includes('handed_over') ? 'handed_over' : this.#places[0]
  }

  /** As EngineConnection.submit. */
  submit(parameters: SequenceParameters, handlers: SequenceHandlers): Sequence {
    const known = parameters.output === undefined ? this.#groups.get(parameters.prompt) : undefined
    if (known !== undefined) return this.#join(known, parameters, handlers)
    const picked = this.#options.pick(parameters)
    if (picked === undefined) {
      queueMicrotask(() => handlers.end({ kind: 'lost', message: 'no engine is running' }))
      return NOTHING
    }
    const { unit } = picked
    this.#use(unit)
    const helpers = parameters.pooling === undefined ? this.#options.helpers(unit, parameters.chunks ?? []) : []
    const group = this.#group(picked, parameters)
    // No choice, and nothing to be told about it.
    const isPlain = parameters.pooling !== undefined || (helpers.length === 0 && unit.role !== 'decode')
    if (isPlain) group.handover = { outcome: 'cheaper', transferredTokens: 0 }
    if (parameters.output === undefined) this.#groups.set(parameters.prompt, group)
    const sequence = this.#join(group, parameters, handlers)
    if (!isPlain) void this.#run(group, parameters, helpers)
    return sequence
  }

  #group(picked: Picked, parameters: SequenceParameters): Group {
    const { unit } = picked
    const missingTokens = Math.max(1, lengthOf(parameters) - picked.heldTokens)
    return {
      unit,
      given: this.#give(picked, parameters),
      missingTokens,
      open: 0,
      waiting: [],
      abort: new AbortController(),
    }
  }

  #give({ unit, promptTokens }: Picked, parameters: SequenceParameters): Given {
    const kvTokens = lengthOf(parameters)
    return unit.work.begin({ promptTokens, kvTokens }, parameters.chunks ?? [], this.#options.nowMs)
  }

  #join(group: Group, parameters: SequenceParameters, handlers: SequenceHandlers): Sequence {
    const submittedMs = this.#options.nowMs()
    const waiting: Waiting = {
      parameters,
      handlers: {
        ...handlers,
        token: (token) => {
          waiting.group.given.firstToken()
          handlers.token(token)
        },
        end: (end) => {
          if (--waiting.group.open === 0) waiting.group.given.end()
          handlers.end(end)
        },
      },
      group,
      submittedMs,
      grantedTokens: 0,
      isCancelled: false,
      hasMoved: false,
    }
    group.open++
    if (group.handover !== undefined) waiting.sequence = this.#submit(group, waiting, undefined)
    else {
      group.waiting.push(waiting)
      group.unit.pendingSequences++
    }
    return {
      cancel: () => {
        waiting.isCancelled = true
        if (waiting.sequence !== undefined) return waiting.sequence.cancel()
        this.#leave(group, waiting, {
          kind: 'finished',
          finished: {
            type: 'finished',
            id: 0n,
            reason: 'cancelled',
            promptTokens: parameters.prompt.length,
            cachedTokens: 0,
            outputTokens: parameters.output?.length ?? 0,
          },
        })
        if (group.waiting.length === 0) group.abort.abort()
      },
      grant: (tokens) => {
        if (waiting.sequence !== undefined) waiting.sequence.grant(tokens)
        else waiting.grantedTokens += tokens
      },
    }
  }

  /** Ends a sequence that no engine knows of. */
  #leave(group: Group, waiting: Waiting, end: SequenceEnd): void {
    const at = group.waiting.indexOf(waiting)
    if (at < 0) return
    group.waiting.splice(at, 1)
    group.unit.pendingSequences--
    waiting.sequence = NOTHING
    queueMicrotask(() => waiting.handlers.end(end))
  }

  async #run(group: Group, parameters: SequenceParameters, helpers: HelperPort[]): Promise<void> {
    const { connection } = group.unit
    const ask = connection === undefined ? undefined : this.#ask(group, connection, parameters, helpers)
    const before = ask?.own()
    const handover: Handover =
      ask === undefined ? { outcome: 'lost', transferredTokens: 0 } : await handOver(ask, group.abort.signal)
    group.handover = handover
    if (handover.outcome === 'lost') this.#moveOn(group)
    else group.given.compute(isThere(handover.outcome) ? 0 : group.missingTokens)
    let { lease } = handover
    if (lease !== undefined) group.reserved = { id: lease.reservation.id, connection }
    const place = placeOf(handover.outcome)
    if (place !== undefined) this.#tell(group, place, handover)
    const live = group.waiting.splice(0)
    group.unit.pendingSequences -= live.length
    if (live.length === 0) {
      lease?.release()
      if (place === undefined) this.#tell(group, 'local', handover)
    }
    for (const waiting of live) {
      const isJudge = place === undefined && waiting === live[0]
      // As it was without this prompt.
      const judged = isJudge && ask !== undefined && before !== undefined ? { ...ask, own: () => before } : undefined
      waiting.sequence = this.#submit(group, waiting, lease, judged)
      // The others find in the cache what the first one holds, and their first tokens by the reservation's name.
      lease = undefined
    }
  }

  /** The engine died before it had any of the sequences: another one can have them. */
  #moveOn(group: Group): void {
    const [first] = group.waiting
    const picked = first === undefined ? undefined : this.#options.pick(first.parameters)
    if (first === undefined || picked === undefined || picked.unit === group.unit) return
    const other = picked.unit
    group.given.end()
    group.given = this.#give(
      { ...picked, promptTokens: lengthOf(first.parameters) - picked.heldTokens },
      first.parameters,
    )
    for (const waiting of group.waiting) waiting.hasMoved = true
    group.unit.pendingSequences -= group.waiting.length
    other.pendingSequences += group.waiting.length
    group.unit = other
    this.#use(other)
  }

  #use(unit: EngineUnit): void {
    if (this.#units.has(unit)) return
    this.#units.add(unit)
    this.#watched.push(unit.moving)
    unit.moving.addEventListener('abort', this.#move, { once: true })
  }

  #ask(
    group: Group,
    connection: NonNullable<EngineUnit['connection']>,
    parameters: SequenceParameters,
    helpers: HelperPort[],
  ): HandoverAsk {
    const { tenant, deadlineAtMs, nowMs, timing } = this.#options
    const { unit } = group
    return {
      connection,
      draw: () => drawOf(group.waiting),
      tokens: parameters.output === undefined ? parameters.prompt : [...parameters.prompt, ...parameters.output],
      chunks: parameters.chunks ?? [],
      own: () => unit.computer(group.given.promptTokens()),
      helpers,
      missed: this.#options.missed(unit),
      bytesPerToken: unit.bytesPerToken,
      priority: parameters.priority,
      tenant,
      tenantNumber: parameters.tenant,
      salt: parameters.salt,
      deadlineAtMs,
      nowMs,
      timing: { ...HANDOVER_TIMING, ...timing },
    }
  }

  /**
   * @param lease blocks that the sequence takes over.
   * @param judged tells the place once the engine has said how much of the prompt its cache had.
   */
  #submit(group: Group, waiting: Waiting, lease: Handover['lease'], judged?: HandoverAsk): Sequence {
    const { connection } = group.unit
    const { handlers } = waiting
    const parameters = this.#nowOf(waiting)
    let hasBegun = false
    if (connection === undefined) {
      lease?.release()
      if (judged !== undefined && group.handover !== undefined) this.#tell(group, 'local', group.handover)
      queueMicrotask(() => handlers.end({ kind: 'lost', message: 'the engine is not running' }))
      return NOTHING
    }
    /** What was computed elsewhere for this request is no cache's. */
    const cached = (tokens: number) => Math.min(tokens, group.handover?.cachedTokens?.() ?? tokens)
    const judge = (cachedTokens: number) => {
      if (judged === undefined || group.handover === undefined || group.place !== undefined) return
      const decision = decideFor(judged, cachedTokens)
      const isDegraded = decision.place === 'local' && decision.reason === 'nobody'
      this.#tell(group, isDegraded ? 'degraded' : 'local', group.handover)
    }
    // Ids are a connection's own: after a restart the same one may be another's. One that is over is no mistake to name.
    const isNamed = group.reserved !== undefined && group.reserved.connection === connection
    const named = isNamed ? { ...parameters, reservation: group.reserved?.id ?? 0n } : parameters
    return connection.submit(named, {
      ...handlers,
      token: (token) => {
        hasBegun = true
        handlers.token(token)
      },
      admitted: (cachedTokens) => {
        hasBegun = true
        lease?.taken()
        judge(cachedTokens)
        handlers.admitted?.(cached(cachedTokens))
      },
      end: (end) => {
        // A refusal leaves the reservation as it was.
        if (end.kind === 'rejected') lease?.release()
        else lease?.taken()
        judge(Number.POSITIVE_INFINITY)
        if (end.kind === 'lost' && !hasBegun && !waiting.isCancelled && this.#begunElsewhere(group, waiting)) return
        if (end.kind !== 'finished') return handlers.end(end)
        const { finished } = end
        const say = () =>
          handlers.end({ ...end, finished: { ...finished, cachedTokens: cached(finished.cachedTokens) } })
        const counting = group.handover?.counting?.()
        if (counting === undefined) say()
        else void counting.then(say)
      },
    })
  }

  /** Whether another engine has it now: the one that it was given to is gone, and had not begun. */
  #begunElsewhere(group: Group, waiting: Waiting): boolean {
    const picked = this.#options.pick(waiting.parameters)
    if (waiting.hasMoved || picked === undefined || picked.unit === group.unit) return false
    waiting.hasMoved = true
    this.#use(picked.unit)
    if (--group.open === 0) group.given.end()
    const own = this.#group(picked, waiting.parameters)
    own.given.compute(own.missingTokens)
    own.open = 1
    own.handover = { outcome: 'lost', transferredTokens: 0 }
    waiting.group = own
    waiting.sequence = this.#submit(own, waiting, undefined)
    return true
  }

  /** What is left of its time, and what it was allowed meanwhile. */
  #nowOf({ parameters, submittedMs, grantedTokens }: Waiting): SequenceParameters {
    const { creditTokens, deadlineMs } = parameters
    const elapsedMs = this.#options.nowMs() - submittedMs
    // A deadline of 0 is none.
    const leftMs = deadlineMs === 0 ? 0 : Math.max(1, Math.ceil(deadlineMs - elapsedMs))
    return { ...parameters, creditTokens: creditTokens + grantedTokens, deadlineMs: leftMs }
  }

  #tell(group: Group, place: PrefillPlace, handover: Handover): void {
    group.place = place
    this.#places.push(place)
    const tokens = handover.transferredTokens
    this.#options.count(handover.outcome, { tokens, bytes: tokens * group.unit.bytesPerToken }, place)
  }
}
