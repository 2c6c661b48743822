// Frames of AWS's event streams: published vectors, every cut, and every byte changed on the way.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  AWS_MESSAGE_BYTES_MAX,
  type AwsMessage,
  BadFrame,
  crc32,
  EventStreamDecoder,
} from '../../../../gateway/providers/aws-event-stream.ts'

const hex = (text: string) => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'))
const ascii = (text: string) => Buffer.from(text, 'latin1').toString('hex')

/** Published with the SDKs' tests. */
const EMPTY = hex('00000010 00000000 05c248eb 7d98c8ff')
const PAYLOAD = hex(`0000001d 00000000 fd528c5a ${ascii("{'foo':'bar'}")} c3653936`)
const HEADER = hex(
  `0000003d 00000020 07fd8396 0c ${ascii('content-type')} 070010 ${ascii("application/json{'foo':'bar'}")} 8d9c08b1`,
)
const ALL_TYPES = hex(
  '00000062 00000052 03b5cb9c 013000 013101 01320202 0133030003 01340400000004 0135050000000000000005' +
    `013606 0005 ${ascii('bytes')} 013707 0004 ${ascii('utf8')} 013808 0000000000000008 013909 ${ascii('0123456789abcdef')}` +
    '63353671',
)
const ERROR = hex(
  `00000052 00000042 bf23637e 0d ${ascii(':message-type')} 070005 ${ascii('error')} 0b ${ascii(':error-code')} 070004` +
    `${ascii('code')} 0e ${ascii(':error-message')} 070007 ${ascii('message')} 6b6cea3d`,
)
const VECTORS: [string, Uint8Array, Record<string, string>, string][] = [
  ['an empty message', EMPTY, {}, ''],
  ['a payload without headers', PAYLOAD, {}, "{'foo':'bar'}"],
  ['a payload with one header', HEADER, { 'content-type': 'application/json' }, "{'foo':'bar'}"],
  ['headers of all types', ALL_TYPES, { 7: 'utf8' }, ''],
  ['an error', ERROR, { ':message-type': 'error', ':error-code': 'code', ':error-message': 'message' }, ''],
]

const plain = (messages: AwsMessage[]) =>
  messages.map(({ headers, payload }) => [Object.fromEntries(headers), new TextDecoder().decode(payload)])

describe('an event stream', () => {
  test.each(VECTORS)('with %s is read as published', (_, bytes, headers, payload) => {
    const decoder = new EventStreamDecoder()
    expect(plain([...decoder.push(bytes)])).toEqual([[headers, payload]])
    expect(decoder.isInside).toBe(false)
  })

  const all = Buffer.concat(VECTORS.map(([, bytes]) => bytes))

  test('is the same under any cuts', () => {
    const whole = plain([...new EventStreamDecoder().push(all)])
    expect(whole).toHaveLength(VECTORS.length)
    const cuts = fc.uniqueArray(fc.integer({ min: 0, max: all.length }))
    fc.assert(
      fc.property(cuts, (where) => {
        const decoder = new EventStreamDecoder()
        let at = 0
        const read = [...where.sort((a, b) => a - b), all.length].flatMap((cut) => {
          const part = [...decoder.push(all.subarray(at, cut))]
          at = cut
          return part
        })
        expect(plain(read)).toEqual(whole)
      }),
    )
  })

  test('that is cut short is inside a message', () => {
    const decoder = new EventStreamDecoder()
    expect([...decoder.push(HEADER.subarray(0, HEADER.length - 1))]).toEqual([])
    expect(decoder.isInside).toBe(true)
  })

  test('with any bit changed is refused, or waits for more', () => {
    for (let bit = 0; bit < HEADER.length * 8; bit++) {
      const changed = HEADER.slice()
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(() => [...new EventStreamDecoder().push(changed)], `bit ${bit}`).toThrow(BadFrame)
    }
  })

  test('with a changed message is read up to it', () => {
    const changed = HEADER.slice()
    changed[40] = 0
    const read: AwsMessage[] = []
    const decoder = new EventStreamDecoder()
    expect(() => {
      for (const message of decoder.push(Buffer.concat([PAYLOAD, changed]))) read.push(message)
    }).toThrow(BadFrame)
    expect(plain(read)).toEqual([[{}, "{'foo':'bar'}"]])
  })

  test('with a message over the bound is refused before it comes', () => {
    const prelude = new DataView(new ArrayBuffer(12))
    prelude.setUint32(0, AWS_MESSAGE_BYTES_MAX + 1)
    prelude.setUint32(8, crc32(new Uint8Array(prelude.buffer, 0, 8)))
    expect(() => [...new EventStreamDecoder().push(new Uint8Array(prelude.buffer))]).toThrow(BadFrame)
  })

  test.each([
    ['shorter than its own frame', 15, 0],
    ['with headers longer than itself', 32, 17],
  ])('with a message %s is refused', (_, bytes, headersBytes) => {
    const prelude = new DataView(new ArrayBuffer(12))
    prelude.setUint32(0, bytes)
    prelude.setUint32(4, headersBytes)
    prelude.setUint32(8, crc32(new Uint8Array(prelude.buffer, 0, 8)))
    expect(() => [...new EventStreamDecoder().push(new Uint8Array(prelude.buffer))]).toThrow(BadFrame)
  })

  test.each([
    ['whose name is cut off', [5, 0x61]],
    ['whose value is cut off', [1, 0x61, 7, 0, 9, 0x62]],
    ['whose length is cut off', [1, 0x61, 7, 0]],
    ['of a type that nobody knows', [1, 0x61, 10]],
  ])('with a header %s is refused', (_, header) => {
    const bytes = new Uint8Array(12 + header.length + 4)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, bytes.length)
    view.setUint32(4, header.length)
    view.setUint32(8, crc32(bytes.subarray(0, 8)))
    bytes.set(header, 12)
    view.setUint32(bytes.length - 4, crc32(bytes.subarray(0, bytes.length - 4)))
    expect(() => [...new EventStreamDecoder().push(bytes)]).toThrow(BadFrame)
  })
})
