// Hosts in network namespaces of their own, on lines with delay, loss and cuts. Owns namespaces, addresses and what is torn down;
// packets are link.cc. The tests themselves run in the hub, as `npm run test:net` sets it up, and the gateway with them.
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Set by scripts/test-net.ts. */
const HUB = process.env.PENSTOCK_NET_HUB ?? ''
const LINK = process.env.PENSTOCK_NET_LINK ?? ''
const COMMAND_TIMEOUT_MS = 5000

export type Conditions = { delayMs: number; jitterMs?: number; lossPermille?: number }

/** One host: a namespace with one line to the hub. */
export class Host {
  readonly namespace: string
  /** Its own. */
  readonly address: string
  /** The hub's end of its line. */
  readonly gateway: string
  readonly #link: ChildProcess
  readonly #answers: AsyncIterator<string>
  readonly #children = new Set<ChildProcess>()

  private constructor(
    namespace: string,
    address: string,
    gateway: string,
    link: ChildProcess,
    answers: AsyncIterator<string>,
  ) {
    this.namespace = namespace
    this.address = address
    this.gateway = gateway
    this.#link = link
    this.#answers = answers
  }

  /** @param number 1 to 200, of this hub alone. */
  static async add(number: number): Promise<Host> {
    if (HUB === '' || LINK === '') throw new Error('these tests run through `npm run test:net`')
    const namespace = `${HUB}-${number}`
    const [address, gateway] = [`10.88.${number}.2`, `10.88.${number}.1`]
    const [inHub, inHost] = [`hub${number}`, 'line']
    await run('ip', ['netns', 'add', namespace])
    const link = spawn(LINK, [HUB, inHub, namespace, inHost], { stdio: ['pipe', 'pipe', 'inherit'] })
    const answers = createInterface({ input: link.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
    await answered(answers, 'ready')
    await run('ip', ['-n', HUB, 'addr', 'add', gateway, 'peer', address, 'dev', inHub])
    await run('ip', ['-n', HUB, 'link', 'set', inHub, 'up'])
    await run('ip', ['-n', namespace, 'link', 'set', 'lo', 'up'])
    await run('ip', ['-n', namespace, 'addr', 'add', address, 'peer', gateway, 'dev', inHost])
    await run('ip', ['-n', namespace, 'link', 'set', inHost, 'up'])
    await run('ip', ['-n', namespace, 'route', 'add', 'default', 'via', gateway])
    return new Host(namespace, address, gateway, link, answers)
  }

  /** Each packet takes so long, each way; every thousandth is lost so often. */
  async set({ delayMs, jitterMs = 0, lossPermille = 0 }: Conditions): Promise<void> {
    await this.#tell(`set ${delayMs} ${jitterMs} ${lossPermille}`)
  }
  /** Nothing passes any more, and nobody is told. */
  async cut(): Promise<void> {
    await this.#tell('cut')
  }
  async heal(): Promise<void> {
    await this.#tell('heal')
  }

  /** Starts a program on this host. */
  start(command: string, args: string[], env: NodeJS.ProcessEnv): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.namespace, command, ...args], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#children.add(child)
    child.on('exit', () => this.#children.delete(child))
    return child
  }

  async remove(): Promise<void> {
    for (const child of this.#children) {
      const gone = once(child, 'exit')
      child.kill('SIGKILL')
      await gone
    }
    const gone = once(this.#link, 'exit')
    this.#link.kill('SIGKILL')
    await gone
    await run('ip', ['netns', 'del', this.namespace])
  }

  async #tell(line: string): Promise<void> {
    this.#link.stdin?.write(`${line}\n`)
    await answered(this.#answers, 'ok')
  }
}

async function answered(answers: AsyncIterator<string>, expected: string): Promise<void> {
  const late = AbortSignal.timeout(COMMAND_TIMEOUT_MS)
  const line = await Promise.race([answers.next(), once(late, 'abort').then(() => undefined)])
  if (line?.value !== expected) throw new Error(`the link said ${JSON.stringify(line?.value)} instead of ${expected}`)
}
