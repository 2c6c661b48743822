// The decoders under every cut of the bytes: what comes out must not depend on how the network cut it.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { LineSplitter, LineTooLong } from '../../../../gateway/stream/lines.ts'
import { SSE_EVENT_BYTES_MAX, SseDecoder, type SseEvent } from '../../../../gateway/stream/sse.ts'

const bytes = (text: string) => new TextEncoder().encode(text)

function decode(all: Uint8Array, cuts: number[]): SseEvent[] {
  const decoder = new SseDecoder()
  const events: SseEvent[] = []
  let at = 0
  for (const cut of [...cuts.sort((a, b) => a - b), all.length]) {
    events.push(...decoder.push(all.subarray(at, cut)))
    at = Math.max(at, cut)
  }
  return [...events, ...decoder.end()]
}

/** One golden stream with all that the format allows. */
const GOLDEN = [
  ': a comment\n',
  'data: {"text":"naïve 😀"}\n\n',
  'event: error\r\ndata:no space\r\n\r\n',
  'data: first\ndata: second\ndata:\n\n',
  'id: 5\nretry: 10\ndata: after fields\n\n',
  'unknown field\ndata\n\n',
  'event: nothing follows\n\n',
  '\r\rdata: with CR\r\r',
  'data: {"a":": "}\n\n',
  'data: [DONE]',
].join('')
const EXPECTED: SseEvent[] = [
  { event: 'message', data: '{"text":"naïve 😀"}' },
  { event: 'error', data: 'no space' },
  { event: 'message', data: 'first\nsecond\n' },
  { event: 'message', data: 'after fields' },
  { event: 'message', data: '' },
  { event: 'message', data: 'with CR' },
  { event: 'message', data: '{"a":": "}' },
  { event: 'message', data: '[DONE]' },
]

describe('server-sent events', () => {
  const all = bytes(GOLDEN)

  test('are the same whole and cut at every single byte', () => {
    expect(decode(all, [])).toEqual(EXPECTED)
    for (let cut = 0; cut <= all.length; cut++) expect(decode(all, [cut])).toEqual(EXPECTED)
    expect(decode(all, Array.from(all.keys()))).toEqual(EXPECTED)
  })

  test('are the same under any set of cuts', () => {
    const cuts = fc.array(fc.integer({ min: 0, max: all.length }), { maxLength: 30 })
    fc.assert(
      fc.property(cuts, (where) => {
        expect(decode(all, where)).toEqual(EXPECTED)
      }),
    )
  })

  test.each([
    ['a byte order mark', '\u{feff}data: first\n\ndata: \u{feff}kept?\n\n', ['first', '\u{feff}kept?']],
    ['CRLF', 'data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n', ['a\nb', 'c']],
    ['CR', 'data: a\rdata: b\r\rdata: c\r\r', ['a\nb', 'c']],
    ['line ends of all kinds', 'data: a\ndata: b\r\n\rdata: c\r\r\ndata: d\n\r', ['a\nb', 'c', 'd']],
    ['comments between and inside', ': x\n\ndata: a\n:\n: data: y\ndata: b\n\n:', ['a\nb']],
    ['no end of the last line', 'data: a\n\ndata: b', ['a', 'b']],
    ['nothing but line ends', '\n\r\n\r\r\n', []],
  ])('with %s are the same cut at every byte', (_, text, expected) => {
    const stream = bytes(text)
    for (let cut = 0; cut <= stream.length; cut++) {
      expect(decode(stream, [cut]).map(({ data }) => data)).toEqual(expected)
    }
    expect(decode(stream, Array.from(stream.keys())).map(({ data }) => data)).toEqual(expected)
  })

  test('beyond the bound are refused, in one line and over many', () => {
    // Lines without a value take memory too.
    expect(() => new SseDecoder().push(bytes('data\n'.repeat(SSE_EVENT_BYTES_MAX + 1)))).toThrow(LineTooLong)
    expect(() => new SseDecoder().push(bytes(`data: ${'x'.repeat(SSE_EVENT_BYTES_MAX)}`))).toThrow(LineTooLong)
    const decoder = new SseDecoder()
    const line = bytes(`data: ${'x'.repeat(1000)}\n`)
    expect(() => {
      for (let i = 0; i < 2000; i++) decoder.push(line)
    }).toThrow(LineTooLong)
  })
})

describe('lines', () => {
  test('of any text, with any line ends, under any cuts, are what a split of the whole text gives', () => {
    const piece = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('\n', '\r\n', '\r', '😀', ''))
    fc.assert(
      fc.property(fc.array(piece), fc.array(fc.nat(200)), (pieces, cuts) => {
        const all = bytes(pieces.join(''))
        const expected = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true }).decode(all).split(/\r\n|\r|\n/)
        const splitter = new LineSplitter(1_000_000)
        const lines: string[] = []
        let at = 0
        for (const cut of [...cuts.filter((one) => one <= all.length).sort((a, b) => a - b), all.length]) {
          lines.push(...splitter.push(all.subarray(at, cut)))
          at = cut
        }
        const rest = splitter.end()
        const strip = (line: string) => line.replace(/^\u{feff}/u, '')
        expect([...lines, rest ?? ''].map(strip)).toEqual(expected.map(strip))
      }),
    )
  })

  test('longer than the bound are refused before their end is seen', () => {
    const splitter = new LineSplitter(4)
    expect(splitter.push(bytes('1234\n123'))).toEqual(['1234'])
    expect(() => splitter.push(bytes('45'))).toThrow(LineTooLong)
  })
})
