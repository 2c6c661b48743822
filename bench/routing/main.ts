// `npm run bench:routing`: what routing over the own fleet finds and how long it takes. Owns which runs are made and their print;
// replaying is replay.ts, timing decision-time.ts.
//
//   npm run bench:routing -- [--trace <file of JSON lines>] [--quick]
//
// Without --trace or PENSTOCK_TRACE a made trace is replayed. The published one that these figures are known for is the
// conversation trace of Mooncake (FAST'25): timestamp, input_length, output_length, hash_ids of 512 tokens.
import { existsSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { spreadText } from '../gateway/statistics.ts'
import { measureDecisions } from './decision-time.ts'
import { type ReplayOptions, RULES, replay } from './replay.ts'
import { ceiling, madeTrace, readTrace, seeded, type TraceRow } from './trace.ts'

/** The published timestamps are rounded to about so much. */
const JITTER_MS = 3000
const SEED = 7
const ISOLATES = 4
const WORKERS = 8
/** Following the longest prefix alone never ends on the whole trace: its queue only grows. So many rows show it. */
const TRAP_ROWS = 2000

const { values } = parseArgs({ options: { trace: { type: 'string' }, quick: { type: 'boolean', default: false } } })
const path = values.trace ?? process.env.PENSTOCK_TRACE
const rows = rowsOf(path)
const best = ceiling(rows)
console.log(`${rows.length} rows over ${WORKERS} workers and ${ISOLATES} gateway isolates, seed ${SEED}`)
console.log(`hit rate of one cache without bounds: ${percent(best)}`)

const caches = values.quick ? [Number.POSITIVE_INFINITY] : [Number.POSITIVE_INFINITY, 4000]
const rates = values.quick ? [8000] : [8000, 30_000]
for (const prefillTokensPerSecond of rates) {
  for (const cacheBlocks of caches) {
    const cache = Number.isFinite(cacheBlocks) ? `${cacheBlocks} blocks of 512 tokens` : 'without bounds'
    console.log(`\n${prefillTokensPerSecond} prompt tokens/s per worker, caches ${cache}`)
    console.log(
      'rule               hit rate  of best  requests max/mean  work max/mean  first token mean, p50, p99 (ms)',
    )
    for (const rule of RULES) print(rule, { prefillTokensPerSecond, cacheBlocks, sequencesMax: 256, kvTokensMax: 2e6 })
  }
}

console.log(
  '\ndecisions over an index of a million chunks, prompts of 94 chunks; processor time, median (least to most) of 15 rounds',
)
for (const workers of [64, 4096]) {
  const { lookupUs, decisionUs, firstMs } = measureDecisions(workers)
  const named = [`decision ${spreadText(decisionUs)} µs`, `lookup at the index ${spreadText(lookupUs)} µs`]
  console.log(`${workers} workers: ${named.join(', ')}; first of a snapshot ${spreadText(firstMs)} ms`)
}

function print(rule: ReplayOptions['rule'], worker: ReplayOptions['worker']): void {
  const some = rule === 'longest prefix' ? rows.slice(0, TRAP_ROWS) : rows
  const found = replay(some, { workers: WORKERS, worker, rule, isolates: ISOLATES, seed: SEED })
  const ofBest = found.hitRate / ceiling(some)
  const ttft = [found.ttftMeanMs, found.ttftP50Ms, found.ttftP99Ms].map((ms) => Math.round(ms)).join(', ')
  const cells = [
    rule.padEnd(18),
    percent(found.hitRate).padStart(8),
    percent(ofBest).padStart(8),
    found.rowsSkew.toFixed(3).padStart(18),
    found.workSkew.toFixed(3).padStart(14),
    ` ${ttft}${some === rows ? '' : ` (first ${TRAP_ROWS} rows)`}`,
  ]
  console.log(cells.join(' '))
}

function rowsOf(file: string | undefined): TraceRow[] {
  if (file !== undefined && existsSync(file)) {
    console.log(`trace ${file}, each row moved by up to ${JITTER_MS} ms`)
    return readTrace(readFileSync(file, 'utf8'), JITTER_MS, seeded(1))
  }
  console.log(
    file === undefined ? 'no trace is named: a made one is replayed' : `there is no ${file}: a made trace is replayed`,
  )
  return madeTrace(2000, 11, 4)
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}
