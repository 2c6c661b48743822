// Everything that moves prompts between engines, for one agent. Owns which engine a prompt gets, who may help which engine, the desk
// for prompts of others, and the counts; one hand-over is handover.ts, the sequences of a dispatch sequences.ts.
import type { DispatchRequest, PrefillLoad, PrefillPlace } from '../../protocol/dispatch.ts'
import type { SequenceParameters } from '../engine/client.ts'
import { chooseEngine } from '../engine-choice.ts'
import type { EngineUnit } from '../engine-unit.ts'
import type { Engines } from '../engines.ts'
import type { Identity } from '../identity.ts'
import type { ChunkEnd } from '../prompt-chunks.ts'
import { type FarLoad, LOCAL_OVERHEAD_MS, REMOTE_OVERHEAD_MS, speedOf, tokenMs } from './decision.ts'
import { HANDOVER_OUTCOMES, type HandoverOutcome, type HelperPort } from './handover.ts'
import { pushByWorker } from './prefill-client.ts'
import { PrefillDesk } from './prefill-desk.ts'
import { DispatchSequences, type Picked, type SequencesOptions } from './sequences.ts'

/** Since the agent started. */
export type HandoffCounters = {
  outcomes: Record<HandoverOutcome, number>
  tokens: number
  bytes: number
  /** Prompts that a prefill engine should have computed, and none could. */
  degraded: number
  /** Prompts computed for others, and refused. */
  pushed: number
  pushesRefused: number
}

export type HandoffsOptions = {
  engines: Engines
  identity: Pick<Identity, 'signFor'>
  model: string
  /** Monotonic milliseconds. */
  nowMs: () => number
  /** In [0, 1), a new one each time. */
  random: () => number
  /** Settings that only tests change. */
  timing?: SequencesOptions['timing']
}

/** A dispatch may wait here for long: after it, of what the gateway said of other backends their speed alone counts. */
const LOAD_OLD_MS = 5000

type Asked = Pick<DispatchRequest, 'requestId' | 'tenant' | 'n' | 'deadlineInMs' | 'prefill'>

export class Handoffs {
  readonly #options: HandoffsOptions
  readonly desk: PrefillDesk
  readonly counters: HandoffCounters = {
    outcomes: Object.fromEntries(HANDOVER_OUTCOMES.map((outcome) => [outcome, 0])) as Record<HandoverOutcome, number>,
    tokens: 0,
    bytes: 0,
    degraded: 0,
    pushed: 0,
    pushesRefused: 0,
  }

  constructor(options: HandoffsOptions) {
    this.#options = options
    this.desk = new PrefillDesk(
      () => options.engines.units,
      options.nowMs,
      (end) => {
        if (end.kind === 'arrived') this.counters.pushed++
        if (end.kind === 'refused') this.counters.pushesRefused++
      },
    )
  }

  /** For the sequences of one dispatch; `close` it when they are over. */
  open(request: Asked, deadlineAtMs: number): DispatchSequences {
    const { engines, nowMs, timing } = this.#options
    const helpers = (unit: EngineUnit, chunks: readonly ChunkEnd[]) => [
      ...this.#near(unit, chunks),
      ...this.#far(unit, chunks, request, deadlineAtMs),
    ]
    return new DispatchSequences({
      pick: (parameters) => this.#pick(parameters, request, deadlineAtMs, helpers),
      helpers,
      missed: (unit) => (engines.units.some((one) => one !== unit && one.role !== 'decode') ? 'near' : 'far'),
      tenant: request.tenant,
      deadlineAtMs,
      nowMs,
      count: (outcome, transferred, place) => this.#count(outcome, transferred, place),
      ...(timing === undefined ? {} : { timing }),
    })
  }

  #count(outcome: HandoverOutcome, { tokens, bytes }: { tokens: number; bytes: number }, place: PrefillPlace): void {
    this.counters.outcomes[outcome]++
    this.counters.tokens += tokens
    this.counters.bytes += bytes
    if (place === 'degraded') this.counters.degraded++
  }

  /** The engine that is predicted to finish it soonest; absent: none is up. */
  #pick(
    { prompt, output, chunks = [], pooling, maxNewTokens }: SequenceParameters,
    { n }: Asked,
    deadlineAtMs: number,
    helpers: (unit: EngineUnit, chunks: readonly ChunkEnd[]) => HelperPort[],
  ): Picked | undefined {
    const { engines, nowMs, random } = this.#options
    const { serving } = engines
    const asked = {
      tokens: prompt.length + (output?.length ?? 0),
      // What goes on, goes on one by one.
      sequences: output === undefined ? n : 1,
      outputTokensMax: pooling === undefined ? maxNewTokens : 0,
      leftMs: deadlineAtMs - nowMs(),
    }
    const candidates = serving.map((unit) => unit.candidate(chunks, pooling === undefined ? helpers(unit, chunks) : []))
    const choice = chooseEngine(asked, candidates, random())
    const unit = choice === undefined ? undefined : serving[choice.index]
    if (choice === undefined || unit === undefined) return undefined
    return { unit, promptTokens: choice.promptTokens, heldTokens: candidates[choice.index]?.heldTokens ?? 0 }
  }

  /** Another engine of this agent: the desk picks it, the estimate is for the one that it would pick now. */
  #near(unit: EngineUnit, chunks: readonly ChunkEnd[]): HelperPort[] {
    if (unit.ready?.kvAddress === undefined) return []
    const best = this.desk.best(unit)
    if (best === undefined) return []
    const meter = unit.meter('near')
    const rate = meter.bytesPerSecond
    const held = chunks.filter(({ chunk }) => best.connection?.chunks.holds(chunk))
    return [
      {
        way: 'near',
        heldTokens: Math.max(0, ...held.map(({ tokens }) => tokens)),
        load: best.computer(),
        overheadMs: LOCAL_OVERHEAD_MS,
        ...(rate === undefined ? {} : { bytesPerSecond: rate }),
        push: (ask, signal) => this.desk.push(ask, signal, unit),
        measured: (bytes, leftOverMs) => meter.add(bytes, leftOverMs),
      },
    ]
  }

  #far(unit: EngineUnit, chunks: readonly ChunkEnd[], request: Asked, deadlineAtMs: number): HelperPort[] {
    const address = unit.publicAddress
    if (address === undefined) return []
    const { identity, model, nowMs } = this.#options
    const meter = unit.meter('far')
    // What was known is old by now: a queue that was there then is gone, or another one.
    const isOld = nowMs() - (deadlineAtMs - request.deadlineInMs) > LOAD_OLD_MS
    return (request.prefill ?? []).map((worker) => {
      const rate = meter.bytesPerSecond
      const load = worker.load === undefined ? undefined : loadOf(worker.load, isOld)
      const port: HelperPort = {
        way: 'far',
        heldTokens: chunks.find(({ chunk }) => chunk === worker.load?.heldChunk)?.tokens ?? 0,
        overheadMs: REMOTE_OVERHEAD_MS,
        ...(load === undefined ? {} : { load }),
        ...(rate === undefined ? {} : { bytesPerSecond: rate }),
        push: async (ask, signal) => {
          const computeMs = (tokens: number) => tokens * tokenMs(speedOf(load, unit.computer()))
          const options = { identity, model, requestId: request.requestId, address, computeMs, nowMs }
          return await pushByWorker(worker, ask, options, signal)
        },
        measured: (bytes, leftOverMs) => meter.add(bytes, leftOverMs),
      }
      return port
    })
  }
}

function loadOf(
  { prefillTokensQueued, stepModel, prefillTokensPerSecond: rate }: PrefillLoad,
  isOld: boolean,
): FarLoad {
  return {
    prefillTokensQueued: isOld ? 0 : prefillTokensQueued,
    ...(stepModel === undefined ? {} : { model: stepModel }),
    ...(rate === undefined ? {} : { prefillTokensPerSecond: rate }),
  }
}
