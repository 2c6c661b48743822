// Builds the native engine. Owns the CMake call, what is needed for it, and whether it is built with CUDA; the targets are
// native-engine/CMakeLists.txt.
import { existsSync } from 'node:fs'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { type Adopt, findProgram, runCommand } from './commands.ts'
import { takeLock } from './lock.ts'
import type { LogFile } from './log-file.ts'

export type EngineBuildOptions = {
  /** native-engine/ */
  sourceDir: string
  /** Created where absent. One build at a time works in it. */
  buildDir: string
  /** Also build the test binaries; needs GoogleTest. */
  tests: boolean
  /** Default: everything. */
  target?: string
  log?: LogFile
  signal: AbortSignal
  /** Gets how far the compilation is, 0 to 100. */
  onPercent?: (percent: number) => void
  /** Told when another process builds in the same folder. */
  onWait?: (pid: number) => void
  /** What is built must compute on a GPU. */
  needsCuda?: boolean
  /** Told when the engine is built with CUDA, and which compiler and GPUs that is for. */
  onCuda?: (detail: string) => void
  adopt?: Adopt
}

/** A cold build takes some minutes on two cores; beyond this something hangs. */
const BUILD_TIMEOUT_MS = 20 * 60_000
const CONFIGURE_TIMEOUT_MS = 2 * 60_000

/**
 * Brings the build up to date; takes well under a second where it is.
 * @returns the folder with the binaries
 * @throws NoCuda, Error that says what to install, or CommandFailed with the compiler's last lines
 */
export async function buildEngine(options: EngineBuildOptions): Promise<string> {
  const { sourceDir, buildDir, log, signal, adopt } = options
  const common = { ...(log && { log }), ...(adopt && { adopt }), signal }
  requireTools()
  const found = await findCuda(process.env)
  const cuda = 'missing' in found ? undefined : found
  if (options.needsCuda === true && 'missing' in found) throw new NoCuda(found.missing)
  await mkdir(buildDir, { recursive: true })
  const lock = await takeLock(join(buildDir, 'penstock-build.lock'), {
    waitMs: BUILD_TIMEOUT_MS,
    signal,
    ...(options.onWait && { onWait: options.onWait }),
  })
  try {
    const configured = await configuration(buildDir)
    const isHere = configured?.sourceDir === sourceDir
    if (cuda !== undefined) options.onCuda?.(`with CUDA for ${cuda.gpus.join(', ')}, by ${cuda.nvcc}`)
    const switchesCuda = (cuda !== undefined) !== (configured?.cuda === true)
    // A start takes a build with tests as it is: it builds its own target alone, from the same objects.
    if (!isHere || (options.tests && !configured.tests) || configured.lacksGrammars || switchesCuda) {
      if (!isHere) {
        // Of a checkout that was moved: CMake refuses to go on with it.
        await rm(join(buildDir, 'CMakeCache.txt'), { force: true })
        await rm(join(buildDir, 'CMakeFiles'), { recursive: true, force: true })
      }
      const generator = isHere || findProgram('ninja') === undefined ? [] : ['-G', 'Ninja']
      const tests = options.tests || (isHere && configured.tests)
      const switches = ['-DCMAKE_BUILD_TYPE=Release', `-DPENSTOCK_TESTS=${tests ? 'ON' : 'OFF'}`]
      // Without a GPU, what CMakeLists.txt does by itself.
      if (cuda === undefined) switches.push('-UPENSTOCK_CUDA')
      else switches.push('-DPENSTOCK_CUDA=ON', `-DCMAKE_CUDA_COMPILER=${cuda.nvcc}`)
      await runCommand({
        command: 'cmake',
        args: ['-S', sourceDir, '-B', buildDir, ...generator, ...switches],
        timeoutMs: CONFIGURE_TIMEOUT_MS,
        ...common,
      })
    }
    const target = options.target === undefined ? [] : ['--target', options.target]
    await runCommand({
      command: 'cmake',
      args: ['--build', buildDir, '--parallel', String(availableParallelism()), ...target],
      timeoutMs: BUILD_TIMEOUT_MS,
      ...common,
      onLine: (line) => {
        const percent = percentOf(line)
        if (percent !== undefined) options.onPercent?.(percent)
      },
    })
    return buildDir
  } finally {
    lock.release()
  }
}

type Cuda = { nvcc: string; gpus: string[] }

/** The engine is to compute on a GPU, and cannot be built for one here. Nothing was built. */
export class NoCuda extends Error {
  override name = 'NoCuda'
  readonly missing: string
  constructor(missing: string) {
    super(`--device cuda: the engine would be built without CUDA, since ${missing}.
    Needed: a GPU of compute capability 8.0 or later with its driver (nvidia-smi shows it), and the CUDA toolkit, 12.8 or
    later, with nvcc in PATH, CUDA_HOME or /usr/local/cuda. Without them: --device cpu`)
    this.missing = missing
  }
}

/** The driver answers at once, or takes some seconds to wake GPUs that nothing uses. */
const GPU_LIST_TIMEOUT_MS = 30_000

/**
 * A compiler for GPUs and a GPU to compile for, or what is missing; `PENSTOCK_CUDA=OFF` in the environment says that neither is
 * meant.
 */
async function findCuda(env: NodeJS.ProcessEnv): Promise<Cuda | { missing: string }> {
  if (env.PENSTOCK_CUDA === 'OFF') return { missing: 'PENSTOCK_CUDA is OFF in the environment' }
  const homes = [env.CUDA_HOME ?? '', env.CUDA_PATH ?? '', '/usr/local/cuda'].filter((home) => home !== '')
  const nvcc = findProgram('nvcc') ?? homes.map((home) => join(home, 'bin', 'nvcc')).find((path) => existsSync(path))
  if (nvcc === undefined) return { missing: 'nvcc cannot be found' }
  if (findProgram('nvidia-smi') === undefined) return { missing: 'nvidia-smi cannot be found' }
  const gpus: string[] = []
  const list = {
    command: 'nvidia-smi',
    args: ['--query-gpu=name', '--format=csv,noheader'],
    timeoutMs: GPU_LIST_TIMEOUT_MS,
    signal: AbortSignal.timeout(GPU_LIST_TIMEOUT_MS),
    onLine: (line: string) => gpus.push(line.trim()),
  }
  // A driver that does not answer is as good as none.
  const answered = await runCommand(list).then(
    () => true,
    () => false,
  )
  if (!answered) return { missing: 'nvidia-smi does not answer' }
  return gpus.length > 0 ? { nvcc, gpus } : { missing: 'nvidia-smi shows no GPU' }
}

/** Make says `[ 42%] …`, Ninja says `[5/12] …`. */
export function percentOf(line: string): number | undefined {
  const make = /^\[\s*(\d{1,3})%\]/.exec(line)
  if (make !== null) return Number(make[1])
  const ninja = /^\[(\d+)\/(\d+)\]/.exec(line)
  return ninja === null ? undefined : Math.floor((100 * Number(ninja[1])) / Number(ninja[2]))
}

type Configuration = {
  sourceDir: string | undefined
  tests: boolean
  /** Configured while there was no cargo, and now there is. */
  lacksGrammars: boolean
  /** For the GPUs of this machine. */
  cuda: boolean
}

/** What the build folder was configured for; undefined where it was not, or not to the end. */
async function configuration(buildDir: string): Promise<Configuration | undefined> {
  if (!existsSync(join(buildDir, 'Makefile')) && !existsSync(join(buildDir, 'build.ninja'))) return undefined
  const cache = await readFile(join(buildDir, 'CMakeCache.txt'), 'utf8').catch(() => '')
  const entries = new Map(cache.split('\n').map((line) => [line.split(':')[0], line.slice(line.indexOf('=') + 1)]))
  if (entries.get('CMAKE_BUILD_TYPE') !== 'Release') return undefined
  return {
    sourceDir: entries.get('CMAKE_HOME_DIRECTORY'),
    tests: entries.get('PENSTOCK_TESTS') === 'ON',
    cuda: entries.get('PENSTOCK_CUDA') === 'ON',
    lacksGrammars: entries.get('PENSTOCK_CARGO')?.endsWith('-NOTFOUND') === true && findProgram('cargo') !== undefined,
  }
}

function requireTools(): void {
  const missing: string[] = []
  if (findProgram('cmake') === undefined) missing.push('CMake')
  if (findProgram('make') === undefined && findProgram('ninja') === undefined) missing.push('make (or ninja)')
  const compilers = [process.env.CXX?.split(' ')[0], 'c++', 'g++', 'clang++'].filter((name) => name !== undefined)
  const hasCompiler = compilers.some((name) =>
    name.includes('/') ? existsSync(name) : findProgram(name) !== undefined,
  )
  if (!hasCompiler) missing.push('a C++20 compiler')
  if (missing.length === 0) return
  throw new Error(`the engine is compiled on this machine, and ${missing.join(' and ')} cannot be found. Install:
    Debian, Ubuntu   apt-get install cmake g++ make
    Fedora           dnf install cmake gcc-c++ make
    macOS            xcode-select --install; brew install cmake`)
}
