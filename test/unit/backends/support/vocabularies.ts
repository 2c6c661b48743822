// The vocabularies that tests run over: a tiny one always, published ones where their data is present.
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { ModelFile } from '../../../../backends/model-file.ts'
import { readModelFile } from '../../../../backends/model-reader.ts'
import { sharedData } from './shared-data.ts'
import { testModelFile } from './test-model.ts'

/** qwen2's vocabulary is published as two text files. @param path of vocab.json, beside merges.txt */
function readQwen2(path: string): ModelFile {
  const vocab: Record<string, number> = JSON.parse(readFileSync(path, 'utf8'))
  const tokens: string[] = []
  for (const [token, id] of Object.entries(vocab)) tokens[id] = token
  const lines = readFileSync(path.replace('vocab.json', 'merges.txt'), 'utf8').split(/\r?\n/)
  const merges = lines.filter((line, index) => line !== '' && index > 0)
  const controls = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  return {
    architecture: 'qwen2',
    tokenizerModel: 'gpt2',
    pre: 'qwen2',
    endIds: [],
    tokens: [...tokens, ...controls],
    tokenTypes: [...tokens.map(() => 1), ...controls.map(() => 3)],
    merges,
  }
}

export type VocabularySource = {
  name: string
  /** Absent: the data is not on this machine. */
  load: (() => ModelFile | Promise<ModelFile>) | undefined
}

const where = <T extends ModelFile | Promise<ModelFile>>(path: string | undefined, load: (path: string) => T) =>
  path === undefined ? undefined : () => load(path)

const smollm = join(
  process.env.PENSTOCK_CACHE ?? join(homedir(), '.cache/penstock'),
  'models/SmolLM2-135M-Instruct.Q4_1.gguf',
)

export const VOCABULARIES: readonly VocabularySource[] = [
  { name: 'tiny', load: () => testModelFile() },
  { name: 'gpt-2', load: where(sharedData('vocab', 'ggml-vocab-gpt-2.gguf'), readModelFile) },
  { name: 'llama-spm', load: where(sharedData('vocab', 'ggml-vocab-llama-spm.gguf'), readModelFile) },
  { name: 'qwen2', load: where(sharedData('vocab', 'qwen2', 'vocab.json'), readQwen2) },
  { name: 'smollm2', load: where(existsSync(smollm) ? smollm : undefined, readModelFile) },
]

export const skippedWithout = ({ name, load }: VocabularySource) =>
  load === undefined ? `${name} (skipped: its data is not on this machine)` : name
