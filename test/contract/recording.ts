// Recorded responses as files: a status line, headers, an empty line, the body. Owns reading them, and writing a body of
// Amazon's binary event stream from the readable form in which it is kept.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'

export type Recording = {
  status: number
  headers: Headers
  contentType: string
  /** As kept in the file. */
  text: string
  /** As sent over the wire. */
  bytes: Uint8Array
  /** Binary frames, one a line of the text. */
  isFramed: boolean
  /** Another text of this form as it would be sent. */
  encode: (text: string) => Uint8Array
}

const EVENT_STREAM = 'application/vnd.amazon.eventstream'

/** @param path Below fixtures/. */
export function readRecording(path: string): Recording {
  const file = readFileSync(join(import.meta.dirname, 'fixtures', path), 'utf8')
  const end = file.indexOf('\n\n')
  if (end < 0) throw new Error(`${path} has no empty line between head and body`)
  const [first = '', ...lines] = file.slice(0, end).split('\n')
  const status = Number(/^HTTP\/\d(?:\.\d)? (\d{3})/.exec(first)?.[1])
  if (!Number.isInteger(status)) throw new Error(`${path} does not begin with a status line`)
  const headers = new Headers(
    lines.map((line): [string, string] => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()]
    }),
  )
  const contentType = (headers.get('content-type') ?? '').toLowerCase()
  const text = file.slice(end + 2)
  const isFramed = contentType.startsWith(EVENT_STREAM)
  const encode = isFramed ? eventStream : (other: string) => new TextEncoder().encode(other)
  return { status, headers, contentType, text, bytes: encode(text), isFramed, encode }
}

/** Lines of `event <name> <json>`, `exception <name> <json>` or `error <code> <message>`, one a frame. */
function eventStream(text: string): Uint8Array {
  const frames = text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, kind = '', name = '', payload = ''] = /^(event|exception|error) (\S+) (.*)$/.exec(line) ?? []
      const headers: Record<string, string> =
        kind === 'error'
          ? { ':message-type': 'error', ':error-code': name, ':error-message': payload }
          : { ':message-type': kind, [`:${kind}-type`]: name, ':content-type': 'application/json' }
      return frame(headers, kind === 'error' ? '' : payload)
    })
  return Buffer.concat(frames)
}

/** Prelude with its checksum, headers of strings, payload, checksum over all. */
function frame(headers: Record<string, string>, payload: string): Uint8Array {
  const head = Buffer.concat(
    Object.entries(headers).map(([name, value]) => {
      const [nameBytes, valueBytes] = [Buffer.from(name), Buffer.from(value)]
      const length = Buffer.alloc(3)
      length.writeUInt8(7)
      length.writeUInt16BE(valueBytes.length, 1)
      return Buffer.concat([Buffer.from([nameBytes.length]), nameBytes, length, valueBytes])
    }),
  )
  const body = Buffer.from(payload)
  const prelude = Buffer.alloc(12)
  prelude.writeUInt32BE(12 + head.length + body.length + 4, 0)
  prelude.writeUInt32BE(head.length, 4)
  prelude.writeUInt32BE(crc32(prelude.subarray(0, 8)), 8)
  const message = Buffer.concat([prelude, head, body])
  const checksum = Buffer.alloc(4)
  checksum.writeUInt32BE(crc32(message))
  return Buffer.concat([message, checksum])
}
