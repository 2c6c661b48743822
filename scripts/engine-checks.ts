// `npm run test:engine:sanitize` and `test:engine:fuzz`: the engine's C++ under sanitizers and fuzzers, each in a build folder
// of its own. Owns what is built how and how long it runs; the tests and fuzz entries are native-engine's.
//
//   node scripts/engine-checks.ts [address] [thread] [kernels] [fuzz] [--only PATTERN] [--seconds N]
import { readdir, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CommandFailed, findProgram, runCommand } from './commands.ts'

const NATIVE_DIR = join(import.meta.dirname, '..', 'native-engine')
/** Half an hour on two quiet cores, several times that beside other work. */
const BUILD_TIMEOUT_MS = 120 * 60_000
/** Sanitized code is five to fifteen times slower. */
const TEST_TIMEOUT_MS = 20 * 60_000
/** A lane that is a thread to ThreadSanitizer costs a hundred times what a lane does. */
const KERNEL_TEST_TIMEOUT_MS = 90 * 60_000
/** What shares memory between threads; under ThreadSanitizer the rest would only cost time. */
const THREADED_TEST = /^(ops_pool|kv_(?!cache)\w+|model_invariance|serve_(?!grammar)\w+)_test$/
/** CUDA kernels on the emulator, on which ThreadSanitizer sees every lane as a thread, and the emulator's own planted races. */
const KERNEL_TEST = /^(cuda_(attention|blocks|cublaslt|embed|graph|matmul|rope_append|rows|sampling)|simt_races)_test$/
/** Run the real model for minutes under a sanitizer, through the same code that smaller models reach. */
const HEAVY_TESTS = ['PeerGolden.*']
/** A race is found in whatever order the lanes run; these run everything four times. */
const ORDER_TESTS = ['*InEveryOrder*', '*OrderOfThreads*', '*InAnyOrder*']
/** The plain reference runs on one thread: nothing to find, and minutes to wait. */
const UNTHREADED_TESTS = ['*FastKernelsAgreeWithTheReference*']
/** GCC keeps no record of std::atomic_thread_fence under ThreadSanitizer and says so with an error. */
const THREAD_FLAGS = '-Wno-tsan'
/** The Rust library of the grammars is not instrumented, so its locks would be invisible. */
const THREAD_OPTIONS = [`-DCMAKE_CXX_FLAGS=${THREAD_FLAGS}`, '-DPENSTOCK_GRAMMARS=OFF']

type Check = { name: string; run: () => Promise<number> }
const { signal } = new AbortController()

const { values, positionals } = parseArgs({
  allowPositionals: true,
  // only: a regular expression; of tests and fuzzers, those whose name it matches.
  options: { seconds: { type: 'string', default: '30' }, only: { type: 'string', default: '' } },
})
const only = new RegExp(values.only)
const checks: Record<string, Check> = {
  address: {
    name: 'AddressSanitizer and UndefinedBehaviorSanitizer',
    run: () => sanitized('address', 'ON', () => true),
  },
  thread: { name: 'ThreadSanitizer', run: () => sanitized('thread', 'thread', (name) => THREADED_TEST.test(name)) },
  kernels: {
    name: 'ThreadSanitizer, every lane of a kernel a thread',
    run: () => sanitized('thread', 'thread', (name) => KERNEL_TEST.test(name), ORDER_TESTS, KERNEL_TEST_TIMEOUT_MS),
  },
  fuzz: { name: 'Fuzzers', run: () => fuzzed(Number(values.seconds)) },
}
let failures = 0
for (const wanted of positionals) {
  const check = checks[wanted]
  if (check === undefined) throw new Error(`there is no check ${wanted}; there are ${Object.keys(checks).join(', ')}`)
  console.log(`\n── ${check.name}`)
  const startedMs = performance.now()
  const failed = await check.run()
  failures += failed
  console.log(`${failed === 0 ? '✓' : '✗'} ${check.name}: ${failed} failed (${seconds(startedMs)} s)`)
}
process.exitCode = failures === 0 ? 0 : 1

/** Builds the test binaries that are wanted and runs each, but for the tests in `without`. Returns how many failed. */
async function sanitized(
  folder: string,
  option: string,
  wants: (name: string) => boolean,
  without: string[] = [],
  timeoutMs: number = TEST_TIMEOUT_MS,
): Promise<number> {
  const sources = await readdir(join(NATIVE_DIR, 'tests'))
  const ofEmulator = await readdir(join(NATIVE_DIR, 'emulator', 'tests'))
  const names = [...sources, ...ofEmulator.map((file) => `simt_${file}`)]
    .filter((file) => file.endsWith('_test.cc'))
    .map((file) => file.slice(0, -'.cc'.length))
  const targets = names.filter((name) => wants(name) && only.test(name)).sort()
  if (targets.length === 0) throw new Error(`no test matches ${values.only}`)
  const flags = option === 'thread' ? THREAD_OPTIONS : []
  const buildDir = await build(
    `build-${folder}`,
    [`-DPENSTOCK_SANITIZE=${option}`, '-DPENSTOCK_TESTS=ON', ...flags],
    targets,
  )
  let failed = 0
  for (const target of targets) {
    const left = [...HEAVY_TESTS, ...(option === 'thread' ? UNTHREADED_TESTS : []), ...without]
    const args = [`--gtest_filter=-${left.join(':')}`, '--gtest_brief=1']
    const binaryDir = target.startsWith('simt_') ? join(buildDir, 'emulator') : buildDir
    if (!(await passes(target, join(binaryDir, target), args, timeoutMs))) failed++
  }
  return failed
}

/** Runs every fuzz entry for some time; needs clang, whose library drives them. */
async function fuzzed(secondsEach: number): Promise<number> {
  const compiler = ['clang++', 'clang++-18', 'clang++-16', 'clang++-14'].find((name) => findProgram(name) !== undefined)
  if (compiler === undefined) {
    console.log('Skipped: clang++ cannot be found, and the fuzzers need its libFuzzer.')
    return 0
  }
  const options = ['-DPENSTOCK_FUZZ=ON', '-DPENSTOCK_TESTS=OFF', `-DCMAKE_CXX_COMPILER=${compiler}`]
  const buildDir = await build('build-fuzz', options, ['engine-fuzz'])
  const built = (await readdir(join(buildDir, 'fuzz'))).filter((name) => name.endsWith('-fuzz'))
  const names = built.filter((name) => only.test(name)).sort()
  let failed = 0
  for (const name of names) {
    // What makes it fail is written here and stays.
    const artifact = join(tmpdir(), `penstock-${name}-`)
    const args = [`-max_total_time=${secondsEach}`, '-timeout=20', '-rss_limit_mb=2048', `-artifact_prefix=${artifact}`]
    const limitMs = TEST_TIMEOUT_MS + 1000 * secondsEach
    if (!(await passes(name, join(buildDir, 'fuzz', name), [...args, '-print_final_stats=1'], limitMs))) failed++
  }
  if (names.length === 0) throw new Error('no fuzzer was built, or none matches')
  return failed
}

async function build(folder: string, options: string[], targets: string[]): Promise<string> {
  const buildDir = join(NATIVE_DIR, folder)
  const generator = findProgram('ninja') === undefined ? [] : ['-G', 'Ninja']
  const configure = ['-S', NATIVE_DIR, '-B', buildDir, ...generator, '-DCMAKE_BUILD_TYPE=Release', ...options]
  const startedMs = performance.now()
  // A cache made with another generator cannot be used; the objects are not worth keeping apart from it.
  await run('cmake', configure).catch(async (error: unknown) => {
    if (!(error instanceof CommandFailed) || !error.message.includes('generator')) throw error
    await rm(buildDir, { recursive: true, force: true })
    await run('cmake', configure)
  })
  await run('cmake', ['--build', buildDir, '--parallel', String(availableParallelism()), '--target', ...targets])
  console.log(`built in ${seconds(startedMs)} s`)
  return buildDir
}

async function run(command: string, args: string[]): Promise<void> {
  await runCommand({ command, args, timeoutMs: BUILD_TIMEOUT_MS, signal })
}

async function passes(name: string, command: string, args: string[], timeoutMs: number): Promise<boolean> {
  const startedMs = performance.now()
  const env = {
    ...process.env,
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
    TSAN_OPTIONS: 'halt_on_error=1',
  }
  try {
    await runCommand({ command, args, env, timeoutMs, signal })
    console.log(`✓ ${name} (${seconds(startedMs)} s)`)
    return true
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error
    console.log(`✗ ${name} (${seconds(startedMs)} s)\n${error.message}`)
    return false
  }
}

function seconds(sinceMs: number): string {
  return ((performance.now() - sinceMs) / 1000).toFixed(1)
}
