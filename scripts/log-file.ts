// Log files of the children. Owns their size bound and the last lines kept in memory for error messages.
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs'

/** Two files of this size per child at most: enough to look back, small enough to forget about. */
const FILE_BYTES_MAX = 4 * 1024 * 1024
const LINES_KEPT = 20
/** A longer line is cut: a child that never ends its line must not fill our memory. */
const LINE_CHARS_MAX = 8 * 1024

export class LogFile {
  readonly path: string
  readonly #bytesMax: number
  #descriptor: number
  #bytes: number
  #recent: string[] = []
  #open = true

  /** Appends to `path`; a full file moves to `<path>.1`, replacing the one before. */
  constructor(path: string, bytesMax = FILE_BYTES_MAX) {
    this.path = path
    this.#bytesMax = bytesMax
    this.#descriptor = openSync(path, 'a', 0o600)
    this.#bytes = fstatSync(this.#descriptor).size
  }

  write(line: string): void {
    this.#recent.push(line)
    if (this.#recent.length > LINES_KEPT) this.#recent.shift()
    if (!this.#open) return
    if (this.#bytes > this.#bytesMax) this.#rotate()
    try {
      this.#bytes += writeSync(this.#descriptor, `${line}\n`)
    } catch {
      // A full disk must not take the service down; the lines in memory remain.
    }
  }

  /** The last lines, oldest first. */
  recent(): string[] {
    return [...this.#recent]
  }

  /** Lines after this are kept in memory alone. */
  close(): void {
    if (!this.#open) return
    this.#open = false
    closeSync(this.#descriptor)
  }

  #rotate(): void {
    try {
      renameSync(this.path, `${this.path}.1`)
      closeSync(this.#descriptor)
      this.#descriptor = openSync(this.path, 'a', 0o600)
    } catch {
      // The old file goes on growing where the folder refuses; better than no log.
    }
    this.#bytes = 0
  }
}

/** Cuts a byte stream into lines for `onLine`; the last one may lack its end. */
export function forEachLine(stream: NodeJS.ReadableStream, onLine: (line: string) => void): void {
  let rest = ''
  stream.setEncoding('utf8')
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line.slice(0, LINE_CHARS_MAX))
    if (rest.length > LINE_CHARS_MAX) {
      onLine(rest.slice(0, LINE_CHARS_MAX))
      rest = ''
    }
  })
  stream.on('end', () => {
    if (rest !== '') onLine(rest)
  })
}
