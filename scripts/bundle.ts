// Bundles the gateway into the one set of modules that both homes run. Owns the call of wrangler and the cache of its
// result; wrangler.toml owns what the bundle is.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { type Adopt, runCommand } from './commands.ts'
import type { LogFile } from './log-file.ts'

export type BundleOptions = {
  /** The checkout. */
  root: string
  /** Holds one folder per bundle, and wrangler's own files. */
  cacheDir: string
  log?: LogFile
  signal: AbortSignal
  adopt?: Adopt
}

export type Bundle = { dir: string; cached: boolean }

/** Whatever goes into a bundle: a change in any of these makes a new one. */
const INPUTS = ['gateway', 'protocol', 'wrangler.toml', 'tsconfig.base.json', 'package-lock.json', 'scripts/bundle.ts']
const TIMEOUT_MS = 2 * 60_000
/** Older ones are removed: enough to go back and forth between two branches. */
const BUNDLES_KEPT = 4

/** Returns the folder with the bundle of the sources as they are now; bundles only where they changed. */
export async function bundleGateway(options: BundleOptions): Promise<Bundle> {
  const digest = await digestOf(options.root, INPUTS)
  const bundlesDir = join(options.cacheDir, 'bundles')
  const dir = join(bundlesDir, digest)
  if (existsSync(dir)) return { dir, cached: true }
  await mkdir(bundlesDir, { recursive: true })
  const draft = `${dir}.${process.pid}`
  const wranglerDir = join(options.cacheDir, 'wrangler')
  const noAssets = join(options.cacheDir, 'no-assets')
  await mkdir(noAssets, { recursive: true })
  const script = join(options.root, 'node_modules', 'wrangler', 'bin', 'wrangler.js')
  try {
    await runCommand({
      command: process.execPath,
      args: [
        script,
        'deploy',
        '--dry-run',
        '--outdir',
        draft,
        '--config',
        join(options.root, 'wrangler.toml'),
        // The dashboard's files are no part of the bundle: here they come out of a folder of their own.
        '--assets',
        noAssets,
      ],
      cwd: options.root,
      env: {
        ...process.env,
        // Nothing leaves this machine and nothing is written outside the data folder: no metrics, no error reports, no
        // look for updates (that is the banner), no log files, no settings under the home folder.
        WRANGLER_SEND_METRICS: 'false',
        WRANGLER_SEND_ERROR_REPORTS: 'false',
        WRANGLER_HIDE_BANNER: 'true',
        WRANGLER_WRITE_LOGS: 'false',
        WRANGLER_LOG_PATH: join(wranglerDir, 'logs'),
        WRANGLER_CACHE_DIR: join(wranglerDir, 'cache'),
        WRANGLER_REGISTRY_PATH: join(wranglerDir, 'registry'),
        XDG_CONFIG_HOME: wranglerDir,
        CI: '1',
      },
      ...(options.log && { log: options.log }),
      ...(options.adopt && { adopt: options.adopt }),
      timeoutMs: TIMEOUT_MS,
      signal: options.signal,
    })
    await rename(draft, dir).catch((error: NodeJS.ErrnoException) => {
      // Another start on the same folder was faster; its bundle is the same.
      if (!existsSync(dir)) throw error
    })
  } finally {
    await rm(draft, { recursive: true, force: true })
  }
  await removeOld(bundlesDir, digest)
  return { dir, cached: false }
}

/** SHA-256 over names and bytes of all files below the inputs, except those whose path `except` finds. */
export async function digestOf(root: string, inputs: string[], except?: RegExp): Promise<string> {
  const hash = createHash('sha256')
  for (const input of inputs) {
    for (const file of await filesBelow(join(root, input))) {
      if (except?.test(relative(root, file))) continue
      const bytes = await readFile(file)
      hash.update(`${relative(root, file)}\0${bytes.length}\0`).update(bytes)
    }
  }
  return hash.digest('hex').slice(0, 32)
}

async function filesBelow(path: string): Promise<string[]> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch(() => undefined)
  if (entries === undefined) return existsSync(path) ? [path] : []
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
}

/** Keeps the newest folders. @param newest Name of the one that is used */
export async function removeOld(bundlesDir: string, newest: string): Promise<void> {
  const names = (await readdir(bundlesDir)).filter((name) => name !== newest)
  const dated = await Promise.all(
    names.map(async (name) => ({ name, mtimeMs: (await stat(join(bundlesDir, name))).mtimeMs })),
  )
  dated.sort((left, right) => right.mtimeMs - left.mtimeMs)
  for (const { name } of dated.slice(BUNDLES_KEPT - 1)) {
    await rm(join(bundlesDir, name), { recursive: true, force: true })
  }
}
