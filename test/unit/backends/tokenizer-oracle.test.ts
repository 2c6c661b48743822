// Our tokenizers against the whole of @huggingface/tokenizers, built from a tokenizer.json of the same vocabulary, on any
// text; and every token there and back.
import { Tokenizer as Oracle } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ModelFile } from '../../../backends/model-file.ts'
import { createTokenizer, type Tokenizer } from '../../../backends/tokens.ts'
import { mergesOfScores, PRE_TOKENIZER_STEPS, tokenizerJson } from './support/hugging-face.ts'
import { testModelFile } from './support/test-model.ts'
import { skippedWithout, VOCABULARIES } from './support/vocabularies.ts'

const TEXTS_AT_ONCE = 256
const UNLIMITED = { tokensMax: Number.POSITIVE_INFINITY }

function oracleOf(file: ModelFile): (text: string) => number[] {
  const asMerges = file.tokenizerModel === 'llama' ? { ...file, merges: mergesOfScores(file) } : file
  const json = tokenizerJson({ ...asMerges, addBos: false }, { withoutControls: true, asInRust: true })
  const oracle = new Oracle(json, {})
  return (text) => oracle.encode(text, { add_special_tokens: false }).ids
}

/** Where tokenizers differ: white space that languages disagree about, digits, contractions, marks, broken pairs. */
const PIECES = [
  ' ', '  ', '\n', '\r\n', '\t', '\u00a0', '\u0085', '\u001c', '\u001d', '\u001e', '\u001f', '\ufeff', '\u200b', '\u2028', '\u3000',
  "'s", "'S", "'\u017f", "'LL", "'ve", "don't", 'hello', ' world', 'Hello', 'HELLO', 'ẞ', 'ǅ', 'été', 'e\u0301', '\u0301',
  '1', '12', '1234567', '٣٤', '½', 'Ⅻ', '川', '日本語', 'हिन्दी', 'العربية', '한글', '\u1112\u1161\u11ab', '🙂', '👩‍👩‍👧', '\ud83d', '\ude42',
  '<think>', '<|im_end|>', '\u2581', '<0x41>', '/', '//\n', '...', '$+<=>', '_', '\0', '\u{10ffff}', '\ufdd0', 'Å', 'ﬁ',
] as const // biome-ignore format: a table
const text = fc
  .array(fc.oneof(fc.constantFrom(...PIECES), fc.string({ unit: 'binary', maxLength: 6 })), { maxLength: 12 })
  .map((pieces) => pieces.join(''))

const same = async (tokenizer: Tokenizer, oracle: (text: string) => number[], sample: string) => {
  const { ids } = await tokenizer.encodeText(sample, UNLIMITED)
  expect(ids, JSON.stringify(sample)).toEqual(oracle(sample.toWellFormed()))
}

describe.each(VOCABULARIES)('the vocabulary of $name', (source) => {
  const { load } = source
  test.skipIf(load === undefined)(
    `cuts and merges any text as the library does: ${skippedWithout(source)}`,
    async () => {
      if (load === undefined) return
      const file = await load()
      const tokenizer = createTokenizer({ ...file, addBos: false })
      const oracle = oracleOf(file)
      await fc.assert(
        fc.asyncProperty(text, (sample) => same(tokenizer, oracle, sample)),
        { numRuns: 400 },
      )
      for (const run of ['x', ' ', '\n', '1', '!', 'é', '🙂', 'ab ', '\u0085'])
        await same(tokenizer, oracle, run.repeat(700))
    },
  )

  test.skipIf(load === undefined)(
    `every token comes back from its text: ${skippedWithout(source)}`,
    async () => {
      if (load === undefined) return
      const file = await load()
      const tokenizer = createTokenizer({ ...file, addBos: false })
      const { vocabulary } = tokenizer
      const texts: string[] = []
      const silent: number[] = []
      for (const id of file.tokens.keys()) {
        const bytes = vocabulary.nameBytes(id)
        if (bytes.length === 0) silent.push(id)
        const asText = strictText(bytes)
        // A part of a character is no text of its own.
        if (asText !== undefined) texts.push(asText)
      }
      expect(silent).toEqual([])
      expect(texts.length).toBeGreaterThan(file.tokens.length / 4)
      const prefix = file.tokenizerModel === 'llama' ? ' ' : ''
      // Many at a time: each alone would measure the test.
      for (let at = 0; at < texts.length; at += TEXTS_AT_ONCE) {
        const joined = texts.slice(at, at + TEXTS_AT_ONCE).join('\n')
        const { ids } = await tokenizer.encodeText(joined, UNLIMITED)
        const back = Buffer.concat(ids.map((id) => vocabulary.nameBytes(id))).toString()
        const written = file.pre === 'qwen2' ? joined.normalize('NFC') : joined
        if (back !== prefix + written) expect(back).toBe(prefix + written)
      }
    },
    120_000,
  )
})

test.each(Object.keys(PRE_TOKENIZER_STEPS))('words are cut as %s cuts them, whatever the text', async (pre) => {
  const file = testModelFile({ pre })
  const tokenizer = createTokenizer(file)
  const oracle = oracleOf(file)
  await fc.assert(
    fc.asyncProperty(text, (sample) => same(tokenizer, oracle, sample)),
    { numRuns: 300 },
  )
})

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function strictText(bytes: Uint8Array): string | undefined {
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}
