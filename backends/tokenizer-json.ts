// What a tokenizer.json says, in the terms of ModelFile ○. Owns which of its many forms are known: byte-level BPE with a
// known pattern, and the BPE with byte fallback that SentencePiece models are converted to. Everything else is refused
// by name: a tokenizer that is nearly right gives answers that are nearly right.
import { z } from 'zod'
import { type ModelFile, ModelFileError, TOKEN_TYPE } from './model-file.ts'
import { preTokenizerOfPattern } from './pretokenizer.ts'

/** Ids are indices of an array; a hole of this size is a broken file. */
const TOKENS_MAX = 2 ** 24
const SPM_SPACE = '\u2581'
const BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/

const AddedToken = z.object({
  id: z.number().int().min(0).max(TOKENS_MAX),
  content: z.string().min(1),
  special: z.boolean().default(false),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
})

/** A step of the pipeline: its type decides what else it has. */
const Step = z.looseObject({ type: z.string() })
type Step = z.infer<typeof Step>

export const TokenizerJson = z.object({
  added_tokens: z.array(AddedToken).default([]),
  normalizer: Step.nullish(),
  pre_tokenizer: Step.nullish(),
  post_processor: Step.nullish(),
  model: z.object({
    type: z.string().default('BPE'),
    vocab: z.custom<Record<string, number>>((value) => typeof value === 'object' && value !== null),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
    dropout: z.number().nullish(),
    unk_token: z.string().nullish(),
    continuing_subword_prefix: z.string().nullish(),
    end_of_word_suffix: z.string().nullish(),
    byte_fallback: z.boolean().nullish(),
    ignore_merges: z.boolean().nullish(),
  }),
})
export type TokenizerJson = z.infer<typeof TokenizerJson>

export type ReadTokenizer = Omit<ModelFile, 'architecture' | 'endIds' | 'chatTemplate'>

/** @throws ModelFileError for a kind of tokenizer that is not supported, naming the part. */
export function readTokenizer(json: TokenizerJson): ReadTokenizer {
  const { model } = json
  if (model.type !== 'BPE' || model.merges === undefined) throw unsupported(`model "${model.type}"`, 'BPE with merges')
  if (model.dropout) throw unsupported('BPE dropout', 'none')
  if (model.continuing_subword_prefix || model.end_of_word_suffix) throw unsupported('marks inside words', 'none')
  const stripping = json.added_tokens.find((token) => token.lstrip || token.rstrip || token.single_word)
  if (stripping !== undefined)
    throw unsupported(`the added token "${stripping.content}" that takes white space along`, 'plain ones')

  const byteLevel = stepsOf(json.pre_tokenizer, 'pretokenizers').some((step) => step.type === 'ByteLevel')
  const common = {
    ...vocabularyOf(json, !byteLevel),
    merges: model.merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' '))),
    ...specialsAround(json),
  }
  return byteLevel ? { ...common, ...byteLevelOf(json) } : { ...common, ...sentencePieceOf(json) }
}

const unsupported = (what: string, supported: string) =>
  new ModelFileError(`${what} is not supported; supported: ${supported}`)

/** A step or a sequence of them, as a list. */
function stepsOf(step: Step | null | undefined, listKey: string): Step[] {
  if (step === null || step === undefined) return []
  if (step.type !== 'Sequence') return [step]
  const parsed = z.array(Step).safeParse(step[listKey])
  if (!parsed.success) throw new ModelFileError(`${listKey} is not a list of steps`)
  return parsed.data.flatMap((inner) => stepsOf(inner, listKey))
}

function vocabularyOf(json: TokenizerJson, hasByteTokens: boolean) {
  const tokens: string[] = []
  const tokenTypes: number[] = []
  for (const [text, id] of Object.entries(json.model.vocab)) {
    if (!Number.isInteger(id) || id < 0 || id > TOKENS_MAX)
      throw new ModelFileError(`the token "${text.slice(0, 50)}" has the id ${id}`)
    tokens[id] = text
    tokenTypes[id] = hasByteTokens && BYTE_TOKEN.test(text) ? TOKEN_TYPE.byte : TOKEN_TYPE.normal
  }
  for (const { id, content, special } of json.added_tokens) {
    tokens[id] = content
    tokenTypes[id] = special ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined
  }
  // Rows that no token was ever given.
  for (let id = 0; id < tokens.length; id++) {
    if (tokens[id] !== undefined) continue
    tokens[id] = `[UNUSED_${id}]`
    tokenTypes[id] = TOKEN_TYPE.unused
  }
  const { unk_token: unknown } = json.model
  const unknownId = unknown === null || unknown === undefined ? -1 : tokens.indexOf(unknown)
  if (unknownId < 0) return { tokens, tokenTypes }
  tokenTypes[unknownId] = TOKEN_TYPE.unknown
  return { tokens, tokenTypes, unknownId }
}

function byteLevelOf(json: TokenizerJson) {
  const normalizers = stepsOf(json.normalizer, 'normalizers')
  const other = normalizers.find((step) => step.type !== 'NFC')
  if (other !== undefined) throw unsupported(`the normalizer ${other.type} before byte-level BPE`, 'NFC')
  return {
    tokenizerModel: 'gpt2',
    pre: patternOf(stepsOf(json.pre_tokenizer, 'pretokenizers')),
    ignoreMerges: json.model.ignore_merges ?? false,
    normalisesToNfc: normalizers.length > 0,
  }
}

/** The name of the pre-tokenizer that cuts words as these steps do. */
function patternOf(steps: readonly Step[]): string {
  const parts = steps.map((step) => {
    switch (step.type) {
      case 'ByteLevel':
        if (step.add_prefix_space === true) throw unsupported('a space before byte-level text', 'none')
        return step.use_regex === false ? '' : 'gpt-2'
      case 'Digits':
        if (step.individual_digits !== true) throw unsupported('digits kept together', 'individual_digits')
        return 'digits'
      case 'Split': {
        const pattern = (step.pattern as { Regex?: unknown } | undefined)?.Regex
        const name = typeof pattern === 'string' ? preTokenizerOfPattern(pattern) : undefined
        if (name === undefined || step.behavior !== 'Isolated' || step.invert === true)
          throw unsupported(
            `the split by ${JSON.stringify(step.pattern)} (${step.behavior})`,
            'those of known families',
          )
        return name
      }
      default:
        throw unsupported(`the pre-tokenizer ${step.type}`, 'ByteLevel, Digits, Split')
    }
  })
  const names = parts.filter((part) => part !== '')
  if (names.length === 2 && names[0] === 'digits' && names[1] === 'gpt-2') return 'smollm'
  if (names.length === 1 && names[0] !== undefined && names[0] !== 'digits') return names[0]
  throw unsupported(
    `the sequence of pre-tokenizers ${steps.map((step) => step.type).join(', ')}`,
    'those of known families',
  )
}

function sentencePieceOf(json: TokenizerJson) {
  if (json.model.byte_fallback !== true)
    throw unsupported('BPE that is neither byte-level nor falls back to bytes', 'either')
  let prefix: 'none' | 'once' | 'each' = 'none'
  let replaces = false
  for (const step of stepsOf(json.normalizer, 'normalizers')) {
    if (step.type === 'Prepend' && step.prepend === SPM_SPACE) prefix = 'each'
    else if (step.type === 'Replace' && step.content === SPM_SPACE && isSpace(step.pattern)) replaces = true
    else throw unsupported(`the normalizer ${step.type} before BPE with byte fallback`, 'Prepend and Replace of spaces')
  }
  for (const step of stepsOf(json.pre_tokenizer, 'pretokenizers')) {
    const isPlain = step.type === 'Metaspace' && (step.replacement ?? SPM_SPACE) === SPM_SPACE && step.split === false
    if (!isPlain) throw unsupported(`the pre-tokenizer ${step.type} of this form`, 'Metaspace without splits')
    replaces = true
    if (step.prepend_scheme === 'always') prefix = 'each'
    else if (step.prepend_scheme === 'first') prefix = 'once'
  }
  if (!replaces) throw unsupported('text whose spaces are kept', `${SPM_SPACE} in their place`)
  return {
    tokenizerModel: 'llama',
    pre: 'default',
    ignoreMerges: json.model.ignore_merges ?? false,
    addSpacePrefix: prefix !== 'none',
    spacePrefixOnce: prefix === 'once',
  }
}

const isSpace = (pattern: unknown): boolean => (pattern as { String?: unknown } | undefined)?.String === ' '

/** What the template of the post-processor puts before and after one text; absent where it has none. */
function specialsAround(json: TokenizerJson): Pick<ModelFile, 'addBos' | 'addEos' | 'bosId'> {
  const template = stepsOf(json.post_processor, 'processors').find((step) => step.type === 'TemplateProcessing')
  if (template === undefined) return {}
  const Piece = z.object({ SpecialToken: z.object({ id: z.string() }).optional(), Sequence: z.unknown().optional() })
  const parsed = z.array(Piece).safeParse(template.single)
  if (!parsed.success) throw new ModelFileError('post_processor.single is not a template')
  const at = parsed.data.findIndex((piece) => piece.SpecialToken === undefined)
  const before = parsed.data.slice(0, at)
  const after = parsed.data.slice(at + 1)
  if (at < 0 || before.length > 1 || after.length > 1 || after.some((piece) => piece.SpecialToken === undefined))
    throw unsupported('a post-processor with more than one token before or after a text', 'one')
  const text = before[0]?.SpecialToken?.id
  const bosId = json.added_tokens.find((token) => token.content === text)?.id
  return { addBos: before.length > 0, addEos: after.length > 0, ...(bosId === undefined ? {} : { bosId }) }
}
