// `npm run bench:engine`: this engine and llama.cpp on the same files, in turn. Owns the options, what is built and
// installed for it, and where results go; measuring is bench/engine/measure.ts and served.ts, the tables are report.ts.
import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism, homedir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { FORMAT_NAMES, formatPath } from '../bench/engine/formats.ts'
import { busyClock, commitName, machineName } from '../bench/engine/machine.ts'
import { type Cell, measureCell } from '../bench/engine/measure.ts'
import { markdownOf, type Run, threadsText, titleOf, verdictsOf } from '../bench/engine/report.ts'
import { readInteger, shapeOf } from '../bench/engine/requantize.ts'
import { measureServed } from '../bench/engine/served.ts'
import { runCommand } from './commands.ts'
import { writeDocsTable } from './docs-table.ts'
import { buildEngine } from './engine-build.ts'
import { obtainModel } from './model.ts'
import { DEFAULT_MODEL, parseOptions } from './options.ts'

const ROOT = join(import.meta.dirname, '..')
const PEER_DIR = join(ROOT, 'bench', 'engine')
const WINDOWS = join(ROOT, 'native-engine', 'tests', 'fixtures', 'smollm2-135m.peer.txt')
const SOURCE_FORMAT = 'Q4_1'
const LONG_TOKENS = 4096
/** Room behind the long prompt for the tokens that are decoded there. */
const LONG_MARGIN_TOKENS = 128
const INSTALL_TIMEOUT_MS = 20 * 60_000
const USAGE = `Usage: npm run bench:engine -- [--quick] [--formats ${FORMAT_NAMES.join(',')}] [--threads 2,1]
  [--rounds N] [--long-rounds N] [--cpu-time] [--no-served] [--json FILE] [--write-docs]`

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    formats: { type: 'string', default: FORMAT_NAMES.join(',') },
    threads: { type: 'string', default: availableParallelism() > 1 ? '2,1' : '1' },
    rounds: { type: 'string' },
    'long-rounds': { type: 'string' },
    'cpu-time': { type: 'boolean', default: false },
    'no-served': { type: 'boolean', default: false },
    json: { type: 'string' },
    'write-docs': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const formats = FORMAT_NAMES.filter((name) => values.formats.split(',').includes(name))
const threadCounts = values.threads.split(',').map(Number)
const rounds = Number(values.rounds ?? (values.quick ? 2 : 7))
const longRounds = Number(values['long-rounds'] ?? (values.quick ? 1 : 3))
const sane = [rounds, longRounds, ...threadCounts].every((count) => Number.isInteger(count) && count > 0)
if (!sane || formats.length !== values.formats.split(',').length) throw new Error(USAGE)

const { signal } = new AbortController()
const parsed = parseOptions([], { env: process.env, homeDir: homedir(), cwd: process.cwd() })
if (parsed.kind !== 'start') throw new Error(parsed.text)
const { cacheDir } = parsed.options
const model = await obtainModel({ ...parsed.options, model: DEFAULT_MODEL, signal })
if (model.notice !== undefined) throw new Error(model.notice)
await installPeer()
const nativeDir = join(ROOT, 'native-engine')
const buildDir = join(nativeDir, 'build')
for (const target of ['engine-bench', 'penstock-engine']) {
  await buildEngine({ sourceDir: nativeDir, buildDir, tests: false, target, signal })
}
const source = await readFile(model.path)
const shape = shapeOf(source)
const contextTokens = readInteger(source, 'llama.context_length') ?? LONG_TOKENS
const longTokens = Math.min(LONG_TOKENS, contextTokens - LONG_MARGIN_TOKENS)

const before = busyClock()
const cells: Cell[] = []
for (const format of formats) {
  const modelPath = await formatPath({
    format,
    sourcePath: model.path,
    sourceFormat: SOURCE_FORMAT,
    cacheDir: join(cacheDir, 'bench'),
  })
  for (const threads of threadCounts) {
    console.log(`\n${format}, ${threadsText(threads)}`)
    const cell = await measureCell({
      format,
      modelPath,
      threads,
      rounds,
      longRounds,
      longTokens,
      cpuTime: values['cpu-time'],
      vocabulary: shape.vocabulary,
      benchPath: join(buildDir, 'engine-bench'),
      peerDir: PEER_DIR,
      // Perplexity does not depend on threads: once per format is enough.
      ...(threads === threadCounts[0] && { windowsPath: WINDOWS }),
      onPair: (metric, tokens, { ours, peer }) => {
        const rates = `${(tokens / ours).toFixed(1)} against ${(tokens / peer).toFixed(1)} tok/s`
        console.log(`  ${titleOf(metric, longTokens).padEnd(24)} ${rates.padEnd(34)} ${(peer / ours).toFixed(2)}x`)
      },
    })
    cells.push(cell)
  }
}
const served = values['no-served']
  ? undefined
  : await measureServed({
      benchPath: join(buildDir, 'engine-bench'),
      enginePath: join(buildDir, 'penstock-engine'),
      modelPath: model.path,
      threads: threadCounts[0] ?? 1,
      vocabulary: shape.vocabulary,
      rounds: longRounds,
    })
const run: Run = {
  machine: machineName(),
  commit: commitName(ROOT),
  date: new Date().toISOString().slice(0, 10),
  peer: `node-llama-cpp ${await peerVersion()}`,
  rounds,
  longTokens,
  cpuTime: values['cpu-time'],
  model: `SmolLM2-135M-Instruct, context ${contextTokens.toLocaleString('en')}`,
  shape,
  cells,
  served,
  foreignShare: foreignShare(),
}
const report = markdownOf(run)
console.log(`\n${report}`)
const verdicts = verdictsOf(run)
console.log(`${verdicts.filter(({ met }) => met).length} of ${verdicts.length} targets met`)
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify({ ...run, verdicts }, undefined, 1)}\n`)
if (values['write-docs']) await writeDocsTable('measured', report)

/** The peer is large and used here alone, so it has a folder and a lock file of its own. */
async function installPeer(): Promise<void> {
  if ((await peerVersion().catch(() => undefined)) !== undefined) return
  console.log('Installing node-llama-cpp in bench/engine …')
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund']
  await runCommand({ command: 'npm', args, cwd: PEER_DIR, timeoutMs: INSTALL_TIMEOUT_MS, signal })
}

async function peerVersion(): Promise<string> {
  const text = await readFile(join(PEER_DIR, 'node_modules', 'node-llama-cpp', 'package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/** What all cores did in the meantime that none of our processes did. */
function foreignShare(): number | undefined {
  const after = busyClock()
  if (before === undefined || after === undefined) return undefined
  const { user, system } = process.cpuUsage()
  // The server's part is small and not counted apart; it makes the share look larger, never smaller.
  const own = cells.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, (user + system) / 1e6)
  const elapsedSeconds = (after.elapsedMs - before.elapsedMs) / 1000
  return Math.max(0, (after.busySeconds - before.busySeconds - own) / (elapsedSeconds * availableParallelism()))
}
