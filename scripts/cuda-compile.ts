// `npm run test:cuda`: every kernel through nvcc for every architecture, and what came out against native-engine/cuda/limits.json.
// Owns what is compiled how, what is kept between runs and the report; cuda-limits.ts owns the judgement, cuda-toolkit.ts the
// compiler. No GPU is needed, and nothing is executed.
//
//   node scripts/cuda-compile.ts [--update] [--only PATTERN] [--no-link] [--cublaslt]
//
// Exit code: 0 as the table says, 1 not so, 77 skipped because no compiler can be had.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { CommandFailed, findProgram, runCommand } from './commands.ts'
import { includedFiles } from './cuda-includes.ts'
import {
  type CompiledKernel,
  compareWithLimits,
  enumerators,
  kernelName,
  parseLimits,
  parsePtxas,
  parseSass,
  printLimits,
  summarizeLimits,
  updateLimits,
} from './cuda-limits.ts'
import { type CudaToolkit, NoCudaToolkit, obtainCublasLt, obtainToolkit } from './cuda-toolkit.ts'
import { writeDocsTable } from './docs-table.ts'

const NATIVE_DIR = join(import.meta.dirname, '..', 'native-engine')
const SOURCE_DIR = join(NATIVE_DIR, 'src')
const KERNEL_DIR = join(SOURCE_DIR, 'ops', 'cuda')
const BUILD_DIR = join(NATIVE_DIR, 'build-cuda')
const RECORD_DIR = join(BUILD_DIR, 'compiled')
const LIMITS_PATH = join(NATIVE_DIR, 'cuda', 'limits.json')
/** The automake convention for a test that could not be made. */
const EXIT_SKIPPED = 77
/** The same as in cmake/cuda.cmake, where it says why, and every warning an error. */
const FLAGS = ['-std=c++20', '-O3', '-fmad=false', '--expt-relaxed-constexpr', '-Werror=all-warnings', '-I', SOURCE_DIR]
/** One file with dozens of instances takes a minute on a slow core. */
const COMPILE_TIMEOUT_MS = 10 * 60_000
const LINK_TIMEOUT_MS = 40 * 60_000
/** Changes when what is recorded about a compilation changes. */
const RECORD_FORMAT = 2
/** One kernel of every file is enough to see that host code and kernels fit together. */
const LINK_ARCHITECTURE = '90'

const Record = z.object({ digest: z.string(), kernels: z.array(z.custom<CompiledKernel>()) })
/** Enums that kernels are templates over. */
const ENUMERATORS = new Map(
  ['ops/tensor_type.h', 'kv/cache.h', 'ops/cuda/ops.h'].flatMap((path) => [
    ...enumerators(readFileSync(join(SOURCE_DIR, path), 'utf8')),
  ]),
)
type Job = { file: string; architecture: string }

const { signal } = new AbortController()
process.exitCode = await main()

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      update: { type: 'boolean', default: false },
      only: { type: 'string', default: '' },
      'no-link': { type: 'boolean', default: false },
      cublaslt: { type: 'boolean', default: false },
    },
  })
  if (values.cublaslt && values['no-link']) throw new Error('--cublaslt is about linking: without --no-link')
  let toolkit: CudaToolkit
  let cublasLt: string | undefined
  try {
    toolkit = await obtainToolkit(join(BUILD_DIR, 'toolkit'), join(NATIVE_DIR, 'cuda', 'toolkit.txt'), signal)
    if (values.cublaslt) {
      const requirements = join(NATIVE_DIR, 'cuda', 'cublas.txt')
      cublasLt = await obtainCublasLt(toolkit, join(BUILD_DIR, 'cublas'), requirements, signal)
    }
    if (findProgram('c++filt') === undefined) throw new NoCudaToolkit('c++filt (binutils) is not here')
  } catch (error) {
    if (!(error instanceof NoCudaToolkit)) throw error
    console.log(`– skipped, nothing is proved: ${error.message}`)
    return EXIT_SKIPPED
  }
  const table = parseLimits(await readFile(LIMITS_PATH, 'utf8'))
  console.log(`nvcc ${toolkit.release} (${toolkit.root}), ${table.architectures.join(', ')}`)
  if (toolkit.cuobjdump === undefined) console.log('– skipped: no cuobjdump here, so instructions are not looked at')
  const only = new RegExp(values.only)
  const files = (await readdir(KERNEL_DIR)).filter((file) => file.endsWith('.cu') && only.test(file)).sort()
  if (files.length === 0) throw new Error(`no kernel file matches ${values.only}`)
  const jobs = files.flatMap((file) => table.architectures.map((architecture) => ({ file, architecture })))
  const { kernels, failures } = await compileAll(toolkit, jobs)
  for (const failure of failures) console.log(`✗ ${failure}`)
  if (values.update) {
    if (failures.length > 0) return 1
    const others = Object.fromEntries(Object.entries(table.kernels).filter(([file]) => !only.test(file)))
    const { kernels: fresh, ...rest } = updateLimits(table, kernels, toolkit.release)
    const all = Object.entries({ ...others, ...fresh }).sort(([a], [b]) => (a < b ? -1 : 1))
    const updated = { ...rest, kernels: Object.fromEntries(all) }
    await writeFile(LIMITS_PATH, printLimits(updated))
    await writeDocsTable('cuda-limits', summarizeLimits(updated), 'cuda.md')
    console.log('limits.json holds what was compiled; what may not be there is still refused:')
  }
  const current = parseLimits(await readFile(LIMITS_PATH, 'utf8'))
  const wanted = values.only === '' ? current : restricted(current, files, kernels)
  // A file that does not compile has no kernels, which says nothing about its rows.
  const findings = failures.length > 0 ? [] : compareWithLimits(wanted, kernels, toolkit.release)
  for (const finding of findings) console.log(`✗ ${finding}`)
  const names = new Set(kernels.map(({ file, kernel }) => `${file} ${kernel}`))
  console.log(`${files.length} files, ${names.size} kernels, ${kernels.length} compiled; ${findings.length} findings`)
  let failed = failures.length + findings.length
  if (!values['no-link'] && failures.length === 0) failed += await linkEngine(toolkit, cublasLt)
  console.log(failed === 0 ? '✓ as the table says' : '✗ not as the table says')
  return failed === 0 ? 0 : 1
}

/** The part of the table that a look at some files can judge. */
function restricted<Table extends ReturnType<typeof parseLimits>>(
  table: Table,
  files: string[],
  kernels: CompiledKernel[],
) {
  const names = new Set(kernels.flatMap(({ kernel }) => [kernel, kernel.replace(/<.*$/, '')]))
  return {
    ...table,
    kernels: Object.fromEntries(Object.entries(table.kernels).filter(([file]) => files.includes(file))),
    instructions: Object.fromEntries(Object.entries(table.instructions).filter(([name]) => names.has(name))),
  }
}

/** As many compilers at once as there are cores. A file that fails for one architecture is not tried for the others. */
async function compileAll(toolkit: CudaToolkit, jobs: Job[]) {
  await mkdir(RECORD_DIR, { recursive: true })
  const waiting = [...jobs]
  const kernels: CompiledKernel[] = []
  const failures: string[] = []
  const broken = new Set<string>()
  const worker = async () => {
    for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) {
      if (broken.has(job.file)) continue
      try {
        kernels.push(...(await compile(toolkit, job)))
      } catch (error) {
        if (!(error instanceof CommandFailed)) throw error
        if (!broken.has(job.file)) failures.push(`${job.file} (${job.architecture}): ${error.message}`)
        broken.add(job.file)
      }
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  return { kernels, failures }
}

/** What the last run found, where nothing that the compiler reads has changed. */
async function compile(toolkit: CudaToolkit, { file, architecture }: Job): Promise<CompiledKernel[]> {
  const recordPath = join(RECORD_DIR, `${file}.${architecture}.json`)
  const digest = digestOf(toolkit, file, architecture)
  const known = await readFile(recordPath, 'utf8').then(
    (text) => Record.safeParse(JSON.parse(text)),
    () => undefined,
  )
  if (known?.success === true && known.data.digest === digest) return known.data.kernels
  const startedMs = performance.now()
  const cubin = join(RECORD_DIR, `${file}.${architecture}.cubin`)
  const source = join(KERNEL_DIR, file)
  const args = [...FLAGS, `-arch=${architecture}`, '-Xptxas', '-v', '-cubin', source, '-o', cubin]
  const printed = await linesOf(toolkit.nvcc, args, COMPILE_TIMEOUT_MS)
  const usages = parsePtxas(printed)
  const instructions =
    toolkit.cuobjdump === undefined ? undefined : parseSass(await linesOf(toolkit.cuobjdump, ['-sass', cubin]))
  const mangled = [...usages.keys()]
  const names = mangled.length === 0 ? [] : await linesOf('c++filt', mangled)
  const kernels = mangled.map((name, index): CompiledKernel => {
    const found = instructions?.get(name)
    const usage = usages.get(name)
    if (usage === undefined || (instructions !== undefined && found === undefined)) {
      throw new CommandFailed(`${name} is in the compiler's report and not in the object`)
    }
    return {
      file,
      kernel: kernelName(names[index] ?? name, ENUMERATORS),
      architecture,
      usage,
      ...(found && { instructions: found }),
    }
  })
  await writeFile(recordPath, JSON.stringify({ digest, kernels }))
  console.log(`  ${file} ${architecture}: ${kernels.length} kernels (${seconds(startedMs)} s)`)
  return kernels
}

function digestOf(toolkit: CudaToolkit, file: string, architecture: string): string {
  const read = (path: string) =>
    existsSync(join(SOURCE_DIR, path)) ? readFileSync(join(SOURCE_DIR, path), 'utf8') : undefined
  const hash = createHash('sha256')
  hash.update(JSON.stringify([RECORD_FORMAT, toolkit.release, toolkit.cuobjdump !== undefined, FLAGS, architecture]))
  for (const path of includedFiles(`ops/cuda/${file}`, read)) hash.update(`\0${path}\0${read(path)}`)
  return hash.digest('hex')
}

/**
 * Host code against NVIDIA's headers, and the engine with its tests linked with the real runtime; with the folder of cuBLASLt also
 * with it, and what can be asked of it without a GPU is. Returns how many failed.
 */
async function linkEngine(toolkit: CudaToolkit, cublasLt: string | undefined): Promise<number> {
  const buildDir = join(BUILD_DIR, 'link')
  const startedMs = performance.now()
  const launcher = findProgram('ccache') === undefined ? [] : ['C', 'CXX', 'CUDA']
  const options = [
    '-DPENSTOCK_CUDA=ON',
    '-DPENSTOCK_TESTS=ON',
    '-DPENSTOCK_GRAMMARS=OFF',
    `-DCMAKE_CUDA_ARCHITECTURES=${LINK_ARCHITECTURE}`,
    `-DCMAKE_CUDA_COMPILER=${toolkit.nvcc}`,
    `-DPENSTOCK_CUBLASLT_ROOT=${cublasLt ?? ''}`,
    ...launcher.map((language) => `-DCMAKE_${language}_COMPILER_LAUNCHER=ccache`),
  ]
  const generator = findProgram('ninja') === undefined ? [] : ['-G', 'Ninja']
  const cores = String(availableParallelism())
  try {
    await linesOf('cmake', ['-S', NATIVE_DIR, '-B', buildDir, ...generator, ...options], LINK_TIMEOUT_MS)
    await linesOf(
      'cmake',
      ['--build', buildDir, '--parallel', cores, '--target', 'penstock-engine', 'cuda-tests', 'cuda-bench'],
      LINK_TIMEOUT_MS,
    )
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error
    console.log(`✗ the engine with CUDA does not build: ${error.message}`)
    return 1
  }
  console.log(`✓ the engine and its CUDA tests build and link against the CUDA runtime (${seconds(startedMs)} s)`)
  if (cublasLt === undefined) return 0
  try {
    await linesOf(join(buildDir, 'penstock-engine'), ['--help'])
    const passed = await linesOf(join(buildDir, 'cuda_cublaslt_test'), ['--gtest_filter=CublasLtProducts.*'])
    if (!passed.some((line) => /^\[ {2}PASSED {2}\] [1-9]/.test(line))) throw new CommandFailed('no test of it has run')
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error
    console.log(`✗ what was linked with cuBLASLt: ${error.message}`)
    return 1
  }
  console.log('✓ with cuBLASLt too, which takes the descriptions of our products')
  return 0
}

async function linesOf(command: string, args: string[], timeoutMs = 60_000): Promise<string[]> {
  const lines: string[] = []
  await runCommand({ command, args, timeoutMs, signal, onLine: (line) => lines.push(line) })
  return lines
}

function seconds(sinceMs: number): string {
  return ((performance.now() - sinceMs) / 1000).toFixed(1)
}
