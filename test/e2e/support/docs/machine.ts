// A machine as a reader of the pages has it: a home with nothing in it, a checkout, ports of its own, a vendor that answers, and the
// system that the pages start and stop. Owns all of it, and the one list of what a page's addresses mean here.
import { execFileSync } from 'node:child_process'
import { chmod, cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort, type PostgresServer, startPostgres } from '../../../../scripts/postgres.ts'
import { tinyModel } from '../../../../scripts/tiny-model.ts'
import { chatVendor, VendorUpstream } from '../vendor-upstreams.ts'
import { Terminal } from './terminal.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..', '..')
/** Pages begin here. */
const CHECKOUT = 'penstock'
/** Served under the name of the default model: pages name that, and its 98 MB are not needed to run them. */
const MODEL_FILE = 'smollm2-135m-instruct.gguf'
/** A first one compiles the engine, or waits for somebody who does. */
const START_MS_MAX = 300_000
/** A Postgres of the reader's. */
const PAGE_DATABASE = 'postgres://penstock:password@db.example.com:5432/penstock'
const STARTED = 'Ctrl-C stops everything.'

/** `npx` finds these in a checkout too, after a second of looking around; `penstock` is what `npm link` makes. */
const PROGRAMS: Record<string, string> = {
  penstock: `exec "${join(ROOT, 'node_modules', '.bin', 'node')}" "${join(ROOT, 'cli', 'main.ts')}" "$@"`,
  npx: `case "$1" in
  penstock) shift; exec penstock "$@" ;;
  node) shift; exec "${join(ROOT, 'node_modules', '.bin', 'node')}" "$@" ;;
  wrangler) PATH="${join(ROOT, 'node_modules', '.bin')}:$PATH" exec "${join(ROOT, 'node_modules', '.bin', 'wrangler')}" "\${@:2}" ;;
esac
PATH="\${PATH#*:}" exec npx "$@"`,
}

export class Machine {
  readonly #home: string
  readonly #port: number
  readonly #vendor: VendorUpstream
  readonly #addresses: readonly (readonly [string, string])[]
  #system: Terminal | undefined
  #database: PostgresServer | undefined

  private constructor(home: string, port: number, vendor: VendorUpstream, ports: readonly number[]) {
    this.#home = home
    this.#port = port
    this.#vendor = vendor
    const [agentPort, secondPort, kvPort] = ports
    this.#addresses = [
      ['127.0.0.1:8787', `127.0.0.1:${port}`],
      ['10.0.0.5:8787', `127.0.0.1:${port}`],
      ['10.0.0.6:7801', `127.0.0.1:${agentPort}`],
      ['10.0.0.7:7801', `127.0.0.1:${secondPort}`],
      ['10.0.0.7:7901', `127.0.0.1:${kvPort}`],
      ['0.0.0.0:7801', `127.0.0.1:${agentPort}`],
      ['0.0.0.0:7802', `127.0.0.1:${secondPort}`],
      // A vendor's address is a public one; that of its stand-in is not.
      ['base_url = "https://api.openai.com/v1"', `base_url = "${vendor.origin}/v1"\nallow_private = true`],
    ]
  }

  static async make(): Promise<Machine> {
    const home = await mkdtemp(join(tmpdir(), 'penstock-docs-'))
    const ports = await Promise.all([freePort(), freePort(), freePort(), freePort()])
    const machine = new Machine(home, ports[0] ?? 0, await VendorUpstream.start(chatVendor), ports.slice(1))
    const models = join(home, 'models')
    const bin = join(home, 'bin')
    for (const dir of [models, bin, join(home, 'typed')]) await mkdir(dir)
    for (const name of [MODEL_FILE, 'my-model.gguf']) await writeFile(join(models, name), tinyModel())
    for (const [name, text] of Object.entries(PROGRAMS)) {
      await writeFile(join(bin, name), `#!/usr/bin/env bash\n${text}\n`)
      await chmod(join(bin, name), 0o755)
    }
    await machine.#checkOut()
    return machine
  }

  get checkout(): string {
    return join(this.#home, CHECKOUT)
  }

  /** What a page says, as it is meant on this machine. */
  async here(text: string): Promise<string> {
    const meant = this.#addresses.reduce((all, [there, here]) => all.replaceAll(there, here), text)
    if (!meant.includes(PAGE_DATABASE)) return meant
    this.#database ??= await startPostgres({ dataDir: join(this.#home, 'postgres') })
    return meant.replaceAll(PAGE_DATABASE, this.#database.url)
  }

  open(): Terminal {
    const { PATH = '', LANG = 'C.UTF-8', TMPDIR = tmpdir() } = process.env
    const env = {
      HOME: this.#home,
      PATH: `${join(this.#home, 'bin')}:${PATH}`,
      LANG,
      TMPDIR,
      NO_COLOR: '1',
      // The default port can be taken here.
      PENSTOCK_PORT: String(this.#port),
      PENSTOCK_URL: `http://127.0.0.1:${this.#port}`,
      PENSTOCK_MODEL: join(this.#home, 'models', MODEL_FILE),
      // It finds no end: answers without a bound are as long as the window.
      PENSTOCK_CONTEXT: '2048',
      // Each command is a process that reads the same files.
      NODE_COMPILE_CACHE: join(tmpdir(), 'penstock-docs-compiled'),
      WRANGLER_SEND_METRICS: 'false',
    }
    return new Terminal({ cwd: this.checkout, env, scratch: join(this.#home, 'typed') })
  }

  /** Most pages are for somebody who has `npm start` running. */
  async ensureStarted(): Promise<void> {
    if (this.#system !== undefined) return
    const terminal = this.open()
    this.#system = terminal
    const ran = await terminal.run('npm start', 1, START_MS_MAX, (output) => output.includes(STARTED))
    if (ran.ended || !ran.output.includes(STARTED)) throw new Error(`the system did not start:\n${ran.output}`)
  }

  /** A page has started the system in this terminal. */
  adopt(terminal: Terminal): void {
    this.#system = terminal
  }

  isSystem(terminal: Terminal): boolean {
    return terminal === this.#system
  }

  async stopSystem(): Promise<void> {
    const system = this.#system
    this.#system = undefined
    const isDown = await system?.interrupt()
    system?.close()
    if (isDown === false) throw new Error('the system did not stop on Ctrl-C')
  }

  async discard(): Promise<void> {
    await this.stopSystem().finally(() => Promise.all([this.#vendor.stop(), this.#database?.stop()]))
    await rm(this.#home, { recursive: true, force: true })
  }

  /** Everything of the real one, with room for what a page writes, and with a release that it does not have yet. */
  async #checkOut(): Promise<void> {
    const packages = join(this.checkout, 'node_modules')
    await mkdir(join(packages, '@penstock', 'sdk'), { recursive: true })
    // Files are copies, since a page may write to them; folders are the real ones.
    for (const entry of await readdir(ROOT, { withFileTypes: true })) {
      const [real, own] = [join(ROOT, entry.name), join(this.checkout, entry.name)]
      if (entry.name === 'node_modules' || entry.name === '.git') continue
      if (entry.isFile()) await cp(real, own)
      else await symlink(real, own)
    }
    for (const name of await readdir(join(ROOT, 'node_modules'))) {
      await symlink(join(ROOT, 'node_modules', name), join(packages, name))
    }
    await cp(join(ROOT, 'sdk', 'package.json'), join(packages, '@penstock', 'sdk', 'package.json'))
    const build = [
      '-p',
      join(ROOT, 'sdk', 'tsconfig.build.json'),
      // Its types have tests of their own.
      '--noCheck',
      '--outDir',
      join(packages, '@penstock', 'sdk', 'dist'),
    ]
    execFileSync(join(ROOT, 'node_modules', '.bin', 'tsc'), build)
    const git = (dir: string, ...args: string[]) =>
      execFileSync('git', ['-C', dir, '-c', 'user.name=a', '-c', 'user.email=a@example.com', ...args], {
        stdio: 'pipe',
      })
    const origin = join(this.#home, 'origin.git')
    git(this.checkout, 'init', '--quiet', '--initial-branch=main')
    await writeFile(join(this.checkout, '.git', 'info', 'exclude'), '*\n!package.json\n!NEWS\n')
    git(this.checkout, 'add', 'package.json')
    git(this.checkout, 'commit', '--quiet', '--message', 'a release')
    git(this.checkout, 'clone', '--quiet', '--bare', this.checkout, origin)
    git(this.checkout, 'remote', 'add', 'origin', origin)
    await writeFile(join(this.checkout, 'NEWS'), 'The next release.\n')
    git(this.checkout, 'add', 'NEWS')
    git(this.checkout, 'commit', '--quiet', '--message', 'the next release')
    git(this.checkout, 'push', '--quiet', '--set-upstream', 'origin', 'main')
    git(this.checkout, 'reset', '--quiet', '--hard', 'HEAD~1')
  }
}
