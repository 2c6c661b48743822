// A vocabulary as Hugging Face writes it: the tokenizer.json of a ModelFile, and a folder around it. Written from the
// format's own documentation, apart from the readers under test.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { ModelFile } from '../../../../backends/model-file.ts'

type Json = Record<string, unknown>

const LLAMA3 = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`
const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
const TEKKEN =
  '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'

const split = (pattern: string): Json[] => [
  { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
  byteLevel(false),
]
const byteLevel = (useRegex: boolean): Json => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
})

/** The pre-tokenizer of each family as its published files have it. */
export const PRE_TOKENIZER_STEPS: Record<string, Json[]> = {
  'gpt-2': [byteLevel(true)],
  smollm: [{ type: 'Digits', individual_digits: true }, byteLevel(true)],
  'llama-bpe': split(LLAMA3('\\p{N}{1,3}')),
  qwen2: split(LLAMA3('\\p{N}')),
  tekken: split(TEKKEN),
}

export type JsonOptions = {
  /** Control tokens are not among the added ones, so that text never holds one. */
  withoutControls?: boolean
  /**
   * Classes of characters as the Rust library has them: `\s`, where JavaScript's own differs, and Digits, which is every
   * numeric character there and 0-9 in the JavaScript library.
   */
  asInRust?: boolean
}

export function tokenizerJson(file: ModelFile, options: JsonOptions = {}): Json {
  const added = file.tokens.flatMap((content, id) => {
    const type = file.tokenTypes[id]
    if (type !== 3 && type !== 4) return []
    if (type === 3 && options.withoutControls === true) return []
    const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false }
    return [{ id, content, special: type === 3, ...plain }]
  })
  const vocab = Object.fromEntries(file.tokens.map((token, id) => [token, id]))
  const isByteLevel = file.tokenizerModel === 'gpt2'
  const bos = file.addBos === true && file.bosId !== undefined ? file.tokens[file.bosId] : undefined
  const eos = file.addEos === true && file.eosId !== undefined ? file.tokens[file.eosId] : undefined
  const special = (id: string | undefined) => (id === undefined ? [] : [{ SpecialToken: { id, type_id: 0 } }])
  const single = [...special(bos), { Sequence: { id: 'A', type_id: 0 } }, ...special(eos)]
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    ...(isByteLevel ? byteLevelParts(file, options) : sentencePieceParts(file)),
    post_processor: single.length === 1 ? null : { type: 'TemplateProcessing', single, pair: [], special_tokens: {} },
    model: {
      type: 'BPE',
      dropout: null,
      // Byte-level files name none: what has no token is left out.
      unk_token: isByteLevel || file.unknownId === undefined ? null : file.tokens[file.unknownId],
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: !isByteLevel,
      ignore_merges: file.ignoreMerges ?? ['llama-bpe', 'tekken'].includes(file.pre),
      vocab,
      merges: (file.merges ?? []).map((merge) => merge.split(' ')),
    },
  }
}

function byteLevelParts(file: ModelFile, options: JsonOptions): Json {
  let steps = PRE_TOKENIZER_STEPS[file.pre] ?? []
  if (options.asInRust === true) {
    // ByteLevel's own pattern cannot be told, so it is taken apart.
    steps = steps.flatMap((step) => {
      if (step.type === 'Digits') return split('\\p{N}').slice(0, 1)
      return step.use_regex === true ? split(GPT2_PATTERN) : [step]
    })
    const told = JSON.stringify(steps)
      .replaceAll('\\\\s', '\\\\p{White_Space}')
      .replaceAll('\\\\S', '\\\\P{White_Space}')
    steps = JSON.parse(told) as Json[]
  }
  return {
    normalizer: file.pre === 'qwen2' ? { type: 'NFC' } : null,
    pre_tokenizer: steps.length === 1 ? steps[0] : { type: 'Sequence', pretokenizers: steps },
    decoder: byteLevel(true),
  }
}

/** As converters write them for Llama 2 and the first Mistral models. */
const sentencePieceParts = (file: ModelFile): Json => ({
  normalizer: {
    type: 'Sequence',
    normalizers: [
      ...(file.addSpacePrefix === false ? [] : [{ type: 'Prepend', prepend: '\u2581' }]),
      { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
    ],
  },
  pre_tokenizer: null,
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
})

/** The merges that a converter makes of scores: each way to split a token, best token first. */
export function mergesOfScores(file: ModelFile): string[] {
  const idOf = new Map(file.tokens.map((token, id) => [token, id]))
  const merges: { merge: string; score: number; left: number; right: number }[] = []
  file.tokens.forEach((token, id) => {
    const characters = [...token]
    if (file.tokenTypes[id] !== 1) return
    for (let at = 1; at < characters.length; at++) {
      const halves = [characters.slice(0, at).join(''), characters.slice(at).join('')]
      const [left, right] = halves.map((half) => idOf.get(half))
      if (left !== undefined && right !== undefined)
        merges.push({ merge: halves.join(' '), score: file.scores?.[id] ?? 0, left, right })
    }
  })
  merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right)
  return merges.map(({ merge }) => merge)
}

/** Writes JSON or text files under a folder. */
export function writeFolder(folder: string, files: Record<string, unknown>): void {
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content))
  }
}
