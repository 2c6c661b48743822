// The chain of chunks: equal hashes for equal beginnings, and for nothing else.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { DispatchRequest } from '../../../protocol/dispatch.ts'
import { CHUNK_CHARS, CHUNKS_MAX, chunkHashes, promptPieces } from '../../../protocol/prefix.ts'

const chat = (...contents: string[]): Pick<DispatchRequest, 'input'> => ({
  input: { kind: 'chat', messages: contents.map((content) => ({ role: 'user', content })) },
})
const text = (value: string): Pick<DispatchRequest, 'input'> => ({
  input: { kind: 'completion', prompts: [{ text: value }], echo: false },
})
const hashesOf = (described: Pick<DispatchRequest, 'input'>, tenant = 'tenant', model = 'model') =>
  chunkHashes(promptPieces(described), tenant, model)

/** Slow and obvious: the common beginning of two canonical texts, in whole chunks. */
function commonChunks(first: string, second: string): number {
  let at = 0
  while (at < Math.min(first.length, second.length) && first[at] === second[at]) at++
  return Math.floor(at / CHUNK_CHARS)
}

describe('chunk hashes', () => {
  it('agree exactly as far as the canonical texts agree in whole chunks', () => {
    const pieces = fc.array(fc.string({ maxLength: 900, unit: fc.constantFrom('a', 'b', 'é', '\u{1f600}') }), {
      maxLength: 5,
    })
    fc.assert(
      fc.property(pieces, pieces, (first, second) => {
        const [one, two] = [chat(...first), chat(...second)]
        const canonical = [one, two].map((described) =>
          promptPieces(described)
            .map((piece) => piece.text)
            .join(''),
        )
        const [left, right] = [hashesOf(one), hashesOf(two)]
        const common = left.findIndex((hash, index) => hash !== right[index])
        const agreed = common === -1 ? Math.min(left.length, right.length) : common
        expect(agreed).toBe(commonChunks(canonical[0] ?? '', canonical[1] ?? ''))
      }),
    )
  })

  it('do not depend on how the text is cut into pieces', () => {
    const whole = 'x'.repeat(1300)
    const pieces = [{ text: whole.slice(0, 511) }, { text: whole.slice(511, 513) }, { text: whole.slice(513) }]
    expect(chunkHashes(pieces, 't', 'm')).toEqual(chunkHashes([{ text: whole }], 't', 'm'))
  })

  it('are of one tenant and one model', () => {
    const prompt = text('y'.repeat(CHUNK_CHARS))
    const all = [hashesOf(prompt), hashesOf(prompt, 'other'), hashesOf(prompt, 'tenant', 'other')]
    expect(new Set(all.flat()).size).toBe(3)
  })

  it('stop at the bound, and leave out what fills no chunk', () => {
    expect(hashesOf(text('z'.repeat(CHUNK_CHARS - 1)))).toEqual([])
    expect(hashesOf(text('z'.repeat(CHUNK_CHARS * (CHUNKS_MAX + 3))))).toHaveLength(CHUNKS_MAX)
  })

  it('are safe integers that rarely meet: none of 200,000 chunks of one text do', () => {
    const hashes = new Set<number>()
    for (let index = 0; index < 400; index++) {
      const body = Array.from({ length: 500 }, (_, at) => `${index} ${at} `.padEnd(CHUNK_CHARS, '.')).join('')
      for (const hash of hashesOf(text(body))) hashes.add(hash)
    }
    expect(hashes.size).toBe(400 * 500)
    expect([...hashes].every((hash) => Number.isSafeInteger(hash) && hash >= 0)).toBe(true)
  })

  it('tell a message from its neighbour: what moves over the border changes the chain', () => {
    const filler = 'w'.repeat(CHUNK_CHARS)
    expect(hashesOf(chat('ab', `c${filler}`))[0]).not.toBe(hashesOf(chat('a', `bc${filler}`))[0])
  })
})
