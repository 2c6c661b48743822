// The text side of a GGUF file, from its metadata. Owns reading and checking the keys.
import { gguf } from '@huggingface/gguf'
import { z } from 'zod'
import type { Pooling } from '../protocol/engine-frames.ts'
import { messageOf } from './log.ts'
import { type ModelFile, ModelFileError, TOKEN_TYPE } from './model-file.ts'

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
  'tokenizer.ggml.add_eos_token': z.boolean().optional(),
  'tokenizer.ggml.add_space_prefix': z.boolean().optional(),
  'tokenizer.chat_template': z.string().optional(),
  'tokenizer.chat_template.tool_use': z.string().optional(),
})

/**
 * Reads the metadata of a GGUF file; the tensors are not touched.
 * @throws ModelFileError
 */
export async function readGgufFile(path: string): Promise<ModelFile> {
  let metadata: unknown
  try {
    metadata = (await gguf(path, { allowLocalFile: true })).metadata
  } catch (thrown) {
    throw new ModelFileError(`${path}: ${messageOf(thrown)}`)
  }
  return checkMetadata(path, metadata)
}

/** Values of `*.pooling_type` that an engine of decoders can do; others are for models of other shapes. */
const poolingOf = (value: unknown): Pooling | undefined => (value === 1 ? 'mean' : value === 3 ? 'last' : undefined)

/** Checks what the reader returned. Apart from the file name in messages it is pure. */
function checkMetadata(path: string, metadata: unknown): ModelFile {
  const parsed = Metadata.safeParse(metadata)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new ModelFileError(`${path}: metadata ${issue?.path.join('.')}: ${issue?.message}`)
  }
  const data = parsed.data
  // The reader drops U+FEFF at the head of a string, and a token of nothing else is in every SentencePiece vocabulary.
  const tokens = data['tokenizer.ggml.tokens'].map((token) => (token === '' ? '\ufeff' : token))
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
  if (data['tokenizer.ggml.add_eos_token'] !== undefined) file.addEos = data['tokenizer.ggml.add_eos_token']
  const pooling = poolingOf((metadata as Record<string, unknown>)[`${file.architecture}.pooling_type`])
  if (pooling !== undefined) file.pooling = pooling
  if (data['tokenizer.ggml.add_space_prefix'] !== undefined)
    file.addSpacePrefix = data['tokenizer.ggml.add_space_prefix']
  if (data['tokenizer.chat_template'] !== undefined) file.chatTemplate = data['tokenizer.chat_template']
  const toolTemplate = data['tokenizer.chat_template.tool_use']
  if (toolTemplate !== undefined) file.toolTemplate = toolTemplate
  return file
}
