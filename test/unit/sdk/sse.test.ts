// Events out of bytes that are cut anywhere.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type SseEvent, SseParser } from '../../../sdk/src/sse.ts'

const encoder = new TextEncoder()

function parsed(pieces: readonly Uint8Array[]): SseEvent[] {
  const parser = new SseParser()
  return [...pieces.flatMap((piece) => parser.push(piece)), ...parser.end()]
}

const STREAM = [
  ': a comment\n\n',
  'data: {"a":"é😀"}\n\n',
  'event: named\r\ndata: one\r\ndata: two\r\n\r\n',
  'id: 7\ndata:no space\n\n',
  'retry: 10\n\n',
  'data\n\n',
  'data: [DONE]\n\n',
].join('')
const EVENTS: SseEvent[] = [
  { event: 'message', data: '{"a":"é😀"}' },
  { event: 'named', data: 'one\ntwo' },
  { event: 'message', data: 'no space', id: '7' },
  { event: 'message', data: '', id: '7' },
  { event: 'message', data: '[DONE]', id: '7' },
]

describe('the parser', () => {
  it('gives the same events wherever the bytes are cut', () => {
    const bytes = encoder.encode(STREAM)
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length), { maxLength: 12 }), (cuts) => {
        const at = [0, ...cuts.toSorted((a, b) => a - b), bytes.length]
        const pieces = at.slice(1).map((end, index) => bytes.subarray(at[index], end))
        expect(parsed(pieces)).toEqual(EVENTS)
      }),
    )
  })

  it('counts a last event whose empty line was lost, and not half a field of one', () => {
    expect(parsed([encoder.encode('data: whole\n')])).toEqual([{ event: 'message', data: 'whole' }])
    expect(parsed([encoder.encode('data: whole\n\nda')])).toEqual([{ event: 'message', data: 'whole' }])
  })

  it('takes a lone CR for a line end, also at the end of a piece', () => {
    expect(parsed([encoder.encode('data: a\r'), encoder.encode('\rdata: b\r\r')])).toEqual([
      { event: 'message', data: 'a' },
      { event: 'message', data: 'b' },
    ])
  })

  it('bounds what an endless event can make it hold', () => {
    const parser = new SseParser()
    const megabyte = encoder.encode(`data: ${'x'.repeat(1024 * 1024)}\n`)
    expect(() => {
      for (let index = 0; index < 20; index++) parser.push(megabyte)
    }).toThrow('too long')
  })
})
