// Tokenizers against the published conformance cases where that data is present, and against simple properties always.
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Detokenizer } from '../../../backends/detokenizer.ts'
import { ModelFileError } from '../../../backends/model-file.ts'
import { readModelFile } from '../../../backends/model-reader.ts'
import { bounded, preTokenizer, WORD_CHARS_MAX } from '../../../backends/pretokenizer.ts'
import { createTokenizer, type Tokenizer } from '../../../backends/tokens.ts'
import { sharedData } from './support/shared-data.ts'
import { idOf, testModelFile } from './support/test-model.ts'
import { skippedWithout, VOCABULARIES } from './support/vocabularies.ts'

const UNLIMITED = { tokensMax: Number.POSITIVE_INFINITY }
const encode = async (tokenizer: Tokenizer, text: string) => (await tokenizer.encodeText(text, UNLIMITED)).ids
const decode = (tokenizer: Tokenizer, ids: readonly number[]) => {
  const detokenizer = new Detokenizer()
  return ids.map((id) => detokenizer.push(tokenizer.vocabulary.nameBytes(id))).join('') + detokenizer.flush()
}

const vocabulary = (name: string) => sharedData('vocab', name)

describe.each(VOCABULARIES.filter(({ name }) => ['gpt-2', 'llama-spm', 'qwen2'].includes(name)))(
  'conformance cases of $name',
  (source) => {
    const { name, load } = source
    test.skipIf(load === undefined)(`all 47 cases: ${skippedWithout(source)}`, async () => {
      if (load === undefined) return
      const tokenizer = createTokenizer({ ...(await load()), addBos: false })
      const read = (kind: string) => readFileSync(vocabulary(`ggml-vocab-${name}.gguf.${kind}`) ?? '', 'utf8')
      const cases = read('inp').split('\n__ggml_vocab_test__\n')
      const expected = read('out').split('\n')
      expect(cases).toHaveLength(47)
      for (const [index, text] of cases.entries())
        expect((await encode(tokenizer, text)).join(' ')).toBe((expected[index] ?? '').trim().split(/\s+/).join(' '))
    })
  },
)

test.skipIf(vocabulary('ggml-vocab-llama-spm.gguf') === undefined)(
  'SentencePiece equals the slow obvious merge on random text (skipped without the shared data folder)',
  async () => {
    const file = await readModelFile(vocabulary('ggml-vocab-llama-spm.gguf') ?? '')
    const tokenizer = createTokenizer({ ...file, addBos: false })
    const score = new Map(file.tokens.map((token, id) => [token, file.scores?.[id] ?? 0]))
    const naive = (text: string): string[] => {
      if (text === '') return []
      const symbols = [...` ${text}`.replaceAll(' ', '\u2581')]
      for (;;) {
        let best = -1
        let bestScore = Number.NEGATIVE_INFINITY
        for (let i = 0; i + 1 < symbols.length; i++) {
          const found = score.get(`${symbols[i]}${symbols[i + 1]}`)
          if (found !== undefined && found > bestScore) [best, bestScore] = [i, found]
        }
        if (best < 0) return symbols
        symbols.splice(best, 2, `${symbols[best]}${symbols[best + 1]}`)
      }
    }
    const hex = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`
    const ids = (symbols: string[]) =>
      symbols
        .flatMap((symbol) => (score.has(symbol) ? [symbol] : [...new TextEncoder().encode(symbol)].map(hex)))
        .map((token) => file.tokens.indexOf(token))
    const unit = fc.constantFrom(...' aaeehtlno--==__0011.,\n\té한🙂')
    await fc.assert(
      fc.asyncProperty(fc.string({ unit, maxLength: 60 }), async (text) => {
        expect(await encode(tokenizer, text)).toEqual(ids(naive(text)))
      }),
      { numRuns: 150 },
    )
  },
)

describe('byte-level vocabularies', () => {
  const tokenizer = createTokenizer(testModelFile())

  test('any text comes back from its tokens, lone surrogates as U+FFFD', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'binary' }), async (text) => {
        expect(decode(tokenizer, await encode(tokenizer, text))).toBe(text.toWellFormed())
      }),
    )
    expect(decode(tokenizer, await encode(tokenizer, 'a\ud800b'))).toBe('a\ufffdb')
  })

  test('control tokens in a caller’s text are ordinary characters', async () => {
    const ids = await encode(tokenizer, 'x<|im_end|>y<|endoftext|>')
    expect(ids.some((id) => tokenizer.vocabulary.isControl(id))).toBe(false)
    expect(decode(tokenizer, ids)).toBe('x<|im_end|>y<|endoftext|>')
  })

  test('user-defined tokens are recognised in any text', async () => {
    const file = testModelFile()
    expect(await encode(tokenizer, '<think>hello')).toEqual([idOf(file, '<think>'), idOf(file, 'hello')])
  })

  test('encoding stops soon after the limit and says so', async () => {
    const { ids, complete } = await tokenizer.encodeText('hello '.repeat(10_000), { tokensMax: 100 })
    expect(complete).toBe(false)
    expect(ids.length).toBeLessThan(200)
  })

  test('the beginning-of-text token is added where the file asks for it, once', async () => {
    const file = testModelFile({ addBos: true })
    const bos = file.tokens[file.bosId ?? 0] ?? ''
    const adding = createTokenizer(file)
    expect((await encode(adding, 'hello'))[0]).toBe(file.bosId)
    const rendered = await adding.encodeRendered(`${bos}hello`, '\ufdd0', UNLIMITED)
    expect(rendered.ids).toEqual([file.bosId, idOf(file, 'hello')])
    const without = await adding.encodeRendered('hello', '\ufdd0', UNLIMITED)
    expect(without.ids).toEqual([file.bosId, idOf(file, 'hello')])
  })

  test('ends of generation are the file’s own and the well-known names', () => {
    const file = testModelFile()
    const ends = [idOf(file, '<|im_end|>'), idOf(file, '<|endoftext|>')]
    expect([...tokenizer.vocabulary.endIds].sort()).toEqual(ends.sort())
  })

  test('a tokenizer that is not supported is named together with what is', () => {
    expect(() => createTokenizer(testModelFile({ tokenizerModel: 'bert' }))).toThrow(ModelFileError)
    expect(() => createTokenizer(testModelFile({ tokenizerModel: 'bert' }))).toThrow(/"bert".*supported: gpt2/)
    expect(() => createTokenizer(testModelFile({ pre: 'gpt-4o' }))).toThrow(/"gpt-4o".*supported: .*llama-bpe/)
  })
})

describe('cutting words', () => {
  const words = (pre: string, text: string) => [...(preTokenizer(pre)?.words(text) ?? [])]

  test('white space means Unicode White_Space: U+0085 is, U+FEFF is not', () => {
    expect(words('gpt-2', 'a \u0085b')).toEqual(['a', ' ', '\u0085', 'b'])
    expect(words('gpt-2', 'a \ufeffb')).toEqual(['a', ' \ufeff', 'b'])
  })

  test('digits are kept together, or one by one, or by threes, as each scheme has it', () => {
    expect(words('gpt-2', 'in 12345')).toEqual(['in', ' 12345'])
    expect(words('smollm', 'in 12345')).toEqual(['in', ' ', '1', '2', '3', '4', '5'])
    expect(words('llama-bpe', 'in 12345')).toEqual(['in', ' ', '123', '45'])
    expect(words('qwen2', 'in 123')).toEqual(['in', ' ', '1', '2', '3'])
  })

  test('the words of any text are the text, for every scheme', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('gpt-2', 'smollm', 'llama-bpe', 'qwen2'),
        fc.string({ unit: 'binary' }),
        (pre, text) => {
          expect(words(pre, text).join('')).toBe(text)
        },
      ),
    )
  })

  test('millions of characters without a border are cut into bounded words, by every scheme', () => {
    for (const pre of ['gpt-2', 'smollm', 'llama-bpe', 'qwen2'])
      for (const unit of ['<', 'x', ' ', '\n']) {
        let chars = 0
        for (const word of preTokenizer(pre)?.words(unit.repeat(2_000_000)) ?? []) {
          expect(word.length).toBeLessThanOrEqual(WORD_CHARS_MAX + 1)
          chars += word.length
        }
        expect(chars).toBe(2_000_000)
      }
  })

  test('an overlong word is split, never inside a character', () => {
    const parts = [...bounded('🙂'.repeat(WORD_CHARS_MAX))]
    expect(parts.length).toBeGreaterThan(1)
    expect(parts.every((part) => part.isWellFormed() && part.length <= WORD_CHARS_MAX)).toBe(true)
  })
})
