// `npm run bench:handoff`: how fast keys and values go from one engine to another, over each kind of transport, beside a plain
// copy. Owns the options, the build and where results go; measuring is native-engine/bench/kv_transfer_bench.cc, the tables
// are bench/engine/handoff.ts.
import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { markdownOf, type Sample } from '../bench/engine/handoff.ts'
import { busyClock, commitName, machineName } from '../bench/engine/machine.ts'
import { writeDocsTable } from './docs-table.ts'
import { buildEngine } from './engine-build.ts'

const ROOT = join(import.meta.dirname, '..')
/** A round takes some seconds on two cores. */
const RUN_TIMEOUT_MS = 10 * 60_000
const OUTPUT_BYTES_MAX = 64 * 2 ** 20
const USAGE = 'Usage: npm run bench:handoff -- [--quick] [--rounds N] [--json FILE] [--write-docs]'

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    json: { type: 'string' },
    'write-docs': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const rounds = Number(values.rounds ?? (values.quick ? 3 : 15))
if (!Number.isInteger(rounds) || rounds < 1) throw new Error(USAGE)

const sourceDir = join(ROOT, 'native-engine')
const buildDir = join(sourceDir, 'build')
const { signal } = new AbortController()
await buildEngine({ sourceDir, buildDir, tests: false, target: 'kv-transfer-bench', signal })

const before = busyClock()
const args = ['--rounds', String(rounds), '--latencies', String(2 * rounds + 1)]
const limits = { timeout: RUN_TIMEOUT_MS, maxBuffer: OUTPUT_BYTES_MAX }
const { stdout } = await promisify(execFile)(join(buildDir, 'kv-transfer-bench'), args, limits)
const after = busyClock()
const lines = stdout
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => JSON.parse(line) as Sample | { what: 'all'; cpuSeconds: number })
const samples = lines.filter((line) => line.what !== 'all')
const run = {
  machine: machineName(),
  commit: commitName(ROOT),
  date: new Date().toISOString().slice(0, 10),
  rounds,
  samples,
  foreignShare: foreignShare(),
}
const report = markdownOf(run)
console.log(`\n${report}`)
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(run, undefined, 1)}\n`)
if (values['write-docs']) await writeDocsTable('handoff', report)

/** What all cores did meanwhile that the bench did not. */
function foreignShare(): number | undefined {
  if (before === undefined || after === undefined) return undefined
  const own = lines.find((line) => line.what === 'all')?.cpuSeconds ?? 0
  const elapsedSeconds = (after.elapsedMs - before.elapsedMs) / 1000
  return Math.max(0, (after.busySeconds - before.busySeconds - own) / (elapsedSeconds * availableParallelism()))
}
