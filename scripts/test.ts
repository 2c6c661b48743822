// `npm test`: every suite, and one line with the sum. Owns the order, the counting and the exit code; what is tested is in
// the suites. They run in turn, but for those that leave the processor alone for most of their time: what waits stands beside what
// computes. The simulation, which takes minutes of processor time and nothing else, runs beside all at the lowest priority, in the
// time that they leave.
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import { glob, mkdtemp, open, readFile, rm, statfs, writeFile } from 'node:fs/promises'
import { availableParallelism, constants, homedir, setPriority, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { chromiumPath } from '../test/browser/support/chromium.ts'
import { buildEngine } from './engine-build.ts'
import { obtainModel } from './model.ts'
import { DEFAULT_MODEL, parseOptions } from './options.ts'
import { type Count, countCtest, countVitest, NOTHING, sum } from './test-results.ts'

/** `checks` and `build` beside each other, then `first`, then `tests` and `beside`; in each one after the other. `idle`: beside all. */
type Line = 'checks' | 'build' | 'first' | 'tests' | 'beside' | 'idle'
type Suite = {
  name: string
  title: string
  line: Line
  run: (dir: string) => Promise<Count>
  /** May skip all of its tests, where it says why: it needs what not every machine has. */
  optional?: true
}

const ROOT = join(import.meta.dirname, '..')
/** A test that hangs is ended by this; the slowest, a property test, takes seconds. */
const CTEST_TIMEOUT_S = 300
/** Of the engine's tests a third waits, for what a lost peer must not delay. */
const CTESTS_AT_ONCE = Math.ceil(1.5 * availableParallelism())
const EXIT_USAGE = 2
/** The files of a part share a runtime, which grows slower with each: its objects have alarms that go on. */
const WORKER_SHARDS = 10
/** Parts at a time, each with a runtime and a Postgres of its own: one alone waits for its disk half of the time. */
const WORKER_SHARDS_AT_ONCE = Math.min(2, availableParallelism())
/** The user's way through the dashboard. Every page in both themes, by axe, takes minutes: `npm run test:browser`. */
const BROWSER_TESTS = '^(a new user|signing in|the first load)'
/** All but the pages of the documentation that start hosts or whole systems of their own, some minute: `npm run test:docs`. */
const E2E_TESTS = '^(?!.*docs/tasks/(?:gpu-host|disaggregated|cloudflare|upgrade|backup))'
/** Of `test/e2e`: for most of their time they wait for a hold to end, for a gateway to come up, for a client to try again. */
const WAITING_E2E_FILES = ['faults', 'gateway-death', 'money', 'sdk'].map((name) => `test/e2e/${name}.test.ts`)
/** Memory as a disk, for what tests write and throw away: each write of a database there is waited for on a real one. */
const MEMORY_DIR = '/dev/shm'
/** Suites write some hundred megabytes; what is smaller than this (a container's default is 64 MiB) is not used. */
const MEMORY_BYTES_MIN = 4 * 2 ** 30

const SUITES: Suite[] = [
  { name: 'types', title: 'Types (tsc)', line: 'checks', run: types },
  { name: 'lint', title: 'Lint and format (biome)', line: 'checks', run: () => check([['biome', 'check', '.']]) },
  {
    name: 'simulation',
    title: 'Simulation (vitest, Node)',
    line: 'idle',
    run: (dir) => vitestBeside('simulation', dir, { isIdle: true }),
  },
  { name: 'engine', title: 'Engine (ctest)', line: 'build', run: engine },
  { name: 'worker', title: 'Worker (vitest, workerd)', line: 'first', run: worker },
  { name: 'unit', title: 'Unit (vitest, Node)', line: 'tests', run: (dir) => vitest('unit', dir) },
  { name: 'sdk', title: 'SDK in its runtimes (vitest)', line: 'tests', run: (dir) => vitest('sdk', dir) },
  { name: 'e2e', title: 'End to end (vitest, the real system)', line: 'tests', run: (dir) => e2e(dir, 'busy') },
  { name: 'e2e', title: 'End to end, what waits (vitest)', line: 'beside', run: (dir) => e2e(dir, 'waiting') },
  { name: 'browser', title: 'Dashboard (vitest, Chromium)', line: 'beside', run: browser, optional: true },
]

const stopping = new AbortController()
const children = new Set<ChildProcess>()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    stop(signal)
  })
}
process.on('disconnect', () => {
  stop('SIGTERM')
})

process.exitCode = await main(process.argv.slice(2))
if (process.connected) process.disconnect()

async function main(argv: string[]): Promise<number> {
  const wanted = chooseSuites(argv)
  if (wanted === undefined) return EXIT_USAGE
  const dir = await mkdtemp(join(tmpdir(), 'penstock-results-'))
  const counts: Count[] = []
  const lines: string[] = []
  try {
    const one = async (suite: Suite) => {
      if (stopping.signal.aborted) return
      console.log(`\n── ${suite.title}`)
      const startedMs = performance.now()
      const count = await runSuite(suite, dir)
      counts.push(count)
      const seconds = ((performance.now() - startedMs) / 1000).toFixed(1)
      lines.push(`${count.failed === 0 ? '✓' : '✗'} ${suite.title}: ${describe(count)} (${seconds} s)`)
      console.log(lines.at(-1))
    }
    const inTurn = async (line: Line) => {
      for (const suite of wanted) if (suite.line === line) await one(suite)
    }
    const idle = inTurn('idle')
    await Promise.all([inTurn('checks'), inTurn('build')])
    await inTurn('first')
    await Promise.all([inTurn('tests'), inTurn('beside')])
    await idle
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
  const total = sum(counts)
  if (stopping.signal.aborted) console.log('\nInterrupted.')
  console.log(`\n${lines.join('\n')}\n`)
  // Again at the end: the place where it failed may lie some thousand lines back.
  for (const failure of total.failures) console.log(`✗ ${failure.replace(`${ROOT}/`, '')}`)
  console.log(`${total.passed} passed, ${total.failed} failed`)
  return total.failed === 0 && !stopping.signal.aborted ? 0 : 1
}

/** A suite without a single test has not shown anything: that is a failure, not a success. */
async function runSuite(suite: Suite, dir: string): Promise<Count> {
  try {
    const count = await suite.run(dir)
    if (count.passed + count.failed > 0 || (suite.optional && count.skipped > 0)) return count
    console.log(`${suite.title} ran no test.`)
  } catch (error) {
    if (!stopping.signal.aborted) console.log((error as Error).message)
  }
  return { ...NOTHING, failed: 1 }
}

function chooseSuites(argv: string[]): Suite[] | undefined {
  const names = [...new Set(SUITES.map((suite) => suite.name))]
  const usage = `Usage: npm test -- [--only ${names.join(',')}]`
  try {
    const { values } = parseArgs({
      args: argv,
      options: { only: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    })
    if (values.help === true) {
      console.log(usage)
      process.exit(0)
    }
    const only = values.only?.split(',') ?? names
    const unknown = only.find((name) => !names.includes(name))
    if (unknown !== undefined) throw new Error(`there is no suite ${JSON.stringify(unknown)}`)
    return SUITES.filter((suite) => only.includes(suite.name))
  } catch (error) {
    console.error(`${(error as Error).message}\n${usage}`)
    return undefined
  }
}

/** Each folder with a tsconfig.json is a project: the types of its own runtime and no others. */
async function types(): Promise<Count> {
  const projects: string[] = []
  for await (const path of glob(['*/tsconfig.json', '*/*/tsconfig.json'], { cwd: ROOT })) {
    if (!path.startsWith('node_modules')) projects.push(path)
  }
  return check(projects.sort().map((path) => ['tsc', '-p', path]))
}

/** Several commands that make one check. All run, so that one look shows everything. */
async function check(commands: string[][]): Promise<Count> {
  let failed = 0
  for (const [command = '', ...args] of commands) if ((await spawnIn(tool(command), args)) !== 0) failed++
  return failed === 0 ? { ...NOTHING, passed: 1 } : { ...NOTHING, failed: 1 }
}

async function vitest(project: string, dir: string, more: string[] = []): Promise<Count> {
  const results = join(dir, `${project}.json`)
  const code = await spawnIn(tool('vitest'), ['run', '--project', project, ...more, ...reporters(results)])
  return countVitest(await readFile(results, 'utf8').catch(() => ''), code)
}

/** Beside another suite. `name`: one run's, of a project that runs in parts. */
async function vitestBeside(
  project: string,
  dir: string,
  options: { name?: string; more?: string[]; isIdle?: boolean; env?: Record<string, string> } = {},
): Promise<Count> {
  const { name = project, more = [], ...rest } = options
  const results = join(dir, `${name}.json`)
  const args = ['run', '--project', project, ...more, ...reporters(results)]
  const code = await spawnBeside(tool('vitest'), args, { log: join(dir, `${name}.log`), ...rest })
  return countVitest(await readFile(results, 'utf8').catch(() => ''), code)
}

function reporters(results: string): string[] {
  return ['--reporter=default', '--reporter=json', `--outputFile.json=${results}`]
}

async function e2e(dir: string, part: 'busy' | 'waiting'): Promise<Count> {
  if (part === 'waiting') return vitestBeside('e2e', dir, { name: 'e2e-waiting', more: WAITING_E2E_FILES })
  const busy: string[] = []
  for await (const file of glob('test/e2e/*.test.ts', { cwd: ROOT })) {
    if (!WAITING_E2E_FILES.includes(file)) busy.push(file)
  }
  return vitest('e2e', dir, [...busy, '-t', E2E_TESTS])
}

/** Skipped where there is no Chromium: it is no part of npm's, and nothing here downloads one. */
async function browser(dir: string): Promise<Count> {
  if (chromiumPath() !== undefined) return vitestBeside('browser', dir, { more: ['-t', BROWSER_TESTS] })
  console.log('No Chromium was found (apt-get install chromium, or CHROMIUM_PATH): the dashboard is not looked at.')
  return { ...NOTHING, skipped: 1 }
}

/** Each part is a run of its own, which prints when it has ended. */
async function worker(dir: string): Promise<Count> {
  // The longest one first: last, it would run on with nothing beside it.
  const parts = [
    ['worker-alone'],
    ...Array.from({ length: WORKER_SHARDS }, (_, index) => ['worker', `--shard=${index + 1}/${WORKER_SHARDS}`]),
  ]
  const counts: Count[] = []
  const scratch = await scratchDir(dir)
  const next = async (): Promise<void> => {
    const [project = '', ...more] = parts.shift() ?? []
    if (project === '') return
    const name = `${project}-${parts.length}`
    counts.push(await vitestBeside(project, dir, { name, more, env: { TMPDIR: scratch } }))
    return next()
  }
  try {
    await Promise.all(Array.from({ length: WORKER_SHARDS_AT_ONCE }, next))
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
  return sum(counts)
}

/** In memory where there is room, else in `dir`. */
async function scratchDir(dir: string): Promise<string> {
  const room = await statfs(MEMORY_DIR).catch(() => undefined)
  const inMemory = room !== undefined && room.bavail * room.bsize >= MEMORY_BYTES_MIN
  return mkdtemp(join(inMemory ? MEMORY_DIR : dir, 'penstock-scratch-'))
}

async function engine(dir: string): Promise<Count> {
  const sourceDir = join(ROOT, 'native-engine')
  const buildDir = join(sourceDir, 'build')
  let shown = -1
  await buildEngine({
    sourceDir,
    buildDir,
    tests: true,
    signal: stopping.signal,
    onPercent: (percent) => {
      const step = Math.floor(percent / 20)
      if (step !== shown) console.log(`── engine: compiling ${percent}%`)
      shown = step
    },
  }).catch((error: Error) => {
    if (!error.message.includes('GTest::')) throw error
    throw new Error(`GoogleTest cannot be found. Install it:
    Debian, Ubuntu   apt-get install libgtest-dev
    Fedora           dnf install gtest-devel
    macOS            brew install googletest`)
  })
  const modelPath = await realModel()
  if (modelPath === undefined)
    console.log('The real model cannot be had here: its comparison with llama.cpp is skipped.')
  const results = join(dir, 'ctest.xml')
  const limits = ['--timeout', String(CTEST_TIMEOUT_S), '--parallel', String(CTESTS_AT_ONCE)]
  const code = await spawnBeside(
    'ctest',
    ['--test-dir', buildDir, '--output-on-failure', '--output-junit', results, ...limits],
    {
      log: join(dir, 'engine.log'),
      ...(modelPath === undefined ? {} : { env: { PENSTOCK_MODEL_PATH: modelPath } }),
    },
  )
  return countCtest(await readFile(results, 'utf8').catch(() => ''), code)
}

/** The default model, downloaded where it is not cached; undefined where no source has it. */
async function realModel(): Promise<string | undefined> {
  const parsed = parseOptions([], { env: process.env, homeDir: homedir(), cwd: ROOT })
  if (parsed.kind !== 'start') return undefined
  const model = await obtainModel({ ...parsed.options, model: DEFAULT_MODEL, signal: stopping.signal })
  return model.notice === undefined ? model.path : undefined
}

function describe(count: Count): string {
  const skipped = count.skipped > 0 ? `, ${count.skipped} skipped` : ''
  return `${count.passed} passed, ${count.failed} failed${skipped}`
}

function tool(name: string): string {
  return join(ROOT, 'node_modules', '.bin', name)
}

/** What it prints comes in one piece at its end, so that it does not stand between the lines of others. */
async function spawnBeside(
  command: string,
  args: string[],
  options: { log: string } & Omit<SpawnOptions, 'output'>,
): Promise<number> {
  const { log, ...rest } = options
  const out = await open(log, 'w')
  const code = await spawnIn(command, args, { output: out.fd, ...rest }).finally(() => out.close())
  console.log(await readFile(log, 'utf8'))
  return code
}

type SpawnOptions = {
  env?: Record<string, string>
  /** File descriptor for what it prints. */
  output?: number
  /** Gets the time that everything else leaves. */
  isIdle?: boolean
}

async function spawnIn(command: string, args: string[], options: SpawnOptions = {}): Promise<number> {
  stopping.signal.throwIfAborted()
  const { env = {}, output = 'inherit', isIdle = false } = options
  const stdio: StdioOptions = ['ignore', output, output]
  const child = spawn(command, args, { cwd: ROOT, stdio, env: { ...process.env, ...env }, detached: isIdle })
  children.add(child)
  if (isIdle && child.pid !== undefined) lower(child.pid)
  return new Promise<number>((resolve, reject) => {
    child.on('error', (error) => reject(new Error(`cannot run ${command}: ${error.message}`)))
    child.on('exit', (code) => resolve(code ?? 1))
  }).finally(() => children.delete(child))
}

/**
 * Linux shares the processor between sessions first, and a priority counts within its session alone: the session itself
 * has to step back. Where there is no such thing the priority of the process is enough.
 */
function lower(pid: number): void {
  setPriority(pid, constants.priority.PRIORITY_LOW)
  void writeFile(`/proc/${pid}/autogroup`, String(constants.priority.PRIORITY_LOW)).catch(() => {})
}

function stop(signal: NodeJS.Signals): void {
  stopping.abort(new Error('interrupted'))
  for (const child of children) child.kill(signal)
}
