// The text side of a model: vocabulary, special tokens, chat template. Owns its one form ○, whatever it was
// read from: gguf-file.ts, hugging-face-folder.ts. Encoding is tokens.ts, rendering chat.ts, tensors are the engine's.
import type { Pooling } from '../protocol/engine-frames.ts'

/** A model file that cannot be read, or that lacks what serving text needs. The message names file and field. */
export class ModelFileError extends Error {
  override name = 'ModelFileError'
}

/** Values of `tokenizer.ggml.token_type`. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

export type ModelFile = {
  architecture: string
  /** `gpt2` = byte-level BPE, `llama` = SentencePiece BPE. */
  tokenizerModel: string
  /** Which pre-tokenizer pattern, e.g. `llama-bpe`. */
  pre: string
  tokens: string[]
  /** One per token; all normal where the file has none. */
  tokenTypes: number[]
  /** SentencePiece: one of scores and merges. */
  scores?: number[]
  /** Best first, halves parted by a space; byte-level vocabularies always have them. */
  merges?: string[]
  /** A whole word of the vocabulary is taken without merging; absent: as `pre` has it. */
  ignoreMerges?: boolean
  /** Text is brought to Unicode's normal form C first; absent: as `pre` has it. */
  normalisesToNfc?: boolean
  bosId?: number
  eosId?: number
  /** Ids that the file itself names as ends: eos, eot, eom. */
  endIds: number[]
  unknownId?: number
  addBos?: boolean
  /** Texts end with the eos token: of embeddings only, a generation would be over. */
  addEos?: boolean
  /** SentencePiece: a space goes before text that is not empty. Default true. */
  addSpacePrefix?: boolean
  /** That space goes before the whole text only, not after each special token too. */
  spacePrefixOnce?: boolean
  chatTemplate?: string
  /** For chats with tools, where they have a template of their own. */
  toolTemplate?: string
  /** What its embeddings are made of, where the file says. */
  pooling?: Pooling
  /** Lengths that its embeddings may be cut to, `any` or these; absent: none. */
  embeddingSizes?: 'any' | number[]
}
