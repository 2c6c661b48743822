// Finds a CUDA compiler, and cuBLASLt, or brings them. Owns where they are looked for and the folders of the unpacked wheels; which
// wheels is native-engine/cuda/*.txt, what is compiled is cuda-compile.ts.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { findProgram, runCommand } from './commands.ts'
import { DownloadFailed } from './download.ts'
import { takeLock } from './lock.ts'
import { runPip } from './pip.ts'

export type CudaToolkit = {
  /** Folder with bin/, include/ and lib/ or lib64/. */
  root: string
  nvcc: string
  /** e.g. `13.5.37` */
  release: string
  /** Absent where the toolkit has none. */
  cuobjdump?: string
}

/** There is no usable compiler, or no cuBLASLt; the message says why. Whoever asks reports "skipped", never success. */
export class NoCudaToolkit extends Error {
  override name = 'NoCudaToolkit'
}

/** The first release that compiles for sm_120; older ones are passed over. */
const RELEASE_MIN = [12, 8] as const
const VERSION_TIMEOUT_MS = 20_000
/** Another process that unpacks the same wheels takes a minute at most. */
const UNPACK_WAIT_MS = 5 * 60_000

type Wheels = {
  folder: string
  /** The file for pip. */
  requirements: string
  /** As people are told. */
  name: string
  /** A file below the wheels' root that must be there afterwards. */
  marker: string
  /** What the wheels leave out; gets their root. */
  complete?: (root: string) => Promise<void>
}

/**
 * The first usable compiler of those that are here, else that of the wheels, unpacked into `folder`.
 * @param folder of the wheels, e.g. native-engine/build-cuda/toolkit
 * @param requirements the file for pip
 * @throws NoCudaToolkit
 */
export async function obtainToolkit(
  folder: string,
  requirements: string,
  signal: AbortSignal,
  places: (string | undefined)[] = [process.env.CUDACXX, findProgram('nvcc'), '/usr/local/cuda/bin/nvcc'],
): Promise<CudaToolkit> {
  for (const nvcc of places) {
    const found = nvcc === undefined ? undefined : await inspect(nvcc, signal)
    if (found !== undefined) return found
  }
  const root = await unpackWheels(
    {
      folder,
      requirements,
      name: 'a CUDA toolkit (131 MB)',
      marker: join('bin', 'nvcc'),
      // CMake looks for the library under the name that linkers ask for.
      complete: (root) => symlink('libcudart.so.13', join(root, 'lib', 'libcudart.so')),
    },
    signal,
  )
  const nvcc = join(root, 'bin', 'nvcc')
  const found = await inspect(nvcc, signal)
  if (found === undefined) throw new NoCudaToolkit(`${nvcc} came out of the wheels but does not run on this machine`)
  return found
}

/**
 * The folder that has include/cublasLt.h and its library: the toolkit's, else that of the wheel, unpacked into `folder`.
 * @throws NoCudaToolkit
 */
export async function obtainCublasLt(
  toolkit: CudaToolkit,
  folder: string,
  requirements: string,
  signal: AbortSignal,
): Promise<string> {
  const marker = join('include', 'cublasLt.h')
  if (existsSync(join(toolkit.root, marker))) return toolkit.root
  return await unpackWheels({ folder, requirements, name: 'cuBLASLt (444 MB)', marker }, signal)
}

/** e.g. `13.5.37` out of what `nvcc --version` prints. Pure. */
export function releaseOf(printed: string): string | undefined {
  return /\bV(\d+\.\d+\.\d+)\b/.exec(printed)?.[1]
}

async function inspect(nvcc: string, signal: AbortSignal): Promise<CudaToolkit | undefined> {
  if (!existsSync(nvcc)) return undefined
  const lines: string[] = []
  const onLine = (line: string) => lines.push(line)
  try {
    await runCommand({ command: nvcc, args: ['--version'], timeoutMs: VERSION_TIMEOUT_MS, signal, onLine })
  } catch (error) {
    if (signal.aborted) throw error
    return undefined
  }
  const release = releaseOf(lines.join('\n'))
  if (release === undefined) return undefined
  const [major = 0, minor = 0] = release.split('.').map(Number)
  if (major < RELEASE_MIN[0] || (major === RELEASE_MIN[0] && minor < RELEASE_MIN[1])) return undefined
  const root = dirname(dirname(nvcc))
  const cuobjdump = join(root, 'bin', 'cuobjdump')
  return { root, nvcc, release, ...(existsSync(cuobjdump) && { cuobjdump }) }
}

/** @returns the wheels' root, which is laid out as a toolkit's */
async function unpackWheels(wheels: Wheels, signal: AbortSignal): Promise<string> {
  const { folder, requirements, name, marker, complete } = wheels
  const wanted = createHash('sha256')
    .update(await readFile(requirements))
    .digest('hex')
  const stamp = join(folder, 'requirements.sha256')
  const rootOf = (target: string) => join(target, 'nvidia', 'cu13')
  const parent = dirname(folder)
  await mkdir(parent, { recursive: true })
  const lock = await takeLock(`${folder}.lock`, { waitMs: UNPACK_WAIT_MS, signal })
  try {
    const known = await readFile(stamp, 'utf8').catch(() => '')
    if (known === wanted && existsSync(join(rootOf(folder), marker))) return rootOf(folder)
    console.log(`Not here, so its PyPI wheels are unpacked: ${name}`)
    const dir = await mkdtemp(join(parent, 'wheels-'))
    try {
      const target = join(dir, 'unpacked')
      const what = ['--quiet', '--no-deps', '--only-binary=:all:', '--no-cache-dir', '--no-compile', '--require-hashes']
      const args = ['install', ...what, '--target', target, '--requirement', requirements]
      await runPip({ args, workDir: dir, signal })
      await complete?.(rootOf(target))
      await writeFile(join(target, 'requirements.sha256'), wanted)
      await rm(folder, { recursive: true, force: true })
      await rename(target, folder)
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  } catch (error) {
    if (error instanceof DownloadFailed) throw new NoCudaToolkit(`${name}: no wheels to be had: ${error.message}`)
    throw error
  } finally {
    lock.release()
  }
  return rootOf(folder)
}
