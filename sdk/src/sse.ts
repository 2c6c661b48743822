// Server-sent events out of bytes, cut anywhere ○. Owns the parsing (WHATWG HTML, "Server-sent events"); what events mean is
// dialect.ts.

export type SseEvent = {
  /** Default: `message`. */
  event: string
  data: string
  id?: string
}

/** One event longer than this is no answer of a model: it bounds what a broken peer can make us hold. */
const EVENT_CHARS_MAX = 16 * 1024 * 1024

export class SseTooLong extends Error {
  override readonly name: string = 'SseTooLong'
}

export class SseParser {
  readonly #decoder = new TextDecoder()
  #rest = ''
  #data: string[] = []
  #held = 0
  #event = ''
  #id: string | undefined

  /** @throws SseTooLong */
  push(bytes: Uint8Array): SseEvent[] {
    return this.#take(this.#decoder.decode(bytes, { stream: true }))
  }

  /** What is left when the body is over: an event whose last empty line was lost still counts, half a line does not. */
  end(): SseEvent[] {
    const events = this.#take(this.#decoder.decode())
    if (this.#rest !== '') this.#line(this.#rest.replace(/\r$/, ''))
    this.#rest = ''
    return [...events, ...this.#dispatch()]
  }

  #take(text: string): SseEvent[] {
    this.#rest += text
    if (this.#rest.length + this.#held > EVENT_CHARS_MAX) throw new SseTooLong('an event of the stream is too long')
    const events: SseEvent[] = []
    for (;;) {
      const match = /\r\n|\n|\r(?!$)/.exec(this.#rest)
      // A CR at the very end may be half of a CRLF.
      if (match === null) return events
      const line = this.#rest.slice(0, match.index)
      this.#rest = this.#rest.slice(match.index + match[0].length)
      if (line === '') events.push(...this.#dispatch())
      else this.#line(line)
    }
  }

  #line(line: string): void {
    const colon = line.indexOf(':')
    if (colon === 0) return
    const name = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (name === 'data') {
      this.#data.push(value)
      this.#held += value.length
    } else if (name === 'event') this.#event = value
    else if (name === 'id' && !value.includes('\0')) this.#id = value
  }

  #dispatch(): SseEvent[] {
    const { length } = this.#data
    const event: SseEvent = {
      event: this.#event === '' ? 'message' : this.#event,
      data: this.#data.join('\n'),
      ...(this.#id === undefined ? {} : { id: this.#id }),
    }
    this.#data = []
    this.#held = 0
    this.#event = ''
    return length === 0 ? [] : [event]
  }
}
