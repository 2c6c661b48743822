// Text → token ids, built from the model file's own vocabulary. Owns the choice of algorithm and the treatment of
// special tokens; words are cut by pretokenizer.ts, byte pairs are merged by @huggingface/tokenizers.
import { BPE } from '@huggingface/tokenizers'
import { createGuard, type Guard } from './guard.ts'
import { type ModelFile, ModelFileError, TOKEN_TYPE } from './model-file.ts'
import { bounded, PRE_TOKENIZERS, preTokenizer } from './pretokenizer.ts'
import { BYTE_ALPHABET, createVocabulary, type Vocabulary } from './vocabulary.ts'
import { WordCache } from './word-cache.ts'

const SPM_SPACE = '\u2581'
/** Work between two rests: long prompts must not hold up the streams that share this thread. */
const TURN_MS = 4
/** Text between two looks at the clock. */
const CHARS_PER_LOOK = 256

export type Tokenizer = {
  vocabulary: Vocabulary
  guard: Guard
  /** Whether prompts begin with the beginning-of-text token. */
  addsBos: boolean
  /** What a text to be embedded ends with, where the model was trained so. */
  endId?: number
  /** A caller's own text: control tokens in it are ordinary characters. */
  encodeText: (text: string, limits: EncodeLimits) => Promise<Encoding>
  /** A template's output whose callers' texts were protected by `guard` with `mark`. */
  encodeRendered: (rendered: string, mark: string, limits: EncodeLimits) => Promise<Encoding>
}

/** Encoding stops once it has more than `tokensMax` tokens: the prompt is refused anyway. */
export type EncodeLimits = { tokensMax: number }
export type Encoding = { ids: number[]; complete: boolean }

/** How one family of vocabularies turns ordinary text into words, and words into ids. */
type Family = {
  words: (text: string, first: boolean) => Generator<string>
  /** A word as the vocabulary writes it. */
  spell: (word: string) => string
  model: BPE
  addBosDefault: boolean
}

/** @throws ModelFileError for a tokenizer that is not supported, naming what is. */
export function createTokenizer(file: ModelFile): Tokenizer {
  const vocabulary = createVocabulary(file)
  const family = file.tokenizerModel === 'gpt2' ? byteLevelFamily(file) : sentencePieceFamily(file)
  const guard = createGuard(vocabulary.controlTexts)
  const userDefined = createGuard(vocabulary.userDefinedTexts)
  const prefixesEach = file.spacePrefixOnce !== true
  const addsBos = vocabulary.bosId !== undefined && (file.addBos ?? family.addBosDefault)

  const cache = new WordCache((word) =>
    family.model.encode([family.spell(word)]).flatMap((token) => vocabulary.idOf.get(token) ?? []),
  )

  async function encodePlain(text: string, first: boolean, into: number[], limits: EncodeLimits): Promise<boolean> {
    let chars = 0
    let turnEndsMs = performance.now() + TURN_MS
    let afterSpecial = first
    for (const piece of userDefined.split(text, '')) {
      const id = piece.control ? vocabulary.idOf.get(piece.text) : undefined
      if (id !== undefined) {
        into.push(id)
        afterSpecial = prefixesEach
        continue
      }
      for (const word of family.words(piece.text, afterSpecial)) {
        for (const tokenId of cache.ids(word)) into.push(tokenId)
        if (into.length > limits.tokensMax) return false
        chars += word.length
        if (chars < CHARS_PER_LOOK) continue
        chars = 0
        if (performance.now() < turnEndsMs) continue
        await new Promise((resolve) => setImmediate(resolve))
        turnEndsMs = performance.now() + TURN_MS
      }
      afterSpecial = false
    }
    return true
  }

  return {
    vocabulary,
    guard,
    addsBos,
    ...(file.addEos === true && file.eosId !== undefined ? { endId: file.eosId } : {}),
    encodeText: async (text, limits) => {
      const ids: number[] = addsBos && vocabulary.bosId !== undefined ? [vocabulary.bosId] : []
      const complete = await encodePlain(text.toWellFormed(), true, ids, limits)
      return { ids, complete }
    },
    encodeRendered: async (rendered, mark, limits) => {
      const pieces = guard.split(rendered.toWellFormed(), mark)
      const ids: number[] = []
      const firstId = pieces[0]?.control === true ? vocabulary.idOf.get(pieces[0].text) : undefined
      // Templates that write the beginning-of-text token themselves must not get a second one.
      if (addsBos && vocabulary.bosId !== undefined && firstId !== vocabulary.bosId) ids.push(vocabulary.bosId)
      let first = true
      for (const piece of pieces) {
        const id = piece.control ? vocabulary.idOf.get(piece.text) : undefined
        if (id !== undefined) ids.push(id)
        else if (!(await encodePlain(piece.text, first, ids, limits))) return { ids, complete: false }
        first = piece.control && prefixesEach
      }
      return { ids, complete: true }
    },
  }
}

const vocabularyObject = (tokens: readonly string[]): Record<string, number> =>
  Object.fromEntries(tokens.map((token, id) => [token, id]))

function byteLevelFamily(file: ModelFile): Family {
  const pre = preTokenizer(file.pre)
  if (pre === undefined)
    throw new ModelFileError(
      `tokenizer.ggml.pre "${file.pre}" is not supported; supported: ${PRE_TOKENIZERS.join(', ')}`,
    )
  if (file.merges === undefined) throw new ModelFileError('metadata tokenizer.ggml.merges is missing')
  const merges = file.merges.map(mergePair)
  const vocab = vocabularyObject(file.tokens)
  const model = new BPE({ type: 'BPE', vocab, merges, ignore_merges: file.ignoreMerges ?? pre.ignoreMerges })
  const normalises = file.normalisesToNfc ?? pre.normalisesToNfc
  const encoder = new TextEncoder()
  return {
    model,
    addBosDefault: pre.addBosDefault,
    words: (text) => pre.words(normalises ? text.normalize('NFC') : text),
    spell: (word) => {
      let bytes = ''
      for (const byte of encoder.encode(word)) bytes += BYTE_ALPHABET[byte]
      return bytes
    },
  }
}

function mergePair(merge: string): [string, string] {
  const space = merge.indexOf(' ', 1)
  if (space < 0) throw new ModelFileError(`the merge "${merge}" is not a pair`)
  return [merge.slice(0, space), merge.slice(space + 1)]
}

// SentencePiece merges the adjacent pair whose union has the best score, leftmost on ties. That is byte-pair merging
// where every way to split a token is a merge and all ways to make equally scored tokens share one rank.
function rankedMerges(file: ModelFile, scores: readonly number[]): { merges: [string, string][]; ranks: number[] } {
  const { tokens, tokenTypes } = file
  const mergeable = tokens.map((token, id) => ({ token, score: scores[id] ?? 0, type: tokenTypes[id] }))
  const known = new Set(tokens)
  const ranked = mergeable
    .filter((entry) => entry.type === TOKEN_TYPE.normal || entry.type === TOKEN_TYPE.userDefined)
    .sort((a, b) => b.score - a.score)
  const merges: [string, string][] = []
  const ranks: number[] = []
  let rank = 0
  let lastScore: number | undefined
  for (const { token, score } of ranked) {
    if (score !== lastScore) rank++
    lastScore = score
    const characters = [...token]
    for (let at = 1; at < characters.length; at++) {
      const left = characters.slice(0, at).join('')
      const right = characters.slice(at).join('')
      // A single character need not be a token of its own to be merged.
      if ((at > 1 && !known.has(left)) || (characters.length - at > 1 && !known.has(right))) continue
      merges.push([left, right])
      ranks.push(rank)
    }
  }
  return { merges, ranks }
}

function sentencePieceFamily(file: ModelFile): Family {
  const { tokens, tokenTypes } = file
  if (file.scores === undefined && file.merges === undefined)
    throw new ModelFileError('metadata tokenizer.ggml.scores is missing')
  const ranked = file.scores === undefined ? undefined : rankedMerges(file, file.scores)
  const merges = ranked?.merges ?? (file.merges ?? []).map(mergePair)
  const unknown = file.unknownId === undefined ? undefined : tokens[file.unknownId]
  const model = new BPE({
    type: 'BPE',
    vocab: vocabularyObject(tokens),
    merges,
    ignore_merges: file.ignoreMerges ?? false,
    byte_fallback: true,
    ...(unknown === undefined ? {} : { unk_token: unknown }),
  })
  // The library ranks merges by position; equal scores must tie so that the leftmost pair wins.
  ranked?.ranks.forEach((rank, index) => {
    model.bpe_ranks.set(JSON.stringify(merges[index]), rank)
  })
  // Where no token has a space after another character, no merge crosses a space that follows one.
  const cuttable = !tokens.some((token, id) => /[^\u2581]\u2581/u.test(token) && tokenTypes[id] === TOKEN_TYPE.normal)
  const addSpace = file.addSpacePrefix ?? true
  return {
    model,
    addBosDefault: true,
    spell: (word) => word,
    words: function* (text, first) {
      if (text === '') return
      const spaced = (addSpace && first ? ` ${text}` : text).replaceAll(' ', SPM_SPACE)
      if (!cuttable) {
        yield* bounded(spaced)
        return
      }
      for (const match of spaced.matchAll(/\u2581*[^\u2581]+|\u2581+/gu)) yield* bounded(match[0])
    },
  }
}
