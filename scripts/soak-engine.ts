// `npm run soak:engine`: the real engine under full load for minutes; fails on a leak. Owns options, build and start; the
// load and the judgement are bench/engine/soak.ts.
import { availableParallelism, homedir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startServer } from '../bench/engine/server.ts'
import { GROWTH_BYTES_MAX, soak } from '../bench/engine/soak.ts'
import { buildEngine } from './engine-build.ts'
import { obtainModel } from './model.ts'
import { parseOptions } from './options.ts'

const ROOT = join(import.meta.dirname, '..')
const USAGE =
  'Usage: npm run soak:engine -- [--minutes 10] [--model NAME|PATH] [--engine PATH] [--threads N] [--seed N]'
/** Little enough that sequences wait for blocks, are preempted, and evict each other's cached prefixes. */
const KV_MIB = 96
const CONTEXT_TOKENS = 1024

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    model: { type: 'string' },
    engine: { type: 'string' },
    threads: { type: 'string', default: String(availableParallelism()) },
    seed: { type: 'string', default: '1' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const [minutes, threads, seed] = [Number(values.minutes), Number(values.threads), Number(values.seed)]
if (!(minutes > 0) || !Number.isInteger(threads) || threads < 1 || !Number.isInteger(seed)) throw new Error(USAGE)
const { signal } = new AbortController()
const parsed = parseOptions(values.model === undefined ? [] : ['--model', values.model], {
  env: process.env,
  homeDir: homedir(),
  cwd: process.env.INIT_CWD ?? process.cwd(),
})
if (parsed.kind !== 'start') throw new Error(parsed.text)
const model = await obtainModel({ ...parsed.options, signal })
if (model.notice !== undefined) console.log(model.notice)
const sourceDir = join(ROOT, 'native-engine')
const buildDir = join(sourceDir, 'build')
const enginePath = values.engine ?? join(buildDir, 'penstock-engine')
if (values.engine === undefined) {
  await buildEngine({ sourceDir, buildDir, tests: false, target: 'penstock-engine', signal })
}
const server = await startServer({
  enginePath,
  modelPath: model.path,
  threads,
  kvMib: KV_MIB,
  contextTokens: CONTEXT_TOKENS,
})
try {
  console.log(`${minutes} minutes at full load: ${model.name}, ${threads} threads, ${KV_MIB} MiB of KV, seed ${seed}`)
  const onProgress = (line: string) => console.log(line)
  const result = await soak({ server, durationMs: minutes * 60_000, seed, onProgress })
  const counts = Object.entries(result.ended).map(([kind, count]) => `${count} ${kind}`)
  console.log(`Ended: ${counts.sort().join(', ')}`)
  const { growthBytes, problems } = result
  const limit = `at most ${GROWTH_BYTES_MAX / 2 ** 20}`
  if (growthBytes === undefined) console.log('Resident memory is not known on this system.')
  else console.log(`Growth after the warm-up: ${(growthBytes / 2 ** 20).toFixed(1)} MiB (${limit}).`)
  for (const problem of problems) console.error(`✗ ${problem}`)
  if (problems.length === 0) console.log('✓ no growth, no block left')
  process.exitCode = problems.length === 0 ? 0 : 1
} finally {
  await server.stop()
}
