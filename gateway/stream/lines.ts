// Bytes into lines. Owns cutting at line ends wherever the chunks are cut, and the bound on one line. Pure.

const LF = 0x0a
const CR = 0x0d
const BYTE_ORDER_MARK = 0xfeff

/** The peer sent a line longer than the bound: it is broken or hostile, and nothing after it can be trusted. */
export class LineTooLong extends Error {
  override name = 'LineTooLong'
}

/**
 * Splits a UTF-8 byte stream at LF, CRLF or CR. Only whole lines are decoded, so a character that two chunks share stays whole, and
 * all that a chunk completes is decoded at once: calling the runtime for each line costs more than everything else here.
 * @param lineBytesMax Longest line kept; a longer one throws LineTooLong, also before its end is seen.
 */
export class LineSplitter {
  readonly #lineBytesMax: number
  readonly #decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })
  /** The line that is not over. */
  #parts: Uint8Array[] = []
  #pendingBytes = 0
  /** The last chunk ended in CR: an LF at the start of the next one belongs to it. */
  #afterCr = false

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax
  }

  push(chunk: Uint8Array): string[] {
    const from = this.#afterCr && chunk[0] === LF ? 1 : 0
    if (chunk.length > 0) this.#afterCr = chunk[chunk.length - 1] === CR
    const end = this.#endOfLines(chunk, from)
    if (end === from) {
      this.#keep(chunk.subarray(from))
      return []
    }
    const whole = this.#decoder.decode(this.#withPending(chunk.subarray(from, end)))
    this.#keep(chunk.subarray(end))
    const lines = whole.split(whole.includes('\r') ? /\r\n?|\n/ : '\n')
    // What stands behind the last line end is empty.
    lines.pop()
    return lines.map(withoutMark)
  }

  /** What stands after the last line end, at the end of the stream; undefined where nothing does. */
  end(): string | undefined {
    return this.#pendingBytes === 0
      ? undefined
      : withoutMark(this.#decoder.decode(this.#withPending(new Uint8Array(0))))
  }

  /** Where the last line that is over ends in a chunk. @throws LineTooLong */
  #endOfLines(chunk: Uint8Array, from: number): number {
    let start = from
    let lineBytes = this.#pendingBytes
    for (let i = from; i < chunk.length; i++) {
      const byte = chunk[i]
      if (byte !== LF && byte !== CR) continue
      this.#check(lineBytes + i - start)
      lineBytes = 0
      start = i + 1
    }
    this.#check(lineBytes + chunk.length - start)
    return start
  }

  #check(lineBytes: number): void {
    if (lineBytes > this.#lineBytesMax) throw new LineTooLong(`a line is over ${this.#lineBytesMax} bytes`)
  }

  #keep(part: Uint8Array): void {
    if (part.length === 0) return
    this.#pendingBytes += part.length
    this.#parts.push(part)
  }

  /** The line that was not over and what completes it; nothing is pending afterwards. */
  #withPending(rest: Uint8Array): Uint8Array {
    if (this.#pendingBytes === 0) return rest
    const bytes = new Uint8Array(this.#pendingBytes + rest.length)
    let at = 0
    for (const part of [...this.#parts, rest]) {
      bytes.set(part, at)
      at += part.length
    }
    this.#parts = []
    this.#pendingBytes = 0
    return bytes
  }
}

/** Some servers put one at the beginning of what they send. */
const withoutMark = (line: string): string => (line.charCodeAt(0) === BYTE_ORDER_MARK ? line.slice(1) : line)
