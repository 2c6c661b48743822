// Bytes into lines. Owns cutting at line ends wherever the chunks are cut, and the bound on one line. Pure.

const LF = 0x0a
const CR = 0x0d

/** The peer sent a line longer than the bound: it is broken or hostile, and nothing after it can be trusted. */
export class LineTooLong extends Error {
  override name = 'LineTooLong'
}

/**
 * Splits a UTF-8 byte stream at LF, CRLF or CR. Lines are cut as bytes and decoded whole, so a character that two
 * chunks share stays whole.
 * @param lineBytesMax Longest line kept; a longer one throws LineTooLong, also before its end is seen.
 */
export class LineSplitter {
  readonly #lineBytesMax: number
  readonly #decoder = new TextDecoder()
  #parts: Uint8Array[] = []
  #pendingBytes = 0
  /** The last chunk ended in CR: an LF at the start of the next one belongs to it. */
  #afterCr = false

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax
  }

  push(chunk: Uint8Array): string[] {
    const lines: string[] = []
    let start = 0
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]
      if (this.#afterCr) {
        this.#afterCr = false
        if (byte === LF) {
          start = i + 1
          continue
        }
      }
      if (byte !== LF && byte !== CR) continue
      this.#keep(chunk.subarray(start, i))
      lines.push(this.#take())
      start = i + 1
      this.#afterCr = byte === CR
    }
    this.#keep(chunk.subarray(start))
    return lines
  }

  /** What stands after the last line end, at the end of the stream; undefined where nothing does. */
  end(): string | undefined {
    return this.#pendingBytes === 0 ? undefined : this.#take()
  }

  #keep(part: Uint8Array): void {
    if (part.length === 0) return
    this.#pendingBytes += part.length
    if (this.#pendingBytes > this.#lineBytesMax) throw new LineTooLong(`a line is over ${this.#lineBytesMax} bytes`)
    this.#parts.push(part)
  }

  #take(): string {
    const [only] = this.#parts
    let bytes = only ?? new Uint8Array(0)
    if (this.#parts.length > 1) {
      bytes = new Uint8Array(this.#pendingBytes)
      let at = 0
      for (const part of this.#parts) {
        bytes.set(part, at)
        at += part.length
      }
    }
    this.#parts = []
    this.#pendingBytes = 0
    return this.#decoder.decode(bytes)
  }
}
