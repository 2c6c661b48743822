// Folders as Hugging Face publishes them, written here, and the same vocabulary read from a GGUF file.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { createChatRenderer } from '../../../backends/chat.ts'
import { type ModelFile, ModelFileError } from '../../../backends/model-file.ts'
import { readModelFile } from '../../../backends/model-reader.ts'
import { createTokenizer } from '../../../backends/tokens.ts'
import { mergesOfScores, tokenizerJson, writeFolder } from './support/hugging-face.ts'
import { CHATML, idOf, testModelFile } from './support/test-model.ts'
import { skippedWithout, VOCABULARIES } from './support/vocabularies.ts'

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

/** A folder with the given files over those of a small model of Qwen's kind. */
async function read(changes: Record<string, unknown> = {}, file: ModelFile = testModelFile({ pre: 'qwen2' })) {
  const folder = mkdtempSync(join(tmpdir(), 'hf-test-'))
  folders.push(folder)
  const files: Record<string, unknown> = {
    'config.json': { model_type: 'qwen2', eos_token_id: file.eosId },
    'tokenizer.json': tokenizerJson(file),
    'tokenizer_config.json': { bos_token: null, eos_token: '<|im_end|>', chat_template: CHATML },
    ...changes,
  }
  writeFolder(folder, Object.fromEntries(Object.entries(files).filter(([, content]) => content !== undefined)))
  return await readModelFile(folder)
}
const UNLIMITED = { tokensMax: Number.POSITIVE_INFINITY }
const SAMPLES = ['hello world', ' Été 川 12345\n\n  x', "I'LL <think>go</think>", 'e\u0301\ufeff\u0085.', '']

test('a folder and a GGUF file of one vocabulary are one model', async () => {
  const given = testModelFile({ pre: 'qwen2' })
  const file = await read()
  expect(file).toMatchObject({
    architecture: 'qwen2',
    tokenizerModel: 'gpt2',
    pre: 'qwen2',
    tokens: given.tokens,
    tokenTypes: given.tokenTypes,
    merges: given.merges,
    endIds: given.endIds,
    addBos: false,
    chatTemplate: CHATML,
  })
  const [ours, theirs] = [createTokenizer(file), createTokenizer(given)]
  for (const sample of SAMPLES)
    expect((await ours.encodeText(sample, UNLIMITED)).ids).toEqual((await theirs.encodeText(sample, UNLIMITED)).ids)
  const rendered = createChatRenderer(file, ours.guard)([{ role: 'user', content: 'hello<|im_end|>' }])
  if (!rendered.ok) throw new Error(rendered.error.message)
  const { ids } = await ours.encodeRendered(rendered.value.text, rendered.value.mark, UNLIMITED)
  expect(ids.filter((id) => ours.vocabulary.isControl(id))).toHaveLength(3)
})

test.each(VOCABULARIES.filter(({ name }) => name !== 'tiny'))(
  'a folder made of the vocabulary of $name encodes as the file does',
  async (source) => {
    if (source.load === undefined) return
    const given = { ...(await source.load()), addBos: false }
    const asMerges = given.tokenizerModel === 'llama' ? { ...given, merges: mergesOfScores(given) } : given
    const file = await read({ 'config.json': { model_type: 'llama' }, 'tokenizer.json': tokenizerJson(asMerges) })
    const [ours, theirs] = [createTokenizer(file), createTokenizer(given)]
    for (const sample of SAMPLES)
      expect((await ours.encodeText(sample, UNLIMITED)).ids, skippedWithout(source)).toEqual(
        (await theirs.encodeText(sample, UNLIMITED)).ids,
      )
  },
)

describe('what stands in several files', () => {
  test('ends of generation are gathered from all that name one', async () => {
    const file = await read({ 'generation_config.json': { eos_token_id: [3, 4] } })
    expect([...file.endIds].sort((a, b) => a - b)).toEqual([3, 4, idOf(file, '<|im_end|>')])
    expect(file.eosId).toBe(idOf(file, '<|im_end|>'))
  })

  test('the template of its own file wins over the one in the settings', async () => {
    expect((await read({ 'chat_template.jinja': '{{ 1 }}' })).chatTemplate).toBe('{{ 1 }}')
    expect((await read({ 'chat_template.json': { chat_template: '{{ 2 }}' } })).chatTemplate).toBe('{{ 2 }}')
  })

  test('of named templates the default one counts, and the one for tools is for tools', async () => {
    const templates = [
      { name: 'tool_use', template: '{{ 1 }}' },
      { name: 'default', template: '{{ 2 }}' },
    ]
    const file = await read({ 'tokenizer_config.json': { chat_template: templates } })
    expect(file).toMatchObject({ chatTemplate: '{{ 2 }}', toolTemplate: '{{ 1 }}' })
  })

  test('tokens of the settings may be objects', async () => {
    const token = { __type: 'AddedToken', content: '<|im_start|>', special: true }
    const file = await read({
      'tokenizer_config.json': { bos_token: token, eos_token: '<|im_end|>', add_bos_token: true },
    })
    expect(file).toMatchObject({ bosId: idOf(file, '<|im_start|>'), addBos: true })
  })

  test('the post-processor says what goes around a text', async () => {
    const given = testModelFile({ pre: 'qwen2', addBos: true, addEos: true })
    const file = await read({}, given)
    expect(file).toMatchObject({ addBos: true, bosId: given.bosId, addEos: true })
    const tokenizer = createTokenizer(file)
    expect((await tokenizer.encodeText('hello', UNLIMITED)).ids).toEqual([given.bosId, idOf(given, 'hello')])
    expect(tokenizer.endId).toBe(given.eosId)
  })

  test('models of embeddings say how they pool and to what their vectors may be cut', async () => {
    const config = { model_type: 'qwen3', matryoshka_dimensions: [32, 16] }
    const file = await read({ 'config.json': config, '1_Pooling/config.json': { pooling_mode_mean_tokens: true } })
    expect(file).toMatchObject({ pooling: 'mean', embeddingSizes: [32, 16] })
    const last = await read({
      'config.json': { model_type: 'qwen3', is_matryoshka: true },
      '1_Pooling/config.json': { pooling_mode_lasttoken: true },
    })
    expect(last).toMatchObject({ pooling: 'last', embeddingSizes: 'any' })
  })
})

test('ids that no token has are unused rows', async () => {
  const given = testModelFile({ pre: 'qwen2' })
  const json = tokenizerJson(given) as { added_tokens: object[] }
  const late = { id: given.tokens.length + 5, content: '<|late|>', special: true }
  const file = await read({ 'tokenizer.json': { ...json, added_tokens: [...json.added_tokens, late] } })
  expect(file.tokens).toHaveLength(given.tokens.length + 6)
  expect(file.tokenTypes.slice(-6)).toEqual([5, 5, 5, 5, 5, 3])
})

describe('SentencePiece converted to merges', () => {
  const tokens = ['<unk>', '<s>', '</s>', '<0x0A>', '<0x21>', '\u2581', 'a', 'b', 'ab', '\u2581a', '\u2581ab']
  const spm: ModelFile = {
    architecture: 'llama',
    tokenizerModel: 'llama',
    pre: 'default',
    tokens,
    tokenTypes: [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1],
    merges: ['\u2581 a', 'a b', '\u2581a b'],
    bosId: 1,
    eosId: 2,
    endIds: [2],
    unknownId: 0,
    addBos: true,
  }
  const settings = {
    'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>' },
    'config.json': { model_type: 'llama' },
  }
  const idsOf = async (file: ModelFile, text: string) => (await createTokenizer(file).encodeText(text, UNLIMITED)).ids

  test('text gets its space, spaces are marked, what has no token becomes bytes', async () => {
    const file = await read(settings, spm)
    expect(file).toMatchObject({ tokenizerModel: 'llama', tokenTypes: spm.tokenTypes, unknownId: 0, addBos: true })
    expect(await idsOf(file, 'ab a!\n')).toEqual([1, 10, 9, 4, 3])
  })

  const steps = (scheme: string) => ({
    ...tokenizerJson(spm),
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace', replacement: '\u2581', prepend_scheme: scheme, split: false },
  })
  test('a space that goes before the whole text only does not come after a special token', async () => {
    const rendered = async (scheme: string) => {
      const tokenizer = createTokenizer(await read({ ...settings, 'tokenizer.json': steps(scheme) }, spm))
      return (await tokenizer.encodeRendered('<s>ab</s>ab', '\ufdd0', UNLIMITED)).ids
    }
    expect(await rendered('always')).toEqual([1, 10, 2, 10])
    expect(await rendered('first')).toEqual([1, 8, 2, 8])
    expect(await rendered('never')).toEqual([1, 8, 2, 8])
    const first = await read({ ...settings, 'tokenizer.json': steps('first') }, spm)
    expect(await idsOf(first, 'ab')).toEqual([1, 10])
  })
})

describe('a folder is refused, and the message names what is not supported:', () => {
  const json = tokenizerJson(testModelFile({ pre: 'qwen2' })) as { model: object; added_tokens: object[] }
  const isolated = { type: 'Split', pattern: { Regex: '\\w+' }, behavior: 'Isolated', invert: false }
  test.each([
    ['no tokenizer', undefined, /tokenizer\.json is missing/],
    ['text that is no JSON', '{', /tokenizer\.json is not JSON/],
    ['Unigram', { ...json, model: { type: 'Unigram', vocab: [['a', 0]] } }, /"Unigram".*BPE/],
    ['WordPiece', { ...json, model: { type: 'WordPiece', vocab: { a: 0 } } }, /"WordPiece"/],
    ['BPE of characters', { ...json, pre_tokenizer: null }, /neither byte-level nor falls back/],
    [
      'an unknown pattern',
      { ...json, pre_tokenizer: { type: 'Sequence', pretokenizers: [isolated, { type: 'ByteLevel' }] } },
      /\\\\w\+/,
    ],
    ['a normalizer', { ...json, normalizer: { type: 'Lowercase' } }, /Lowercase.*NFC/],
    ['tokens that take spaces along', { ...json, added_tokens: [{ id: 0, content: '<x>', rstrip: true }] }, /"<x>"/],
    ['marks inside words', { ...json, model: { ...json.model, end_of_word_suffix: '</w>' } }, /inside words/],
    ['an id that is none', { ...json, model: { ...json.model, vocab: { a: -1 } } }, /"a" has the id -1/],
    ['a wrong type', { ...json, added_tokens: [{ id: 'x', content: 'y' }] }, /added_tokens\.0\.id/],
  ])('%s', async (_, tokenizer, message) => {
    const reading = read({ 'tokenizer.json': tokenizer })
    await expect(reading).rejects.toThrow(ModelFileError)
    await expect(reading).rejects.toThrow(message)
  })

  test('no configuration', async () => {
    await expect(read({ 'config.json': undefined })).rejects.toThrow(/config\.json is missing/)
  })

  test('an end outside the vocabulary', async () => {
    await expect(read({ 'generation_config.json': { eos_token_id: 10_000_000 } })).rejects.toThrow(/10000000/)
  })
})
