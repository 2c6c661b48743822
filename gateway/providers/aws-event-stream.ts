// Messages of `application/vnd.amazon.eventstream`. Owns the framing: lengths, both checksums and the headers, however the
// bytes are cut. What a message says is its service's. Pure. Source: "Amazon event stream encoding" in Smithy's documents.

/** One message; answers come in pieces of some hundred bytes, and beyond it the peer is broken or hostile. */
export const AWS_MESSAGE_BYTES_MAX = 1024 * 1024
/** Length, length of the headers, and their checksum. */
const PRELUDE_BYTES = 12
const CHECKSUM_BYTES = 4

export type AwsMessage = {
  /** Text headers alone: services say everything in those. */
  headers: Map<string, string>
  payload: Uint8Array
}

/** The bytes are no event stream, or were changed on the way: nothing after them can be trusted. */
export class BadFrame extends Error {
  override name = 'BadFrame'
}

/** Bytes of a header's value by its type; text and byte arrays tell their own length. */
const VALUE_BYTES: Record<number, number> = { 0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16 }
const TYPE_BYTES = 6
const TYPE_TEXT = 7

export class EventStreamDecoder {
  readonly #prelude = new Uint8Array(PRELUDE_BYTES)
  #preludeBytes = 0
  /** As long as its prelude says, once that is there. */
  #frame: Uint8Array | undefined
  #frameBytes = 0

  /** Whether a message has begun and not ended. */
  get isInside(): boolean {
    return this.#preludeBytes > 0
  }

  /**
   * One by one, so that what stood before a bad frame is read wherever the chunks are cut.
   * @throws BadFrame for wrong checksums, impossible lengths and headers that are none.
   */
  *push(chunk: Uint8Array): Generator<AwsMessage> {
    let at = 0
    while (at < chunk.length) {
      if (this.#frame === undefined) at = this.#readPrelude(chunk, at)
      if (this.#frame === undefined) break
      const part = chunk.subarray(at, at + this.#frame.length - this.#frameBytes)
      this.#frame.set(part, this.#frameBytes)
      this.#frameBytes += part.length
      at += part.length
      if (this.#frameBytes < this.#frame.length) break
      const message = messageOf(this.#frame)
      this.#frame = undefined
      this.#preludeBytes = 0
      yield message
    }
  }

  /** Where the chunk goes on after as much of the prelude as it holds. */
  #readPrelude(chunk: Uint8Array, at: number): number {
    const part = chunk.subarray(at, at + PRELUDE_BYTES - this.#preludeBytes)
    this.#prelude.set(part, this.#preludeBytes)
    this.#preludeBytes += part.length
    if (this.#preludeBytes === PRELUDE_BYTES) {
      const view = viewOf(this.#prelude)
      const bytes = view.getUint32(0)
      // First the checksum: a length that was changed on the way says nothing.
      if (crc32(this.#prelude.subarray(0, 8)) !== view.getUint32(8)) throw new BadFrame('the prelude was changed')
      const rest = bytes - PRELUDE_BYTES - CHECKSUM_BYTES
      if (bytes > AWS_MESSAGE_BYTES_MAX || view.getUint32(4) > rest) throw new BadFrame('a length is impossible')
      this.#frame = new Uint8Array(bytes)
      this.#frame.set(this.#prelude)
      this.#frameBytes = PRELUDE_BYTES
    }
    return at + part.length
  }
}

function messageOf(frame: Uint8Array): AwsMessage {
  const view = viewOf(frame)
  const end = frame.length - CHECKSUM_BYTES
  if (crc32(frame.subarray(0, end)) !== view.getUint32(end)) throw new BadFrame('a message was changed')
  const payloadAt = PRELUDE_BYTES + view.getUint32(4)
  return { headers: headersOf(frame.subarray(PRELUDE_BYTES, payloadAt)), payload: frame.subarray(payloadAt, end) }
}

function headersOf(bytes: Uint8Array): Map<string, string> {
  const view = viewOf(bytes)
  const decoder = new TextDecoder()
  const headers = new Map<string, string>()
  const need = (from: number, count: number): void => {
    if (from + count > bytes.length) throw new BadFrame('a header is cut off')
  }
  let at = 0
  while (at < bytes.length) {
    const nameBytes = view.getUint8(at)
    need(at, nameBytes + 2)
    const name = decoder.decode(bytes.subarray(at + 1, at + 1 + nameBytes))
    const type = view.getUint8(at + 1 + nameBytes)
    at += nameBytes + 2
    let valueBytes = VALUE_BYTES[type]
    if (type === TYPE_BYTES || type === TYPE_TEXT) {
      need(at, 2)
      valueBytes = view.getUint16(at)
      at += 2
    }
    if (valueBytes === undefined) throw new BadFrame('a header is of no known type')
    need(at, valueBytes)
    if (type === TYPE_TEXT) headers.set(name, decoder.decode(bytes.subarray(at, at + valueBytes)))
    at += valueBytes
  }
  return headers
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** The polynomial of zip and Ethernet, a byte at a time. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1
  return value
})

export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ byte) & 0xff] ?? 0)
  return (crc ^ 0xffffffff) >>> 0
}
