// A trace over a fleet of simple workers on virtual time ○, routed by the gateway's own code (router, ledger, KV index) or by
// plain rules to compare with. Owns the clock, when reports and snapshots pass between workers, index and isolates, and the
// figures that come out. Nothing here decides anything that routing decides.
import { KvIndex } from '../../gateway/fleet/kv-index.ts'
import { FleetRouter } from '../../gateway/routing/router.ts'
import { type BackendView, type FleetSnapshot, MATCHES_MAX } from '../../gateway/routing/snapshot.ts'
import type { CapacityFrame } from '../../protocol/capacity.ts'
import { CHUNK_CHARS } from '../../protocol/prefix.ts'
import { KV_CHUNKS_PER_REPORT_MAX } from '../../protocol/report.ts'
import { BLOCK_TOKENS, seeded, type TraceRow } from './trace.ts'
import { Worker, type WorkerOptions } from './worker.ts'

export const RULES = ['penstock', 'round robin', 'longest prefix', 'least load'] as const
export type Rule = (typeof RULES)[number]

const MODEL = 'm'
/** As agents report, isolates read, and the fleet calls a backend silent. */
const REPORT_MS = 1000
const SNAPSHOT_MS = 250
const STALE_MS = 3500

export type ReplayOptions = {
  workers: number
  worker: WorkerOptions
  rule: Rule
  /** Gateway isolates that know nothing of each other; each request comes to one of them at random. */
  isolates: number
  seed: number
}

export type ReplayResult = {
  rule: Rule
  /** Share of all prompt tokens that was not computed again. */
  hitRate: number
  /** Most to mean over the workers: requests, and prompt tokens computed. */
  rowsSkew: number
  workSkew: number
  ttftMeanMs: number
  ttftP50Ms: number
  ttftP99Ms: number
}

type Event = { atMs: number; order: number; run: () => void }

export function replay(rows: readonly TraceRow[], options: ReplayOptions): ReplayResult {
  const clock = new Clock()
  const random = seeded(options.seed)
  const workers = Array.from(
    { length: options.workers },
    (_, index) => new Worker(`worker-${index}`, options.worker, (atMs, run) => clock.at(atMs, run)),
  )
  const fleet = new ReportedFleet(workers)
  const isolates = Array.from({ length: options.isolates }, () => new Isolate(fleet))
  const ttftsMs: number[] = []
  let turn = 0

  const lastMs = rows.at(-1)?.atMs ?? 0
  for (const [index, worker] of workers.entries()) {
    fleet.report(worker, 0)
    // Agents begin at different times, and so they report.
    for (let atMs = (REPORT_MS * (index + 1)) / workers.length; atMs < lastMs; atMs += REPORT_MS) {
      clock.at(atMs, () => fleet.report(worker, atMs))
    }
  }
  for (const row of rows) {
    clock.at(row.atMs, () => {
      const nowMs = row.atMs
      const isolate = isolates[Math.floor(random() * isolates.length)] as Isolate
      const began = (ms: number) => ttftsMs.push(ms - nowMs)
      if (options.rule === 'penstock') {
        const { worker, open } = isolate.route(row, nowMs, random())
        worker.take(row, nowMs, {
          onFirstToken: (ms) => {
            began(ms)
            open.firstToken()
          },
          onEnd: () => open.end(),
        })
        return
      }
      const worker = byRule(options.rule, workers, row, turn++)
      worker.take(row, nowMs, { onFirstToken: began, onEnd: () => {} })
    })
  }
  clock.run()
  return figures(options.rule, workers, ttftsMs)
}

/** Rules that see everything as it is at this moment, which no gateway does. */
function byRule(rule: Exclude<Rule, 'penstock'>, workers: readonly Worker[], row: TraceRow, turn: number): Worker {
  const least = (cost: (worker: Worker) => number): Worker => {
    let best = workers[0] as Worker
    for (const worker of workers) if (cost(worker) < cost(best)) best = worker
    return best
  }
  switch (rule) {
    case 'round robin':
      return workers[turn % workers.length] as Worker
    case 'longest prefix':
      return least((worker) => -worker.held(row.blocks))
    case 'least load':
      return least((worker) => worker.open)
    default:
      return rule satisfies never
  }
}

/** What a Fleet object knows: the last frames, and the index. */
class ReportedFleet {
  readonly workers: ReadonlyMap<string, Worker>
  readonly index = new KvIndex()
  readonly #reports = new Map<string, { frame: CapacityFrame; atMs: number }>()

  constructor(workers: readonly Worker[]) {
    this.workers = new Map(workers.map((worker) => [worker.backendId, worker]))
  }

  report(worker: Worker, atMs: number): void {
    const { backendId } = worker
    this.#reports.set(backendId, { frame: worker.frame(MODEL), atMs })
    const { reset, stored, removed } = worker.changes()
    if (reset) this.index.apply(backendId, { reset, stored: [], removed: [] })
    for (let from = 0; from < Math.max(stored.length, removed.length); from += KV_CHUNKS_PER_REPORT_MAX) {
      const to = from + KV_CHUNKS_PER_REPORT_MAX
      this.index.apply(backendId, { reset: false, stored: stored.slice(from, to), removed: removed.slice(from, to) })
    }
  }

  snapshot(nowMs: number): FleetSnapshot {
    const backends: BackendView[] = [...this.#reports].map(([backendId, { frame, atMs }]) => ({
      backendId,
      url: `http://${backendId}`,
      keyThumbprint: backendId,
      reportAgeMs: nowMs - atMs,
      frames: [frame],
    }))
    return { staleAfterMs: STALE_MS, backends }
  }
}

class Isolate {
  readonly #fleet: ReportedFleet
  readonly #router = new FleetRouter()
  #snapshot: { value: FleetSnapshot; atMs: number } | undefined

  constructor(fleet: ReportedFleet) {
    this.#fleet = fleet
  }

  route(row: TraceRow, nowMs: number, random: number) {
    if (this.#snapshot === undefined || nowMs - this.#snapshot.atMs > SNAPSHOT_MS) {
      this.#snapshot = { value: this.#fleet.snapshot(nowMs), atMs: nowMs }
    }
    const ask = askOf(row, MODEL)
    const matches = this.#fleet.index.match(ask.chunks, MATCHES_MAX)
    const routed = this.#router.decide(ask, this.#snapshot.value, matches, new Set(), nowMs, random)
    const worker = this.#fleet.workers.get(routed.decision.chosen?.backendId ?? '')
    if (worker === undefined) throw new Error('no worker was chosen, and all are up')
    return { worker, open: this.#router.begin(ask, routed, nowMs) }
  }
}

/** A block of the trace stands for a chunk: the row's text is as long as it has to be for that. */
export const askOf = (row: TraceRow, model: string) => ({
  model,
  chunks: row.blocks,
  promptChars: (CHUNK_CHARS * row.inputTokens) / BLOCK_TOKENS,
  promptTokens: row.inputTokens,
  sequences: 1,
  wantsGrammar: false,
})

function figures(rule: Rule, workers: readonly Worker[], ttftsMs: number[]): ReplayResult {
  const hit = sum(workers.map(({ hitTokens }) => hitTokens))
  const computed = sum(workers.map(({ computedTokens }) => computedTokens))
  ttftsMs.sort((one, other) => one - other)
  const at = (share: number) => ttftsMs[Math.min(ttftsMs.length - 1, Math.floor(share * ttftsMs.length))] ?? Number.NaN
  return {
    rule,
    hitRate: hit / (hit + computed),
    rowsSkew: skew(workers.map(({ rows }) => rows)),
    workSkew: skew(workers.map(({ computedTokens }) => computedTokens)),
    ttftMeanMs: sum(ttftsMs) / ttftsMs.length,
    ttftP50Ms: at(0.5),
    ttftP99Ms: at(0.99),
  }
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)
const skew = (values: readonly number[]): number => (Math.max(...values) * values.length) / Math.max(1, sum(values))

/** Events in the order of their times; of one time, in the order they were named. */
class Clock {
  readonly #heap: Event[] = []
  #order = 0

  at(atMs: number, run: () => void): void {
    const heap = this.#heap
    let index = heap.push({ atMs, order: this.#order++, run }) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (!isBefore(heap[index] as Event, heap[parent] as Event)) break
      this.#swap(index, parent)
      index = parent
    }
  }

  run(): void {
    for (let event = this.#pop(); event !== undefined; event = this.#pop()) event.run()
  }

  #pop(): Event | undefined {
    const heap = this.#heap
    const [first] = heap
    const last = heap.pop()
    if (first === undefined || last === undefined || heap.length === 0) return first
    heap[0] = last
    for (let index = 0; ; ) {
      const left = 2 * index + 1
      const right = left + 1
      let least = index
      if (left < heap.length && isBefore(heap[left] as Event, heap[least] as Event)) least = left
      if (right < heap.length && isBefore(heap[right] as Event, heap[least] as Event)) least = right
      if (least === index) return first
      this.#swap(index, least)
      index = least
    }
  }

  #swap(one: number, other: number): void {
    const event = this.#heap[one] as Event
    this.#heap[one] = this.#heap[other] as Event
    this.#heap[other] = event
  }
}

const isBefore = (one: Event, other: Event): boolean =>
  one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order)
