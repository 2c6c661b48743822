// What a snapshot says of each backend that serves a model, as numbers ○. Owns the columns that predictions are made of, the
// defaults for what nobody has measured, and that they are made once per snapshot instead of once per decision. What the
// numbers predict is predict.ts; who is chosen by them, pick.ts.
import type { CapacityFrame, StepModel } from '../../protocol/capacity.ts'
import { UNMEASURED_STEP } from '../../protocol/prediction.ts'
import type { Load } from './ledger.ts'
import type { BackendView, FleetSnapshot } from './snapshot.ts'

/** Hand-overs that nobody has measured: through the memory of one host, and over a network of 10 Gbit/s. */
const LOCAL_BYTES_PER_MS = 4e6
const REMOTE_BYTES_PER_MS = 1e6

/** Frames that come with responses count this much later at most: looking at thousands for each decision would cost as much as it. */
const REFRESH_MS = 20

/** What the snapshot alone says. The order is that of `STANDINGS`. */
export type Standing = 'candidate' | 'full' | 'other_model' | 'no_grammars' | 'draining' | 'stale'
export const STANDINGS: readonly Standing[] = ['candidate', 'full', 'other_model', 'no_grammars', 'draining', 'stale']
export const CANDIDATE = STANDINGS.indexOf('candidate')
export const FULL = STANDINGS.indexOf('full')
export const STALE = STANDINGS.indexOf('stale')
const OTHER_MODEL = STANDINGS.indexOf('other_model')

/** Which layouts of K and V may be paired: an index into the fleet's fingerprints; none where nobody can hand any over. */
const NO_LAYOUT = -1

/** A backend's prefill engines, which compute prompts for decode engines of their own or of other hosts. */
export type PrefillRow = {
  /** Of the backend in the snapshot. */
  row: number
  layout: number
  queuedTokens: number
  requestsQueued: number
  /** Of one engine. */
  msPerToken: number
  /** Of all of them together: how fast what is queued goes away. */
  waitMsPerToken: number
  contextTokensMax: number
  /** Of those that have measured one; absent: none has. */
  stepModel?: StepModel
  /** Of any of them it was measured how fast it computes prompts. */
  isMeasured: boolean
}

/**
 * The same numbers once more, a backend's side by side: what a decision asks of each of thousands, most of which this isolate has
 * sent nothing. Indices into a row of `hot`; the names are those of the columns, what is made of several says of which.
 */
export const HOT = {
  /** Of step model, `busy`, `slots`, `decodeKvTokens` and `engines`: without the request. */
  itlMs: 0,
  stepSequenceMs: 1,
  stepKvTokenMs: 2,
  busy: 3,
  /** At least 1. */
  slots: 4,
  kvUsedTokens: 5,
  kvTotalTokens: 6,
  queuedTokens: 7,
  requestsQueued: 8,
  waitMsPerToken: 9,
  prefillMsPerToken: 10,
  wayMs: 11,
  contextTokensMax: 12,
  /** 1: others may compute long prompts for it. */
  isHelped: 13,
  /** Two cache lines. */
  size: 16,
} as const

/** What the engines must be able to do. */
export type Served = { model: string; wantsGrammar: boolean }

/** One number per backend of the snapshot and column; a backend's engines count together. */
export class Figures {
  readonly backends: readonly BackendView[]
  readonly size: number
  readonly standing: Uint8Array
  /** What its last frames say of one whose reports are too old. */
  readonly beneath: Uint8Array
  /** Somebody has measured how fast it computes prompts. */
  readonly isMeasured: Uint8Array
  readonly isDecodeOnly: Uint8Array
  /** Of the newest report in it, by the isolate's clock: what was sent before is part of the frames. */
  readonly framedAtMs: Float64Array
  /** The way there and back, as far as it is known. */
  readonly wayMs: Float64Array
  readonly engines: Float64Array
  readonly contextTokensMax: Float64Array
  readonly queuedTokens: Float64Array
  readonly requestsQueued: Float64Array
  readonly prefillMsPerToken: Float64Array
  readonly waitMsPerToken: Float64Array
  /** Sequences and requests of any state. */
  readonly busy: Float64Array
  readonly slots: Float64Array
  readonly stepBaseMs: Float64Array
  readonly stepSequenceMs: Float64Array
  readonly stepKvTokenMs: Float64Array
  readonly decodeKvTokens: Float64Array
  readonly kvUsedTokens: Float64Array
  readonly kvTotalTokens: Float64Array
  readonly layout: Int32Array
  readonly transferMsPerToken: Float64Array
  readonly ownTransferMsPerToken: Float64Array
  /** See HOT. */
  readonly hot: Float64Array
  /** By row: the ledger has something for it, so its row of `hot` is not all. */
  readonly hasAhead: Uint8Array
  /** Its own prefill engines, by row; undefined where it has none. */
  readonly own: (PrefillRow | undefined)[]
  /** Every backend's prefill engines that may be asked from other hosts. */
  prefill: PrefillRow[] = []
  /** Nobody with this model has reported lately: all that is left to judge by is what this isolate has sent. */
  isBlind = false
  /** Of this isolate's ledger, beyond what the frames show. Filled for the time of one decision. */
  readonly aheadPromptTokens: Float64Array
  readonly aheadSequences: Float64Array
  readonly aheadKvTokens: Float64Array
  readonly #ahead: number[] = []
  readonly #model: string
  readonly #wantsGrammar: boolean
  readonly #isStale: Uint8Array
  readonly #frames: CapacityFrame[][]
  readonly #layouts = new Map<string, number>()
  readonly #usual: Usual
  #checkedAtMs: number

  /** @param seenAtMs When this isolate first saw the snapshot. */
  constructor(
    { backends, staleAfterMs }: FleetSnapshot,
    { model, wantsGrammar }: Served,
    wayMs: ReadonlyMap<string, number>,
    seenAtMs: number,
  ) {
    const size = backends.length
    const column = () => new Float64Array(size)
    this.backends = backends
    this.size = size
    this.standing = new Uint8Array(size)
    this.beneath = new Uint8Array(size)
    this.#isStale = new Uint8Array(size)
    this.isMeasured = new Uint8Array(size)
    this.isDecodeOnly = new Uint8Array(size)
    this.layout = new Int32Array(size)
    this.framedAtMs = column()
    this.wayMs = column()
    this.aheadPromptTokens = column()
    this.aheadSequences = column()
    this.aheadKvTokens = column()
    this.engines = column()
    this.contextTokensMax = column()
    this.queuedTokens = column()
    this.requestsQueued = column()
    this.prefillMsPerToken = column()
    this.waitMsPerToken = column()
    this.busy = column()
    this.slots = column()
    this.stepBaseMs = column()
    this.stepSequenceMs = column()
    this.stepKvTokenMs = column()
    this.decodeKvTokens = column()
    this.kvUsedTokens = column()
    this.kvTotalTokens = column()
    this.transferMsPerToken = column()
    this.ownTransferMsPerToken = column()
    this.hot = new Float64Array(size * HOT.size)
    this.hasAhead = new Uint8Array(size)
    this.own = new Array(size)
    this.#model = model
    this.#wantsGrammar = wantsGrammar
    this.#frames = new Array(size)
    this.#checkedAtMs = seenAtMs
    this.#usual = usual(backends, model)
    for (let row = 0; row < size; row++) {
      const backend = backends[row]
      if (backend === undefined) continue
      this.framedAtMs[row] = seenAtMs - backend.reportAgeMs
      this.#isStale[row] = backend.reportAgeMs > staleAfterMs ? 1 : 0
      this.wayMs[row] = wayMs.get(backend.backendId) ?? 0
      this.#fill(row, backend)
    }
    this.#gather()
  }

  /**
   * Takes in frames that came with responses since the last decision. Such a frame was made after what this isolate had sent
   * by then arrived, or so shortly before that the ledger's margin covers it.
   */
  refresh(nowMs: number): void {
    if (nowMs < this.#checkedAtMs + REFRESH_MS) return
    let hasChanged = false
    for (let row = 0; row < this.size; row++) {
      const backend = this.backends[row]
      const known = this.#frames[row]
      if (backend === undefined || known === undefined || isSame(backend.frames, known)) continue
      this.framedAtMs[row] = Math.max(this.framedAtMs[row] ?? 0, this.#checkedAtMs)
      this.#fill(row, backend)
      hasChanged = true
    }
    if (hasChanged) this.#gather()
    this.#checkedAtMs = nowMs
  }

  #fill(row: number, backend: BackendView): void {
    this.#frames[row] = backend.frames.slice()
    const all = backend.frames.filter((frame) => frame.model === this.#model)
    const finishing = all.filter((frame) => frame.role !== 'prefill')
    const able = this.#wantsGrammar ? finishing.filter((frame) => frame.grammars === true) : finishing
    const open = able.filter((frame) => !frame.draining)
    const beneath = STANDINGS.indexOf(standingOf(finishing, able, open))
    this.beneath[row] = beneath
    this.standing[row] = beneath !== OTHER_MODEL && this.#isStale[row] === 1 ? STALE : beneath
    this.own[row] = this.#prefillRow(
      row,
      all.filter((frame) => frame.role === 'prefill' && !frame.draining),
    )
    this.#fillDecode(row, open)
  }

  #fillDecode(row: number, open: readonly CapacityFrame[]): void {
    const engines = Math.max(1, open.length)
    const load = loadOf(open)
    const rates = this.#ratesOf(open)
    this.engines[row] = engines
    this.isMeasured[row] = open.some(isMeasured) ? 1 : 0
    this.isDecodeOnly[row] = open.length > 0 && open.every(({ role }) => role === 'decode') ? 1 : 0
    this.contextTokensMax[row] = largestContext(open)
    this.queuedTokens[row] = load.prefillTokens
    this.requestsQueued[row] = load.requestsQueued
    this.prefillMsPerToken[row] = rates.msPerToken
    this.waitMsPerToken[row] = rates.waitMsPerToken
    this.busy[row] = load.busy
    this.slots[row] = load.slots
    this.decodeKvTokens[row] = load.decodeKvTokens
    this.kvUsedTokens[row] = load.kvUsedTokens
    this.kvTotalTokens[row] = load.kvTotalTokens
    let baseMs = 0
    let sequenceMs = 0
    let kvTokenMs = 0
    for (const { stepModel } of open) {
      const step = stepModel ?? this.#usual.step
      baseMs += step.baseMs / engines
      sequenceMs += step.decodeSequenceMs / engines
      kvTokenMs += step.kvTokenMs / engines
    }
    this.stepBaseMs[row] = baseMs
    this.stepSequenceMs[row] = sequenceMs
    this.stepKvTokenMs[row] = kvTokenMs
    const transfer = open.find((frame) => frame.transfer !== undefined)?.transfer
    this.layout[row] = transfer?.remote === true ? this.#layoutOf(transfer.fingerprint) : NO_LAYOUT
    const bytesPerMs = transfer?.measuredBytesPerSecond
    const measured = bytesPerMs === undefined || bytesPerMs === 0 ? undefined : bytesPerMs / 1000
    this.transferMsPerToken[row] = (transfer?.bytesPerToken ?? 0) / (measured ?? REMOTE_BYTES_PER_MS)
    this.ownTransferMsPerToken[row] = (transfer?.bytesPerToken ?? 0) / (measured ?? LOCAL_BYTES_PER_MS)
    // Engines of one agent that cannot be paired are none to each other.
    const own = this.own[row]
    const layout = transfer === undefined ? NO_LAYOUT : this.#layoutOf(transfer.fingerprint)
    if (open.length > 0 && own !== undefined && own.layout !== layout) this.own[row] = undefined
    this.#heat(row)
  }

  #heat(row: number): void {
    const { hot } = this
    const at = row * HOT.size
    const slots = Math.max(1, this.slots[row] ?? 1)
    const busy = this.busy[row] ?? 0
    const sequenceMs = this.stepSequenceMs[row] ?? 0
    const kvTokenMs = this.stepKvTokenMs[row] ?? 0
    const others = sequenceMs * Math.min(busy, slots) + kvTokenMs * (this.decodeKvTokens[row] ?? 0)
    hot[at + HOT.itlMs] = (this.stepBaseMs[row] ?? 0) + others / (this.engines[row] ?? 1)
    hot[at + HOT.stepSequenceMs] = sequenceMs
    hot[at + HOT.stepKvTokenMs] = kvTokenMs
    hot[at + HOT.busy] = busy
    hot[at + HOT.slots] = slots
    hot[at + HOT.kvUsedTokens] = this.kvUsedTokens[row] ?? 0
    hot[at + HOT.kvTotalTokens] = this.kvTotalTokens[row] ?? 0
    hot[at + HOT.queuedTokens] = this.queuedTokens[row] ?? 0
    hot[at + HOT.requestsQueued] = this.requestsQueued[row] ?? 0
    hot[at + HOT.waitMsPerToken] = this.waitMsPerToken[row] ?? 0
    hot[at + HOT.prefillMsPerToken] = this.prefillMsPerToken[row] ?? 0
    hot[at + HOT.wayMs] = this.wayMs[row] ?? 0
    hot[at + HOT.contextTokensMax] = this.contextTokensMax[row] ?? 0
    hot[at + HOT.isHelped] = this.own[row] !== undefined || this.isDecodeOnly[row] === 1 ? 1 : 0
  }

  #prefillRow(row: number, frames: readonly CapacityFrame[]): PrefillRow | undefined {
    const fingerprint = frames.find((frame) => frame.transfer !== undefined)?.transfer?.fingerprint
    if (fingerprint === undefined) return undefined
    const alike = frames.filter((frame) => frame.transfer?.fingerprint === fingerprint)
    const { prefillTokens, requestsQueued } = loadOf(alike)
    const stepModel = meanStep(alike)
    return {
      row,
      ...(stepModel === undefined ? {} : { stepModel }),
      isMeasured: alike.some((frame) => measuredMsPerToken(frame) !== undefined),
      layout: this.#layoutOf(fingerprint),
      queuedTokens: prefillTokens,
      requestsQueued,
      ...this.#ratesOf(alike),
      contextTokensMax: largestContext(alike),
    }
  }

  #gather(): void {
    this.prefill = this.own.filter((one) => one !== undefined && this.#isStale[one.row] === 0) as PrefillRow[]
    let served = 0
    let stale = 0
    for (const standing of this.standing) {
      if (standing !== OTHER_MODEL) served++
      if (standing === STALE) stale++
    }
    this.isBlind = served > 0 && served === stale
  }

  /** Takes in the ledger, until the next time. Dispatches that are old enough to be in a frame are told so. */
  takeLedger(loads: Iterable<Load>, rows: ReadonlyMap<string, number>): void {
    for (const row of this.#ahead) {
      this.aheadPromptTokens[row] = 0
      this.aheadSequences[row] = 0
      this.aheadKvTokens[row] = 0
      this.hasAhead[row] = 0
    }
    this.#ahead.length = 0
    for (const load of loads) {
      const row = load.model === this.#model ? load.rowIn(rows) : undefined
      if (row === undefined) continue
      if (!this.isBlind) load.framed(this.framedAtMs[row] ?? 0)
      const { promptTokens, sequences, kvTokens } = this.isBlind ? load.open : load.pending
      this.aheadPromptTokens[row] = promptTokens
      this.aheadSequences[row] = sequences
      this.aheadKvTokens[row] = kvTokens
      this.hasAhead[row] = 1
      this.#ahead.push(row)
    }
  }

  #ratesOf(frames: readonly CapacityFrame[]): { msPerToken: number; waitMsPerToken: number } {
    let tokensPerMs = 0
    for (const frame of frames) tokensPerMs += 1 / (measuredMsPerToken(frame) ?? this.#usual.msPerToken)
    if (tokensPerMs === 0) return { msPerToken: this.#usual.msPerToken, waitMsPerToken: this.#usual.msPerToken }
    return { msPerToken: frames.length / tokensPerMs, waitMsPerToken: 1 / tokensPerMs }
  }

  #layoutOf(fingerprint: string): number {
    const known = this.#layouts.get(fingerprint)
    if (known !== undefined) return known
    this.#layouts.set(fingerprint, this.#layouts.size)
    return this.#layouts.size - 1
  }
}

/** The figures of the snapshots that are in use: they go when their snapshot goes. */
export class FiguresBySnapshot {
  readonly #known = new WeakMap<
    FleetSnapshot,
    { seenAtMs: number; rows: Map<string, number>; byModel: Map<string, Figures> }
  >()

  of(
    snapshot: FleetSnapshot,
    served: Served,
    wayMs: ReadonlyMap<string, number>,
    nowMs: number,
  ): { figures: Figures; rows: ReadonlyMap<string, number> } {
    let known = this.#known.get(snapshot)
    if (known === undefined) {
      const rows = new Map(snapshot.backends.map(({ backendId }, row) => [backendId, row]))
      known = { seenAtMs: nowMs, rows, byModel: new Map() }
      this.#known.set(snapshot, known)
    }
    const name = `${served.wantsGrammar ? 'grammar' : ''} ${served.model}`
    let figures = known.byModel.get(name)
    if (figures === undefined) {
      figures = new Figures(snapshot, served, wayMs, known.seenAtMs)
      known.byModel.set(name, figures)
    }
    figures.refresh(nowMs)
    return { figures, rows: known.rows }
  }
}

function standingOf(
  finishing: readonly CapacityFrame[],
  able: readonly CapacityFrame[],
  open: readonly CapacityFrame[],
): Standing {
  if (finishing.length === 0) return 'other_model'
  if (able.length === 0) return 'no_grammars'
  if (open.length === 0) return 'draining'
  let queued = 0
  let room = 0
  for (const { requestsQueued, requestsQueuedMax } of open) {
    queued += requestsQueued
    room += requestsQueuedMax
  }
  return room > 0 && queued >= room ? 'full' : 'candidate'
}

function loadOf(frames: readonly CapacityFrame[]) {
  const load = {
    prefillTokens: 0,
    requestsQueued: 0,
    busy: 0,
    slots: 0,
    decodeKvTokens: 0,
    kvUsedTokens: 0,
    kvTotalTokens: 0,
  }
  for (const frame of frames) {
    load.prefillTokens += frame.prefillTokensQueued
    load.requestsQueued += frame.requestsQueued
    load.busy += frame.sequencesRunning + frame.sequencesWaiting + frame.requestsQueued
    load.slots += frame.sequencesMax
    load.decodeKvTokens += frame.decodeKvTokens
    load.kvUsedTokens += frame.kvBlocksUsed * frame.blockTokens
    load.kvTotalTokens += frame.kvBlocksTotal * frame.blockTokens
  }
  return load
}

const largestContext = (frames: readonly CapacityFrame[]): number =>
  frames.reduce((most, { contextTokensMax }) => Math.max(most, contextTokensMax), 0)

const isMeasured = ({ measuredPrefillTokensPerSecond: rate }: CapacityFrame): boolean => rate !== undefined && rate > 0

function measuredMsPerToken({ measuredPrefillTokensPerSecond: rate, stepModel }: CapacityFrame): number | undefined {
  if (rate !== undefined && rate > 0) return 1000 / rate
  return stepModel !== undefined && stepModel.prefillTokenMs > 0 ? stepModel.prefillTokenMs : undefined
}

/** What an engine that was never measured is taken for. */
type Usual = { msPerToken: number; step: StepModel }

function usual(backends: readonly BackendView[], model: string): Usual {
  const rates: number[] = []
  const steps: StepModel[] = []
  for (const { frames } of backends) {
    for (const frame of frames) {
      if (frame.model !== model) continue
      const rate = measuredMsPerToken(frame)
      if (rate !== undefined) rates.push(rate)
      if (frame.stepModel !== undefined) steps.push(frame.stepModel)
    }
  }
  const ofSteps = (part: keyof StepModel) => median(steps.map((step) => step[part])) ?? UNMEASURED_STEP[part]
  return {
    msPerToken: median(rates) ?? UNMEASURED_STEP.prefillTokenMs,
    step: {
      baseMs: ofSteps('baseMs'),
      prefillTokenMs: ofSteps('prefillTokenMs'),
      decodeSequenceMs: ofSteps('decodeSequenceMs'),
      kvTokenMs: ofSteps('kvTokenMs'),
    },
  }
}

function meanStep(frames: readonly CapacityFrame[]): StepModel | undefined {
  const steps = frames.flatMap(({ stepModel }) => stepModel ?? [])
  if (steps.length === 0) return undefined
  const mean = (part: keyof StepModel) => steps.reduce((sum, step) => sum + step[part], 0) / steps.length
  return {
    baseMs: mean('baseMs'),
    prefillTokenMs: mean('prefillTokenMs'),
    decodeSequenceMs: mean('decodeSequenceMs'),
    kvTokenMs: mean('kvTokenMs'),
  }
}

const median = (values: number[]): number | undefined =>
  values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)]

function isSame(frames: readonly CapacityFrame[], known: readonly CapacityFrame[]): boolean {
  if (frames.length !== known.length) return false
  for (let index = 0; index < known.length; index++) if (frames[index] !== known[index]) return false
  return true
}
