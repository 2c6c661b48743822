// Which tokens of a prompt each of its chunks covers ○. Owns finding the caller's text in what the template made of it, and
// counting the tokens up to a chunk's end; chunks are protocol/prefix.ts, what engines hold of them is prefix/.
//
// Nothing is guessed: a text that is not found verbatim (a template rewrote it), and a token whose bytes are not the text's (it
// was normalised), end the mapping. The chunks after that are known to nobody, and count as not held.
import type { DispatchRequest } from '../protocol/dispatch.ts'
import { CHUNK_CHARS, chunkHashes, type PromptPiece, promptPieces } from '../protocol/prefix.ts'
import type { Vocabulary } from './vocabulary.ts'

/** The first `tokens` tokens of the prompt are a function of the chunk and of all before it. */
export type ChunkEnd = { chunk: number; tokens: number }

/** A text that occurs so often where it could stand could be anywhere; looking on would cost everyone else time. */
const OCCURRENCES_MAX = 16

/**
 * The chunks of a prompt for which it is known which tokens they cover, from the first on.
 * @param prompt Which of the prompts; of a chat there is only the first.
 * @param text What `ids` were made from, without the guard's marks; undefined where the caller sent token ids.
 */
export function promptChunks(
  request: DispatchRequest,
  prompt: number,
  text: string | undefined,
  ids: readonly number[],
  vocabulary: Vocabulary,
): ChunkEnd[] {
  const pieces = promptPieces(request, prompt)
  if (pieces.reduce((sum, piece) => sum + piece.text.length, 0) < CHUNK_CHARS) return []
  const chunks = chunkHashes(pieces, request.tenant, request.model)
  if (text === undefined) return pairs(chunks, writtenIdCounts(ids, chunks.length))
  const ends = chunkOffsets(pieces, text, chunks.length)
  return pairs(chunks, tokenCounts(text, ids, vocabulary, ends))
}

const pairs = (chunks: readonly number[], tokens: readonly number[]): ChunkEnd[] =>
  tokens.map((count, at) => ({ chunk: chunks[at] as number, tokens: count }))

type Placed = { start: number; length: number /** Characters of the content before what was found. */; lead: number }

/** Where each chunk ends in `text`, rising, up to the first that is not known. */
export function chunkOffsets(pieces: readonly PromptPiece[], text: string, chunks: number): number[] {
  const placed = placements(pieces, text)
  const offsets: number[] = []
  let pieceStart = 0
  for (const [at, piece] of pieces.entries()) {
    const pieceEnd = pieceStart + piece.text.length
    for (let end = (offsets.length + 1) * CHUNK_CHARS; end <= pieceEnd; end += CHUNK_CHARS) {
      if (offsets.length === chunks) return offsets
      const place = piece.source === undefined ? nextPlaced(placed, at) : placed[at]
      if (place === undefined) return offsets
      // Framing is written otherwise by templates: it counts with the text that follows it.
      const into = piece.source === undefined ? 0 : end - pieceStart - place.lead
      offsets.push(place.start + Math.max(0, Math.min(place.length, into)))
    }
    pieceStart = pieceEnd
  }
  return offsets
}

const nextPlaced = (placed: readonly (Placed | undefined)[], at: number): Placed | undefined =>
  placed.slice(at + 1).find((place) => place !== undefined)

/**
 * Where each piece of the caller's own text stands: in order, the last place that leaves room for what follows. One too late
 * asks for more tokens than are needed, one too early would promise too few.
 */
function placements(pieces: readonly PromptPiece[], text: string): (Placed | undefined)[] {
  const placed: (Placed | undefined)[] = pieces.map(() => undefined)
  let from = 0
  let last = -1
  for (const [at, piece] of pieces.entries()) {
    if (piece.source === undefined || piece.text === '') continue
    const place = find(piece.text, text, from)
    if (place === undefined) break
    placed[at] = place
    from = place.start + place.length
    last = at
  }
  let limit = text.length
  for (let at = last; at >= 0; at--) {
    const place = placed[at]
    if (place === undefined) continue
    const shift = lastOccurrence(text.slice(place.start, limit), place.length)
    if (shift === undefined) {
      placed.fill(undefined, at)
      continue
    }
    place.start += shift
    limit = place.start
  }
  return placed
}

/** Of what `window` begins with; undefined where there are too many. */
function lastOccurrence(window: string, length: number): number | undefined {
  const sought = window.slice(0, length)
  let last = 0
  for (let seen = 1; seen <= OCCURRENCES_MAX; seen++) {
    const next = window.indexOf(sought, last + 1)
    if (next < 0) return last
    last = next
  }
  return undefined
}

function find(content: string, text: string, from: number): Placed | undefined {
  const start = text.indexOf(content, from)
  if (start >= 0) return { start, length: content.length, lead: 0 }
  const trimmed = content.trim()
  if (trimmed === '' || trimmed.length === content.length) return undefined
  const trimmedStart = text.indexOf(trimmed, from)
  if (trimmedStart < 0) return undefined
  return { start: trimmedStart, length: trimmed.length, lead: content.length - content.trimStart().length }
}

const SPACE = 0x20

/** How many tokens end at or before each offset of `text`, up to the first offset that the tokens do not explain. */
function tokenCounts(
  text: string,
  ids: readonly number[],
  vocabulary: Vocabulary,
  offsets: readonly number[],
): number[] {
  const targets = byteOffsets(text, offsets)
  const last = offsets.at(-1) ?? 0
  // Half a pair would be the bytes of another character, which no token explains.
  const bytes = new TextEncoder().encode(text.slice(0, splitsPair(text, last) ? last - 1 : last).toWellFormed())
  const counts: number[] = []
  let at = 0
  for (const [index, id] of ids.entries()) {
    if (counts.length === targets.length) return counts
    const own = tokenBytes(vocabulary, id)
    // The tokenizer puts it there; templates that write it themselves have it in their text.
    const isAdded = index === 0 && id === vocabulary.bosId && !explains(own, 0, bytes, at)
    let length = isAdded ? 0 : own.length
    if (!isAdded && !explains(own, 0, bytes, at)) {
      // SentencePiece puts a space before a text.
      if (own[0] !== SPACE || !explains(own, 1, bytes, at)) return counts
      length--
    }
    while (counts.length < targets.length && at + length > (targets[counts.length] as number)) counts.push(index)
    at += length
  }
  while (counts.length < targets.length && at >= (targets[counts.length] as number)) counts.push(ids.length)
  return counts
}

/** Whether `own` from `skip` on stands at `at`, as far as `bytes` go. */
function explains(own: Uint8Array, skip: number, bytes: Uint8Array, at: number): boolean {
  const length = Math.min(own.length - skip, bytes.length - at)
  for (let i = 0; i < length; i++) if (own[skip + i] !== bytes[at + i]) return false
  return true
}

/** In UTF-8; an offset within a pair of surrogates counts as before it. */
function byteOffsets(text: string, offsets: readonly number[]): number[] {
  const targets: number[] = []
  let from = 0
  let bytes = 0
  for (const offset of offsets) {
    const to = Math.max(from, splitsPair(text, offset) ? offset - 1 : offset)
    for (let i = from; i < to; i++) {
      const unit = text.charCodeAt(i)
      const isPair = isHighSurrogate(unit) && i + 1 < to && isLowSurrogate(text.charCodeAt(i + 1))
      bytes += unit < 0x80 ? 1 : unit < 0x800 ? 2 : isPair ? 4 : 3
      if (isPair) i++
    }
    targets.push(bytes)
    from = to
  }
  return targets
}

const splitsPair = (text: string, offset: number): boolean =>
  isHighSurrogate(text.charCodeAt(offset - 1)) && isLowSurrogate(text.charCodeAt(offset))
const isHighSurrogate = (unit: number): boolean => unit >= 0xd800 && unit < 0xdc00
const isLowSurrogate = (unit: number): boolean => unit >= 0xdc00 && unit < 0xe000

const known = new WeakMap<Vocabulary, (Uint8Array | undefined)[]>()

function tokenBytes(vocabulary: Vocabulary, id: number): Uint8Array {
  let all = known.get(vocabulary)
  if (all === undefined) {
    all = []
    known.set(vocabulary, all)
  }
  const own = all[id] ?? vocabulary.nameBytes(id)
  all[id] = own
  return own
}

/** Of a prompt of token ids, whose canonical text is their numbers with commas between: an id is whole with its comma. */
function writtenIdCounts(ids: readonly number[], chunks: number): number[] {
  const counts: number[] = []
  let chars = 0
  for (const [index, id] of ids.entries()) {
    chars += String(id).length + 1
    while (counts.length < chunks && chars > (counts.length + 1) * CHUNK_CHARS) counts.push(index)
  }
  while (counts.length < chunks) counts.push(ids.length)
  return counts
}
