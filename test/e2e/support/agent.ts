// A further backend agent with the tiny model beside the launcher's: joined to a running system, ended by signals. Owns its process
// and its folder.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { tinyModel } from '../../../scripts/tiny-model.ts'
import { System } from './system.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..')

export type FurtherOptions = {
  /** What it calls the model. Default: as the launcher's agent does. */
  modelName?: string
  /** A module that its process loads first, and can be sent messages. */
  preload?: string
}

export class FurtherAgent {
  readonly backendId: string
  #process: ChildProcess
  readonly #folder: string
  readonly #start: () => Promise<{ child: ChildProcess; backendId: string }>

  private constructor(
    started: { child: ChildProcess; backendId: string },
    folder: string,
    start: () => Promise<{ child: ChildProcess; backendId: string }>,
  ) {
    this.#process = started.child
    this.backendId = started.backendId
    this.#folder = folder
    this.#start = start
  }

  /** Resolves when the gateway routes to it. */
  static async join(system: System, args: readonly string[] = [], given: FurtherOptions = {}): Promise<FurtherAgent> {
    const folder = await mkdtemp(join(tmpdir(), 'penstock-e2e-agent-'))
    const token = await system.admin<{ token: string }>('POST', '/backends/tokens', { label: 'test', ttl_seconds: 600 })
    const model = join(folder, 'model.gguf')
    await writeFile(model, tinyModel())
    const options = {
      '--engine': join(ROOT, 'native-engine', 'build', 'penstock-engine'),
      '--model': model,
      '--model-name': given.modelName ?? system.model,
      '--gateway': system.baseUrl,
      '--state-dir': join(folder, 'state'),
    }
    const preload = given.preload === undefined ? [] : ['--import', given.preload]
    const start = async () => {
      const child = spawn(
        process.execPath,
        [...preload, join(ROOT, 'backends', 'main.ts'), ...Object.entries(options).flat(), ...args],
        {
          env: { ...process.env, PENSTOCK_JOIN_TOKEN: token.body.token },
          stdio: ['ignore', 'pipe', 'pipe', ...(given.preload === undefined ? [] : ['ipc' as const])],
        },
      )
      return { child, backendId: await ready(child) }
    }
    const agent = new FurtherAgent(await start(), folder, start)
    await System.until(async () => {
      const { body } = await system.admin<{ data: { id: string; models: unknown[] }[] }>('GET', '/backends')
      return body.data.some(({ id, models }) => id === agent.backendId && models.length > 0)
    })
    return agent
  }

  get process(): ChildProcess {
    return this.#process
  }

  /** Its next life, where it was killed: the same key, the same place in the fleet. */
  async again(): Promise<void> {
    this.#process = (await this.#start()).child
  }

  /** @returns its exit code; null where it was killed. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    const exited = once(this.#process, 'exit')
    this.#process.kill(signal)
    const [code] = await exited
    await rm(this.#folder, { recursive: true, force: true })
    return code
  }
}

/** Its backend's id, once its engines are up. */
async function ready(child: ChildProcess): Promise<string> {
  const output: string[] = []
  createInterface({ input: child.stderr as NodeJS.ReadableStream }).on('line', (line) => output.push(line))
  let backendId = ''
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const event = JSON.parse(line)
      if (event.event === 'listening') backendId = event.backendId
      if (event.event === 'ready') resolve()
    })
    child.on('exit', (code) => reject(new Error(`the agent did not start (exit ${code}):\n${output.join('\n')}`)))
  })
  return backendId
}
