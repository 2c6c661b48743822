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

export class FurtherAgent {
  readonly backendId: string
  readonly #process: ChildProcess
  readonly #folder: string

  private constructor(process: ChildProcess, backendId: string, folder: string) {
    this.#process = process
    this.backendId = backendId
    this.#folder = folder
  }

  /** Resolves when the gateway routes to it. */
  static async join(system: System, args: readonly string[] = []): Promise<FurtherAgent> {
    const folder = await mkdtemp(join(tmpdir(), 'penstock-e2e-agent-'))
    const token = await system.admin<{ token: string }>('POST', '/backends/tokens', { label: 'test', ttl_seconds: 600 })
    const model = join(folder, 'model.gguf')
    await writeFile(model, tinyModel())
    const options = {
      '--engine': join(ROOT, 'native-engine', 'build', 'penstock-engine'),
      '--model': model,
      '--model-name': system.model,
      '--gateway': system.baseUrl,
      '--state-dir': join(folder, 'state'),
    }
    const child = spawn(
      process.execPath,
      [join(ROOT, 'backends', 'main.ts'), ...Object.entries(options).flat(), ...args],
      {
        env: { ...process.env, PENSTOCK_JOIN_TOKEN: token.body.token },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
    const output: string[] = []
    createInterface({ input: child.stderr }).on('line', (line) => output.push(line))
    let backendId = ''
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        const event = JSON.parse(line)
        if (event.event === 'listening') backendId = event.backendId
        if (event.event === 'ready') resolve()
      })
      child.on('exit', (code) => reject(new Error(`the agent did not start (exit ${code}):\n${output.join('\n')}`)))
    })
    await System.until(async () => {
      const { body } = await system.admin<{ data: { id: string; models: unknown[] }[] }>('GET', '/backends')
      return body.data.some(({ id, models }) => id === backendId && models.length > 0)
    })
    return new FurtherAgent(child, backendId, folder)
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
