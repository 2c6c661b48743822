// One shell as a reader has it open: lines are typed, what they print is read, Ctrl-C interrupts what runs. Owns the process and
// everything it started.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export type Ran = { ended: boolean; output: string; failedLine: number | undefined }

/** What a command prints is kept to show it; more than this is a command that runs wild. */
const OUTPUT_CHARS_MAX = 1_000_000
const END_MS_MAX = 45_000
const POLL_MS = 25

export class Terminal {
  readonly #shell: ChildProcess
  readonly #scratch: string
  #output = ''
  #blocks = 0
  #exited = false

  /** @param scratch a folder for what is typed */
  constructor({ cwd, env, scratch }: { cwd: string; env: Record<string, string>; scratch: string }) {
    this.#scratch = scratch
    // Of a group of its own: a key that is pressed reaches everything in it.
    const shell = spawn('bash', ['--noprofile', '--norc'], {
      cwd,
      env,
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    for (const stream of [shell.stdout, shell.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-OUTPUT_CHARS_MAX)
      })
    }
    shell.once('exit', () => {
      this.#exited = true
    })
    // It can be gone while something is typed.
    shell.stdin.on('error', () => {})
    shell.stdin.write('exec 2>&1\nset -E -o pipefail\n')
    this.#shell = shell
  }

  /**
   * @param firstLine where the text stands in its page
   * @returns when it has ended, `until` says that it has printed enough, or the time is over
   */
  async run(text: string, firstLine: number, timeoutMs: number, until?: (output: string) => boolean): Promise<Ran> {
    const name = join(this.#scratch, `${this.#shell.pid}-${this.#blocks++}.sh`)
    // As many lines in front as the page has, so that the shell counts as the page does.
    await writeFile(name, `${'\n'.repeat(firstLine - 1)}${text}\n`)
    const mark = `end of block ${this.#blocks} of ${this.#shell.pid}`
    const failed = new RegExp(`^failed in line (\\d+) of ${this.#shell.pid}$`, 'm')
    this.#output = ''
    this.#shell.stdin?.write(
      `trap 'echo; echo "failed in line $LINENO of ${this.#shell.pid}"' ERR; set -e; source ${name} < /dev/null\nset +e; trap - ERR; echo; echo "${mark}"\n`,
    )
    const endMs = performance.now() + timeoutMs
    for (;;) {
      const at = this.#output.indexOf(`\n${mark}\n`)
      const ended = at >= 0 || this.#exited
      if (ended || until?.(this.#output) === true || performance.now() > endMs) {
        // What was printed last can be on its way still.
        if (this.#exited) await sleep(POLL_MS)
        const output = at >= 0 ? this.#output.slice(0, at) : this.#output
        const line = failed.exec(output)?.[1]
        const failedLine = line === undefined ? undefined : Number(line)
        return {
          ended,
          output: output.replace(failed, ''),
          failedLine: this.#exited ? (failedLine ?? firstLine) : failedLine,
        }
      }
      await sleep(POLL_MS)
    }
  }

  /** @returns whether what runs has ended within its time */
  async interrupt(): Promise<boolean> {
    if (this.#exited) return true
    this.#kill('SIGINT')
    this.#shell.stdin?.end()
    const exited = once(this.#shell, 'exit').then(() => true)
    return Promise.race([exited, sleep(END_MS_MAX, false, { ref: false })])
  }

  /** Ends it and all that it started. */
  close(): void {
    this.#kill('SIGKILL')
  }

  #kill(signal: NodeJS.Signals): void {
    try {
      if (this.#shell.pid !== undefined) process.kill(-this.#shell.pid, signal)
    } catch {
      // Nothing of the group is left.
    }
  }
}
