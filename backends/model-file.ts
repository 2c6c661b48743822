// The text side of a model file: vocabulary, special tokens, chat template, as stored in the GGUF metadata.
// Owns reading and checking them; tensors belong to the engine, encoding to tokens.ts, rendering to chat.ts.
import { gguf } from '@huggingface/gguf'
import { z } from 'zod'
import { messageOf } from './log.ts'

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
  scores?: number[]
  merges?: string[]
  bosId?: number
  eosId?: number
  /** Ids that the file itself names as ends: eos, eot, eom. */
  endIds: number[]
  unknownId?: number
  addBos?: boolean
  addSpacePrefix?: boolean
  chatTemplate?: string
}

/** Integers appear in several widths, 64-bit ones as bigint. */
const tokenId = z.preprocess((value) => (typeof value === 'bigint' ? Number(value) : value), z.number().int().min(0))
const numbers = z.array(z.number())
const strings = z.array(z.string())

const Metadata = z.object({
  'general.architecture': z.string(),
  'tokenizer.ggml.model': z.string(),
  'tokenizer.ggml.pre': z.string().optional(),
  'tokenizer.ggml.tokens': strings.min(1),
  'tokenizer.ggml.token_type': numbers.optional(),
  'tokenizer.ggml.scores': numbers.optional(),
  'tokenizer.ggml.merges': strings.optional(),
  'tokenizer.ggml.bos_token_id': tokenId.optional(),
  'tokenizer.ggml.eos_token_id': tokenId.optional(),
  'tokenizer.ggml.eot_token_id': tokenId.optional(),
  'tokenizer.ggml.eom_token_id': tokenId.optional(),
  'tokenizer.ggml.unknown_token_id': tokenId.optional(),
  'tokenizer.ggml.add_bos_token': z.boolean().optional(),
  'tokenizer.ggml.add_space_prefix': z.boolean().optional(),
  'tokenizer.chat_template': z.string().optional(),
})

/**
 * Reads the metadata of a GGUF file; the tensors are not touched.
 * @throws ModelFileError
 */
export async function readModelFile(path: string): Promise<ModelFile> {
  let metadata: unknown
  try {
    metadata = (await gguf(path, { allowLocalFile: true })).metadata
  } catch (thrown) {
    throw new ModelFileError(`${path}: ${messageOf(thrown)}`)
  }
  return checkMetadata(path, metadata)
}

/** Checks what the reader returned. Apart from the file name in messages it is pure. */
function checkMetadata(path: string, metadata: unknown): ModelFile {
  const parsed = Metadata.safeParse(metadata)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new ModelFileError(`${path}: metadata ${issue?.path.join('.')}: ${issue?.message}`)
  }
  const data = parsed.data
  const tokens = data['tokenizer.ggml.tokens']
  const sameLength = (key: string, count: number | undefined) => {
    if (count !== undefined && count !== tokens.length)
      throw new ModelFileError(`${path}: metadata ${key} has ${count} entries for ${tokens.length} tokens`)
  }
  sameLength('tokenizer.ggml.token_type', data['tokenizer.ggml.token_type']?.length)
  sameLength('tokenizer.ggml.scores', data['tokenizer.ggml.scores']?.length)
  const inVocabulary = (key: string, id: number | undefined): number | undefined => {
    if (id !== undefined && id >= tokens.length)
      throw new ModelFileError(`${path}: metadata ${key} is ${id}, the vocabulary ends at ${tokens.length}`)
    return id
  }
  const eosId = inVocabulary('eos_token_id', data['tokenizer.ggml.eos_token_id'])
  const eotId = inVocabulary('eot_token_id', data['tokenizer.ggml.eot_token_id'])
  const eomId = inVocabulary('eom_token_id', data['tokenizer.ggml.eom_token_id'])
  const bosId = inVocabulary('bos_token_id', data['tokenizer.ggml.bos_token_id'])
  const unknownId = inVocabulary('unknown_token_id', data['tokenizer.ggml.unknown_token_id'])
  const file: ModelFile = {
    architecture: data['general.architecture'],
    tokenizerModel: data['tokenizer.ggml.model'],
    pre: data['tokenizer.ggml.pre'] ?? 'default',
    tokens,
    tokenTypes: data['tokenizer.ggml.token_type'] ?? new Array<number>(tokens.length).fill(TOKEN_TYPE.normal),
    endIds: [eosId, eotId, eomId].filter((id) => id !== undefined),
  }
  if (bosId !== undefined) file.bosId = bosId
  if (eosId !== undefined) file.eosId = eosId
  if (unknownId !== undefined) file.unknownId = unknownId
  if (data['tokenizer.ggml.scores'] !== undefined) file.scores = data['tokenizer.ggml.scores']
  if (data['tokenizer.ggml.merges'] !== undefined) file.merges = data['tokenizer.ggml.merges']
  if (data['tokenizer.ggml.add_bos_token'] !== undefined) file.addBos = data['tokenizer.ggml.add_bos_token']
  if (data['tokenizer.ggml.add_space_prefix'] !== undefined)
    file.addSpacePrefix = data['tokenizer.ggml.add_space_prefix']
  if (data['tokenizer.chat_template'] !== undefined) file.chatTemplate = data['tokenizer.chat_template']
  return file
}
