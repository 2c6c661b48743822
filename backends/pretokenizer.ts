// How text is cut into words before byte pairs are merged. Owns the patterns, by their GGUF name and by the regular
// expression of a tokenizer.json ○; merging is tokens.ts. `\s` is spelled \p{White_Space}: JavaScript's own \s adds
// U+FEFF and lacks U+0085.

/**
 * The longest word: merging one costs more than linear time in its length, and an unbounded repetition over millions of
 * characters exhausts the regular expression engine's stack. Only text without a single border in so many characters is
 * cut differently from the reference.
 */
export const WORD_CHARS_MAX = 16 * 1024

const S = '\\p{White_Space}'
const MANY = `{1,${WORD_CHARS_MAX}}`
const SOME = `{0,${WORD_CHARS_MAX}}`
const SPACE_RUNS = `${S}${MANY}(?![^${S}])|${S}${MANY}`
// Case folding in Unicode also makes U+017F an s.
const CONTRACTIONS = "(?:'[sS\\u017f]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
const GPT2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}${MANY}| ?\\p{N}${MANY}| ?[^${S}\\p{L}\\p{N}]${MANY}|${SPACE_RUNS}`
const EACH_DIGIT = '\\p{N}'
const llama3 = (digits: string) =>
  `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}${MANY}|${digits}| ?[^${S}\\p{L}\\p{N}]${MANY}[\\r\\n]${SOME}|` +
  `${S}${SOME}[\\r\\n]${MANY}|${SPACE_RUNS}`

const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
const LEAD = '[^\\r\\n\\p{L}\\p{N}]?'
const TEKKEN =
  `${LEAD}${UPPER}${SOME}${LOWER}${MANY}|${LEAD}${UPPER}${MANY}${LOWER}${SOME}|\\p{N}|` +
  ` ?[^${S}\\p{L}\\p{N}]${MANY}[\\r\\n/]${SOME}|${S}${SOME}[\\r\\n]${MANY}|${SPACE_RUNS}`

/** Each pass cuts every piece of the pass before; what lies between two matches is a piece too. */
type Scheme = {
  passes: readonly string[]
  ignoreMerges?: true
  addBosDefault?: true
  /** The family's tokenizer brings text to normal form C first. */
  normalisesToNfc?: true
}

const gpt2: Scheme = { passes: [GPT2] }
const digitsThenGpt2: Scheme = { passes: [EACH_DIGIT, GPT2] }
const llama3Scheme: Scheme = { passes: [llama3('\\p{N}{1,3}')], ignoreMerges: true, addBosDefault: true }
const qwen2: Scheme = { passes: [llama3('\\p{N}')], normalisesToNfc: true }
const singleDigits: Scheme = { passes: [llama3('\\p{N}')] }
const tekken: Scheme = { passes: [TEKKEN], ignoreMerges: true, addBosDefault: true }

/** What llama.cpp does for files that name no pattern; such files were converted to be read by it. */
const unnamed: Scheme = { passes: [`[\\p{P}$+<=>^~|]${MANY}`, GPT2, `\\p{N}${MANY}`, '[0-9][0-9][0-9]'] }

const SCHEMES: ReadonlyMap<string, Scheme> = new Map([
  ['default', unnamed],
  ['gpt-2', gpt2],
  ['mpt', gpt2],
  ['olmo', gpt2],
  ['smollm', digitsThenGpt2],
  ['starcoder', digitsThenGpt2],
  ['refact', digitsThenGpt2],
  ['command-r', digitsThenGpt2],
  ['llama-bpe', llama3Scheme],
  ['llama3', llama3Scheme],
  ['llama-v3', llama3Scheme],
  ['qwen2', qwen2],
  ['qwen3', qwen2],
  ['tekken', tekken],
  ['deepseek-r1-qwen', qwen2],
  ['stablelm2', singleDigits],
])

export const PRE_TOKENIZERS: readonly string[] = [...SCHEMES.keys()]

const LLAMA3_SOURCE = (digits: string) =>
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" +
  `${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

/** The same patterns as tokenizer.json files write them. */
const SOURCES: ReadonlyMap<string, string> = new Map([
  ["'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", 'gpt-2'],
  [LLAMA3_SOURCE('\\p{N}{1,3}'), 'llama-bpe'],
  [LLAMA3_SOURCE('\\p{N}'), 'qwen2'],
  [
    '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|' +
      '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|' +
      '\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
    'tekken',
  ],
])

/** The name of the pre-tokenizer that a tokenizer.json describes by `pattern`; `undefined` for an unknown one. */
export const preTokenizerOfPattern = (pattern: string): string | undefined => SOURCES.get(pattern)

export type PreTokenizer = {
  /** Words in order; joined they are the text. Lazy, so that a caller can stop or yield between words. */
  words: (text: string) => Generator<string>
  /** A whole word found in the vocabulary is taken without merging. */
  ignoreMerges: boolean
  /** Whether a beginning-of-text token is added where the file does not say. */
  addBosDefault: boolean
  /** Whether text is brought to normal form C first where the file does not say. */
  normalisesToNfc: boolean
}

/** `undefined` for a name that is not in PRE_TOKENIZERS. */
export function preTokenizer(name: string): PreTokenizer | undefined {
  const scheme = SCHEMES.get(name)
  if (scheme === undefined) return undefined
  const passes = scheme.passes.map((source) => new RegExp(source, 'gu'))
  return {
    words: (text) => cut(text, passes, 0),
    ignoreMerges: scheme.ignoreMerges ?? false,
    addBosDefault: scheme.addBosDefault ?? false,
    normalisesToNfc: scheme.normalisesToNfc ?? false,
  }
}

function* cut(text: string, passes: readonly RegExp[], index: number): Generator<string> {
  const pattern = passes[index]
  if (pattern === undefined) {
    yield* bounded(text)
    return
  }
  let end = 0
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) yield* cut(text.slice(end, match.index), passes, index + 1)
    yield* cut(match[0], passes, index + 1)
    end = match.index + match[0].length
  }
  if (end < text.length) yield* cut(text.slice(end), passes, index + 1)
}

/** Splits an overlong word, never inside a surrogate pair. */
export function* bounded(word: string): Generator<string> {
  let start = 0
  while (word.length - start > WORD_CHARS_MAX) {
    let end = start + WORD_CHARS_MAX
    const last = word.charCodeAt(end - 1)
    if (last >= 0xd800 && last < 0xdc00) end--
    yield word.slice(start, end)
    start = end
  }
  if (start < word.length) yield word.slice(start)
}
