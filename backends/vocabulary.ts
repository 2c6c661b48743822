// What each token id means as bytes, and which ids are control tokens or ends of generation ○.
// Owns the byte-level alphabet and the classification; encoding is tokens.ts, streaming text is detokenizer.ts.
import type { VocabularyFrame } from '../protocol/engine-frames.ts'
import { type ModelFile, ModelFileError, TOKEN_TYPE } from './model-file.ts'

/** Control tokens by these names end a generation even where the file does not list them as eos or eot. */
const END_NAMES = new Set([
  '<|im_end|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|end|>',
  '<end_of_turn>',
  '<｜end▁of▁sentence｜>',
])

/** Some converters mark turn markers as user-defined; by shape they are still not for callers to write. */
const MARKER_SHAPE = /^(<\|.*\|>|<｜.*｜>|<(start|end)_of_turn>|\[\/?INST\])$/su

const SPM_SPACE = '\u2581'
const BYTE_TOKEN = /^<0x([0-9A-F]{2})>$/

/** Byte → the printable character that byte-level vocabularies write it as. */
export const BYTE_ALPHABET: readonly string[] = (() => {
  const printable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++))
})()

const BYTE_OF = new Map(BYTE_ALPHABET.map((character, byte) => [character, byte]))

export type Vocabulary = {
  size: number
  /** The token's text as the file writes it. */
  tokens: readonly string[]
  /** Written only by templates; the same characters in a caller's text are ordinary text. Longest first. */
  controlTexts: readonly string[]
  /** Recognised in any text. Longest first. */
  userDefinedTexts: readonly string[]
  idOf: ReadonlyMap<string, number>
  /** No token stands for more bytes than this, so a text has at least its bytes divided by it. */
  tokenBytesMax: number
  bosId?: number
  /** Sampling one of these ends a sequence. */
  endIds: readonly number[]
  isControl: (id: number) => boolean
  /** Bytes the token adds to the output; none for a control token. */
  outputBytes: (id: number) => Uint8Array
  /** Bytes that name the token, control tokens included: for logprobs. */
  nameBytes: (id: number) => Uint8Array
}

function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const byte = BYTE_OF.get(character)
    // A token outside the alphabet was added by hand: its text stands for itself.
    if (byte === undefined) return new TextEncoder().encode(token)
    bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

const NO_BYTES = new Uint8Array(0)

/** @throws ModelFileError for a tokenizer family that is not supported. */
export function createVocabulary(file: ModelFile): Vocabulary {
  const family = file.tokenizerModel
  if (family !== 'gpt2' && family !== 'llama')
    throw new ModelFileError(
      `tokenizer.ggml.model "${family}" is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece)`,
    )
  const { tokens, tokenTypes } = file
  const ends = new Set(file.endIds)
  tokens.forEach((token, id) => {
    const type = tokenTypes[id]
    if (END_NAMES.has(token) && (type === TOKEN_TYPE.control || type === TOKEN_TYPE.userDefined)) ends.add(id)
  })
  const control = new Set<number>(ends)
  const userDefined: string[] = []
  tokens.forEach((token, id) => {
    const type = tokenTypes[id]
    const marker = type === TOKEN_TYPE.userDefined && MARKER_SHAPE.test(token)
    if (type === TOKEN_TYPE.control || type === TOKEN_TYPE.unknown || marker) control.add(id)
    else if (type === TOKEN_TYPE.userDefined && !control.has(id) && token !== '') userDefined.push(token)
  })
  if (file.bosId !== undefined) control.add(file.bosId)

  const encoder = new TextEncoder()
  const nameBytes = (id: number): Uint8Array => {
    const token = tokens[id]
    if (token === undefined) return NO_BYTES
    const type = tokenTypes[id]
    if (control.has(id) || type === TOKEN_TYPE.userDefined) return encoder.encode(token)
    if (family === 'gpt2') return byteLevelBytes(token)
    const byte = BYTE_TOKEN.exec(token)?.[1]
    if (type === TOKEN_TYPE.byte && byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16))
    return encoder.encode(token.replaceAll(SPM_SPACE, ' '))
  }
  const longestFirst = (a: string, b: string) => b.length - a.length
  const vocabulary: Vocabulary = {
    size: tokens.length,
    tokens,
    controlTexts: [...control]
      .map((id) => tokens[id] ?? '')
      .filter((text) => text !== '')
      .sort(longestFirst),
    userDefinedTexts: userDefined.sort(longestFirst),
    idOf: new Map(tokens.map((token, id) => [token, id])),
    tokenBytesMax: tokens.reduce((max, _, id) => Math.max(max, nameBytes(id).length), 1),
    endIds: [...ends],
    isControl: (id) => control.has(id),
    outputBytes: (id) => (control.has(id) ? NO_BYTES : nameBytes(id)),
    nameBytes,
  }
  if (file.bosId !== undefined) vocabulary.bosId = file.bosId
  return vocabulary
}

/** What an engine makes masks from: each id's bytes, and where a text may end. */
export function grammarVocabulary(vocabulary: Vocabulary): Omit<VocabularyFrame, 'type'> {
  const tokens = Array.from({ length: vocabulary.size }, (_, id) => ({
    control: vocabulary.isControl(id),
    bytes: vocabulary.nameBytes(id),
  }))
  return { tokens, endIds: [...vocabulary.endIds] }
}
