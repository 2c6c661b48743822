// The prompt as a chain of chunks ○: what gateway and agents both know a prompt's beginning by. Owns the canonical text, where
// it is cut and the hash. Neither side needs the other's tokenizer: the agent maps a chunk's end to the tokens that it covers
// (backends/prompt-chunks.ts), the gateway looks chunks up in what agents report (gateway/fleet).
//
// A hash is a hint for routing, never proof: two prompts with equal chunks go to the same backend, whose engine compares
// tokens. It is keyed by the tenant's opaque id, so that no tenant can learn from routing what another one has asked.
import type { DispatchRequest } from './dispatch.ts'

/** UTF-16 units per chunk: some 128 tokens of English, a few blocks. Finer chunks would cost more to report than they save. */
export const CHUNK_CHARS = 512
/** Beyond so many (some 64 k tokens) prompts that still agree are taken to go on agreeing. */
export const CHUNKS_MAX = 512

/** Between two parts of the canonical text; in no part can it be mistaken, since parts are told by their lengths too. */
const PART = '\u001e'

/** A piece of the canonical text. `source` says what of the input it is the verbatim text of; absent for framing. */
export type PromptPiece = { text: string; source?: { message: number } | { prompt: number } }

type Described = Pick<DispatchRequest, 'input' | 'tools' | 'thinking'>

/**
 * The canonical text of a prompt in pieces, in the order in which templates show them: tools first, then each message. Of a
 * completion or an embedding, one prompt's text; token ids are written as numbers.
 * @param prompt Which of the prompts; of a chat there is only the first.
 */
export function promptPieces({ input, tools, thinking }: Described, prompt = 0): PromptPiece[] {
  if (input.kind !== 'chat') {
    const one = input.prompts[prompt]
    if (one === undefined) return []
    return 'text' in one ? [{ text: one.text, source: { prompt } }] : [{ text: one.tokenIds.join(',') }]
  }
  const pieces: PromptPiece[] = []
  if (tools !== undefined || thinking !== undefined) {
    const text = JSON.stringify([tools ?? [], thinking ?? ''])
    pieces.push({ text: `${PART}tools${text.length}${PART}${text}` })
  }
  for (const [message, { role, name, content, thought, toolCalls, toolCallId }] of input.messages.entries()) {
    const calls = toolCalls === undefined ? '' : JSON.stringify(toolCalls.map((call) => [call.name, call.arguments]))
    const extra = [name ?? '', toolCallId === undefined ? '' : 'result', thought ?? '', calls].join(PART)
    pieces.push({ text: `${PART}${role}${PART}${extra}${PART}` }, { text: content, source: { message } })
  }
  return pieces
}

/**
 * Hashes of a prompt's whole chunks, each over everything before its end: equal hashes mean equal beginnings. What is left
 * after the last whole chunk has none.
 * @param tenant The dispatch's opaque tenant.
 * @param model Different models share no cache.
 * @returns At most CHUNKS_MAX safe integers.
 */
export function chunkHashes(pieces: readonly PromptPiece[], tenant: string, model: string): number[] {
  const hashes: number[] = []
  const state = new ChainHash(`${tenant}${PART}${model}`)
  let inChunk = 0
  for (const { text } of pieces) {
    let from = 0
    while (from < text.length) {
      const to = Math.min(text.length, from + CHUNK_CHARS - inChunk)
      state.add(text, from, to)
      inChunk += to - from
      from = to
      if (inChunk < CHUNK_CHARS) continue
      hashes.push(state.value())
      if (hashes.length === CHUNKS_MAX) return hashes
      inChunk = 0
    }
  }
  return hashes
}

const HIGH_BITS = 21
const LANE = 0x1_0000_0000

/**
 * A rolling hash of two 32-bit lanes, of which 53 bits are told: fast without 64-bit arithmetic, and a safe integer is the
 * cheapest key of a map. Multiply-xorshift mixing with the finaliser of MurmurHash3 (Austin Appleby, public domain).
 */
class ChainHash {
  #low = 0x9e3779b9 | 0
  #high = 0x85ebca6b | 0

  constructor(seed: string) {
    this.add(seed, 0, seed.length)
    this.add(PART, 0, 1)
  }

  add(text: string, from: number, to: number): void {
    let low = this.#low
    let high = this.#high
    for (let at = from; at < to; at++) {
      const unit = text.charCodeAt(at)
      low = Math.imul(low ^ unit, 0x01000193)
      low ^= low >>> 15
      high = Math.imul(high ^ (unit + (low & 0xff)), 0x27d4eb2d)
      high = (high << 13) | (high >>> 19)
    }
    this.#low = low
    this.#high = high
  }

  value(): number {
    const low = finalised(this.#low ^ Math.imul(this.#high, 0x2c1b3c6d))
    const high = finalised(this.#high ^ Math.imul(this.#low, 0x297a2d39))
    return (high >>> (32 - HIGH_BITS)) * LANE + (low >>> 0)
  }
}

function finalised(value: number): number {
  let mixed = value
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}
