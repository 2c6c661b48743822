// A process that measures: one command in, one line of JSON out. Owns the process and the pairing of answers with questions;
// the language is native-engine/bench/commands.h.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { cpuSecondsOf } from './machine.ts'

/** The slowest single command, 4,096 tokens on one thread of a busy machine, takes a few minutes. */
const ANSWER_TIMEOUT_MS = 20 * 60_000
/** Kept for the message when the process ends by itself. */
const STDERR_TAIL_CHARS = 2000

export type Answer = Record<string, unknown>

export class Worker {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #name: string
  readonly #answers: { resolve: (line: string) => void; reject: (error: Error) => void }[] = []
  #stderr = ''
  #ended: Error | undefined

  private constructor(name: string, command: string, args: string[], cwd?: string) {
    this.#name = name
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...(cwd !== undefined && { cwd }) })
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_TAIL_CHARS)
    })
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#answers.shift()?.resolve(line))
    this.#child.stdin.on('error', () => {})
    this.#child.on('error', (error) => this.#fail(error))
    this.#child.on('close', (code, signal) => {
      this.#fail(new Error(`${name} ended with ${signal ?? `exit code ${code}`}: ${this.#stderr.trim()}`))
    })
  }

  /** Starts the process and waits until it has loaded its model. Returns its first line too. */
  static async start(options: { name: string; command: string; args: string[]; cwd?: string }) {
    const worker = new Worker(options.name, options.command, options.args, options.cwd)
    return { worker, greeting: await worker.#next() }
  }

  /** @throws Error where the command fails, the process ends or the answer takes too long */
  async ask(command: string): Promise<Answer> {
    const next = this.#next()
    this.#child.stdin.write(`${command}\n`)
    const answer = await next
    if (typeof answer.error === 'string') throw new Error(`${this.#name}: ${command}: ${answer.error}`)
    return answer
  }

  /** A number of the answer. @throws Error as `ask`, and where it is not there */
  async number(command: string, field: string): Promise<number> {
    const value = (await this.ask(command))[field]
    if (typeof value !== 'number') throw new Error(`${this.#name}: ${command} answers no ${field}`)
    return value
  }

  /** Ends the process. Returns the CPU seconds that it used, undefined where the system does not tell. */
  async close(): Promise<number | undefined> {
    const cpuSeconds = this.#child.pid === undefined ? undefined : cpuSecondsOf(this.#child.pid)
    const closed = new Promise((resolve) => this.#child.once('close', resolve))
    if (this.#ended === undefined) {
      this.#child.kill('SIGKILL')
      await closed
    }
    return cpuSeconds
  }

  #next(): Promise<Answer> {
    return new Promise<string>((resolve, reject) => {
      if (this.#ended !== undefined) return reject(this.#ended)
      const timer = setTimeout(() => {
        this.#fail(new Error(`${this.#name} gave no answer for ${ANSWER_TIMEOUT_MS / 1000} s`))
        this.#child.kill('SIGKILL')
      }, ANSWER_TIMEOUT_MS)
      const settle = () => clearTimeout(timer)
      this.#answers.push({
        resolve: (line) => {
          settle()
          resolve(line)
        },
        reject: (error) => {
          settle()
          reject(error)
        },
      })
    }).then((line) => JSON.parse(line) as Answer)
  }

  #fail(error: Error): void {
    this.#ended ??= error
    for (const { reject } of this.#answers.splice(0)) reject(this.#ended)
  }
}
