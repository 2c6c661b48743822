// What the Worker weighs and what it takes to start: its bundle, and processor time until the first answer beyond that of a
// Worker that does nothing, under the same workerd. Owns the measurement; what is bundled is wrangler.toml's.
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { bundleGateway } from '../../scripts/bundle.ts'
import { workerdBinary } from '../../scripts/gateway-process.ts'
import { LOOPBACK } from '../../scripts/options.ts'
import { freePort } from '../../scripts/postgres.ts'
import { workerdConfig } from '../../scripts/workerd-config.ts'
import { quantile } from './statistics.ts'

export type Startup = {
  bundleBytes: number
  gzipBytes: number
  /** Processor time from the process's beginning to its first answer, beyond the empty Worker's: median and least. */
  cpuMs: { median: number; least: number }
}

const ROOT = join(import.meta.dirname, '..', '..')
const EMPTY = 'export default { fetch: () => new Response("ok") }\n'
const START_TIMEOUT_MS = 20_000
const NS_PER_MS = 1e6

/** @param rounds Starts of each of the two, in turn. @throws Error where one does not answer */
export async function measureStartup(rounds: number): Promise<Startup> {
  const dir = await mkdtemp(join(tmpdir(), 'penstock-startup-'))
  try {
    const bundle = await bundleGateway({ root: ROOT, cacheDir: dir, signal: new AbortController().signal })
    const modules = (await readdir(bundle.dir)).filter((name) => /\.(m?js|wasm)$/.test(name))
    const bytes = await Promise.all(modules.map((name) => readFile(join(bundle.dir, name))))
    await writeFile(join(dir, 'empty.js'), EMPTY)
    const wranglerToml = await readFile(join(ROOT, 'wrangler.toml'), 'utf8')
    const gateway = {
      wranglerToml,
      modules: modules.map((name) => ({ name, path: relative(dir, join(bundle.dir, name)) })),
    }
    // Without the objects, whose classes it does not have.
    const [head = ''] = wranglerToml.split('[limits]')
    const empty = { wranglerToml: head, modules: [{ name: 'index.js', path: 'empty.js' }] }
    const [ours, least]: [number[], number[]] = [[], []]
    for (let round = 0; round < rounds; round++) {
      ours.push(await startOnce(dir, gateway))
      least.push(await startOnce(dir, empty))
    }
    const beyond = (share: number) => quantile(ours, share) - quantile(least, share)
    const size = (sizes: number[]) => sizes.reduce((sum, one) => sum + one, 0)
    return {
      bundleBytes: size(bytes.map((one) => one.length)),
      gzipBytes: size(bytes.map((one) => gzipSync(one).length)),
      cpuMs: { median: beyond(0.5), least: beyond(0) },
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

type Worker = { wranglerToml: string; modules: { name: string; path: string }[] }

/** Processor time in ms until a Worker answers, which is when all of it has been read and has run. */
async function startOnce(dir: string, worker: Worker): Promise<number> {
  const port = await freePort()
  const configPath = join(dir, 'workerd.capnp')
  const storageDir = await mkdtemp(join(dir, 'objects-'))
  const text = workerdConfig({ ...worker, secrets: [], storageDir, address: `${LOOPBACK}:${port}` })
  await writeFile(configPath, text)
  const child = spawn(workerdBinary(ROOT), ['serve', configPath], { stdio: 'ignore' })
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  try {
    const untilMs = performance.now() + START_TIMEOUT_MS
    for (;;) {
      const answer = await fetch(`http://${LOOPBACK}:${port}/health`).catch(() => undefined)
      await answer?.body?.cancel()
      if (answer !== undefined) return cpuMsOf(child.pid ?? 0)
      if (performance.now() > untilMs || child.exitCode !== null) throw new Error(`the Worker did not start: ${text}`)
      await sleep(2)
    }
  } finally {
    child.kill('SIGKILL')
    await exited
  }
}

/** Of all threads: `schedstat` counts nanoseconds, where `stat` counts hundredths of a second. */
function cpuMsOf(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`)
  const ofThread = (thread: string) =>
    Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0])
  return threads.reduce((sum, thread) => sum + ofThread(thread), 0) / NS_PER_MS
}
