// A small but complete model file without tensors: byte-level vocabulary, a few merges, control tokens, ChatML template.
import { writeFileSync } from 'node:fs'
import { type GGUFTypedMetadata, GGUFValueType, serializeGgufMetadata } from '@huggingface/gguf'
import type { ModelFile } from '../../../../backends/model-file.ts'
import { BYTE_ALPHABET } from '../../../../backends/vocabulary.ts'

export const CHATML =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

const MERGES = ['h e', 'l l', 'he ll', 'hell o', 'Ġ w', 'o r', 'Ġw or', 'l d', 'Ġwor ld']

/** Ids 0..255 are the bytes; then the merged tokens; then the control tokens; then one user-defined token. */
export function testModelFile(changes: Partial<ModelFile> = {}): ModelFile {
  const merged = MERGES.map((merge) => merge.replace(' ', ''))
  const tokens = [...BYTE_ALPHABET, ...merged, '<|endoftext|>', '<|im_start|>', '<|im_end|>', '<think>']
  const first = 256 + merged.length
  const tokenTypes = tokens.map((_, id) => (id < first ? 1 : id < first + 3 ? 3 : 4))
  return {
    architecture: 'llama',
    tokenizerModel: 'gpt2',
    pre: 'smollm',
    tokens,
    tokenTypes,
    merges: MERGES,
    bosId: first + 1,
    eosId: first + 2,
    endIds: [first + 2],
    addBos: false,
    chatTemplate: CHATML,
    ...changes,
  }
}

export const idOf = (file: ModelFile, token: string): number => {
  const id = file.tokens.indexOf(token)
  if (id < 0) throw new Error(`the test model has no token ${token}`)
  return id
}

/** Writes the file as GGUF. */
export function writeTestModel(path: string, file: ModelFile = testModelFile()): void {
  const string = (value: string) => ({ value, type: GGUFValueType.STRING })
  const strings = (value: string[]) => ({ value, type: GGUFValueType.ARRAY, subType: GGUFValueType.STRING })
  const metadata = {
    version: { value: 3, type: GGUFValueType.UINT32 },
    tensor_count: { value: 0n, type: GGUFValueType.UINT64 },
    kv_count: { value: 10n, type: GGUFValueType.UINT64 },
    'general.architecture': string(file.architecture),
    'tokenizer.ggml.model': string(file.tokenizerModel),
    'tokenizer.ggml.pre': string(file.pre),
    'tokenizer.ggml.tokens': strings(file.tokens),
    'tokenizer.ggml.token_type': { value: file.tokenTypes, type: GGUFValueType.ARRAY, subType: GGUFValueType.INT32 },
    'tokenizer.ggml.merges': strings(file.merges ?? []),
    'tokenizer.ggml.bos_token_id': { value: file.bosId ?? 0, type: GGUFValueType.UINT32 },
    'tokenizer.ggml.eos_token_id': { value: file.eosId ?? 0, type: GGUFValueType.UINT32 },
    'tokenizer.ggml.add_bos_token': { value: file.addBos ?? false, type: GGUFValueType.BOOL },
    'tokenizer.chat_template': string(file.chatTemplate ?? ''),
  }
  writeFileSync(path, serializeGgufMetadata(metadata as unknown as GGUFTypedMetadata))
}
