// `npm run soak:money`: lives through histories of clients, isolates, account, record and providers for as long as wanted.
// Owns options, progress and the exit code; a history is history.ts.
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { describeFailure, Pool, type Summary } from './pool.ts'

const USAGE =
  'Usage: node test/simulation/run.ts [--minutes M] [--histories N] [--seed S] [--threads T] [--mutant NAME]'
const PROGRESS_MS = 10_000

const { values } = parseArgs({
  options: {
    minutes: { type: 'string' },
    histories: { type: 'string' },
    seed: { type: 'string', default: '1' },
    threads: { type: 'string', default: String(availableParallelism()) },
    mutant: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const seed = Number(values.seed)
const threads = Number(values.threads)
const histories = values.histories === undefined ? Number.MAX_SAFE_INTEGER - seed : Number(values.histories)
const minutes = values.minutes === undefined ? Number.POSITIVE_INFINITY : Number(values.minutes)
const isEndless = values.minutes === undefined && values.histories === undefined
if (!Number.isSafeInteger(seed) || !(histories > 0) || !(minutes > 0) || !(threads >= 1) || isEndless) {
  console.error(USAGE)
  process.exit(2)
}

const startedMs = performance.now()
const pool = new Pool(Math.min(threads, histories))
let shownMs = startedMs
const summary = await pool.run(
  {
    seed,
    histories,
    untilMs: startedMs + minutes * 60_000,
    ...(values.mutant === undefined ? {} : { mutant: values.mutant }),
  },
  (sofar) => {
    if (performance.now() - shownMs < PROGRESS_MS) return
    shownMs = performance.now()
    console.log(line(sofar))
  },
)
await pool.close()
console.log(line(summary))
for (const [situation, count] of [...summary.reached].sort())
  console.log(`${((100 * count) / summary.histories).toFixed(2).padStart(7)} %  ${situation}`)
for (const failure of summary.failures) console.log(`\n${describeFailure(failure)}`)
process.exitCode = summary.failures.length === 0 ? 0 : 1

function line(of: Summary): string {
  const seconds = (performance.now() - startedMs) / 1000
  const perSecond = Math.round(of.histories / seconds)
  const each = (amount: number) => (amount / of.histories).toFixed(1)
  return `${of.histories} histories in ${seconds.toFixed(0)} s (${perSecond}/s), ${each(of.steps)} steps and ${each(of.faults)} faults each, ${of.failures.length} failures`
}
