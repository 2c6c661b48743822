// The runtimes that the SDK promises. Owns where each is, installing what is not part of this repository's own packages, and running
// the scenario in it; what has to come out is in the tests.
import { execFile, spawn } from 'node:child_process'
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { extname, join, relative } from 'node:path'
import { promisify } from 'node:util'
import { chromium } from 'playwright-core'
import { runCommand } from '../../scripts/commands.ts'
import { freePort } from '../../scripts/postgres.ts'
import { chromiumPath } from '../browser/support/chromium.ts'
import { installBuiltSdk } from '../support/built-sdk.ts'
import { Servers } from './servers.ts'

const HERE = import.meta.dirname
const INSTALL_TIMEOUT_MS = 300_000
/** The scenario takes a second; a runtime that hangs is ended. */
const RUN_TIMEOUT_MS = 60_000
const FILES = ['scenario.mjs', 'main.mjs', 'worker.mjs']

/** What a runtime told of the scenario, and what its gateway was told. */
export type Lived = { steps: unknown; servers: Servers }

/** A folder as of an application that installed the SDK: every runtime works in it. */
export class Stage {
  readonly dir: string
  readonly #sdk: string

  private constructor(dir: string, sdk: string) {
    this.dir = dir
    this.#sdk = sdk
  }

  static async make(): Promise<Stage> {
    const dir = await mkdtemp(join(tmpdir(), 'penstock-runtimes-'))
    const sdk = await installBuiltSdk(dir)
    for (const name of FILES) await cp(join(HERE, name), join(dir, name))
    const manifest = { type: 'module', private: true, dependencies: { '@penstock/sdk': '0.1.0' } }
    await writeFile(join(dir, 'package.json'), JSON.stringify(manifest))
    return new Stage(dir, sdk)
  }

  discard(): Promise<void> {
    return rm(this.dir, { recursive: true, force: true })
  }

  /** Runs `command …arguments main.mjs`. */
  onCommandLine(command: string, args: readonly string[] = []): Promise<Lived> {
    return withServers(new Servers(), async ({ gateway, spare }) => {
      const { stdout } = await promisify(execFile)(command, [...args, 'main.mjs', gateway, spare], {
        cwd: this.dir,
        timeout: RUN_TIMEOUT_MS,
        // Calls stay on this machine: no proxy of its environment takes part.
        env: { PATH: process.env.PATH, HOME: this.dir, NO_COLOR: '1', DENO_NO_UPDATE_CHECK: '1' },
      })
      return JSON.parse(stdout)
    })
  }

  inWorkerd(): Promise<Lived> {
    return withServers(new Servers(), async ({ gateway, spare }) => {
      const port = await freePort()
      await writeFile(join(this.dir, 'config.capnp'), await this.#workerdConfig(port))
      const binary = createRequire(import.meta.url).resolve('workerd/bin/workerd')
      const child = spawn(binary, ['serve', 'config.capnp'], { cwd: this.dir, stdio: ['ignore', 'pipe', 'pipe'] })
      let said = ''
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += String(text)))
      try {
        const query = new URLSearchParams({ gateway, spare })
        const response = await untilAnswered(`http://127.0.0.1:${port}/?${query}`, () =>
          child.exitCode === null ? undefined : said,
        )
        const text = await response.text()
        if (!response.ok) throw new Error(`workerd: ${text}\n${said}`)
        return JSON.parse(text)
      } finally {
        child.kill('SIGKILL')
      }
    })
  }

  /** Names by which the modules of the package find each other: a bare name and its neighbours. */
  async #workerdConfig(port: number): Promise<string> {
    const dist = (await readdir(join(this.#sdk, 'dist'))).filter((name) => name.endsWith('.js'))
    // A path that is embedded is relative to the file that says so.
    const pathOf = (name: string) => relative(this.dir, join(this.#sdk, 'dist', name))
    const modules = [
      ['worker.mjs', 'worker.mjs'],
      ['scenario.mjs', 'scenario.mjs'],
      ['@penstock/sdk', pathOf('index.js')],
      ...dist.map((name) => [`@penstock/${name}`, pathOf(name)]),
    ]
    const embedded = modules.map(
      ([name, path]) => `(name = ${JSON.stringify(name)}, esModule = embed ${JSON.stringify(path)})`,
    )
    return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = (modules = [${embedded.join(', ')}], compatibilityDate = "2026-10-01")),
    (name = "internet", network = (allow = ["private", "public"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
`
  }

  /** Undefined where there is no Chromium: it is no part of npm's, and nothing here downloads one. */
  inBrowser(): Promise<Lived> | undefined {
    const executablePath = chromiumPath()
    if (executablePath === undefined) return undefined
    return withServers(new Servers((path) => this.#page(path)), async ({ gateway, spare }) => {
      const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] })
      try {
        const page = await browser.newPage()
        await page.goto(`${gateway}/page.html`)
        const run = `import('/scenario.mjs').then(({ scenario }) => scenario(${JSON.stringify(gateway)}, ${JSON.stringify(spare)}))`
        return await page.evaluate(run)
      } finally {
        await browser.close()
      }
    })
  }

  async #page(path: string): Promise<{ type: string; text: string } | undefined> {
    if (path === '/page.html') {
      const map = JSON.stringify({ imports: { '@penstock/sdk': '/sdk/index.js' } })
      return { type: 'text/html', text: `<!doctype html><script type="importmap">${map}</script>` }
    }
    const file = path.startsWith('/sdk/') ? join(this.#sdk, 'dist', path.slice('/sdk/'.length)) : join(this.dir, path)
    if (!['.js', '.mjs'].includes(extname(file)) || path.includes('..')) return undefined
    return { type: 'text/javascript', text: await readFile(file, 'utf8') }
  }
}

async function withServers(servers: Servers, run: (servers: Servers) => Promise<unknown>): Promise<Lived> {
  await servers.start()
  try {
    return { steps: await run(servers), servers }
  } finally {
    await servers.stop()
  }
}

/** @param ended What it said last, once it has ended. */
async function untilAnswered(url: string, ended: () => string | undefined): Promise<Response> {
  const until = Date.now() + RUN_TIMEOUT_MS
  for (;;) {
    try {
      return await fetch(url)
    } catch (cause) {
      const last = ended() ?? (Date.now() > until ? 'no answer in time' : undefined)
      if (last !== undefined) throw new Error(`workerd does not answer: ${last}`, { cause })
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

/** The Node of this repository. */
export const ownNode = (): string => join(HERE, '..', '..', 'node_modules', 'node', 'bin', 'node')

export type Foreign = 'node' | 'bun' | 'deno'

/** A runtime of this folder's own packages, installed where it is not there. @throws Error naming what to look at */
export async function foreign(name: Foreign): Promise<string> {
  const binary = join(HERE, 'node_modules', '.bin', name)
  const wanted = JSON.parse(await readFile(join(HERE, 'package.json'), 'utf8'))
  const version: string = { ...wanted.dependencies, ...wanted.devDependencies }[name]
  if ((await versionOf(binary)).includes(version)) return binary
  const { signal } = new AbortController()
  console.log(`Installing ${name} ${version} in test/runtimes …`)
  // Not `npm ci`: it refuses a lock file that lacks packages of other platforms.
  const args = ['install', '--no-save', '--no-audit', '--no-fund', ...(name === 'node' ? ['--omit=dev'] : [])]
  await runCommand({ command: 'npm', args, cwd: HERE, timeoutMs: INSTALL_TIMEOUT_MS, signal })
  const installed = await versionOf(binary)
  if (!installed.includes(version)) throw new Error(`${name} ${version} is not there after npm install: ${installed}`)
  return binary
}

const versionOf = (binary: string): Promise<string> =>
  promisify(execFile)(binary, ['--version'], { timeout: RUN_TIMEOUT_MS }).then(
    ({ stdout }) => stdout,
    (error: Error) => error.message,
  )
