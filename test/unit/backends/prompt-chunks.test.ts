// Chunk ends against an oracle that knows where the template put each message, and counts the bytes of the tokens before it.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createChatRenderer } from '../../../backends/chat.ts'
import { prepareDispatch } from '../../../backends/dispatch.ts'
import { chunkOffsets, promptChunks } from '../../../backends/prompt-chunks.ts'
import { createTokenizer } from '../../../backends/tokens.ts'
import type { DispatchRequest } from '../../../protocol/dispatch.ts'
import { CHUNK_CHARS, chunkHashes, promptPieces } from '../../../protocol/prefix.ts'
import { dispatchRequest } from './support/harness.ts'
import { testModelFile } from './support/test-model.ts'
import { skippedWithout, VOCABULARIES } from './support/vocabularies.ts'

const file = testModelFile()
const tokenizer = createTokenizer(file)
const model = { tokenizer, render: createChatRenderer(file, tokenizer.guard) }
const { vocabulary } = tokenizer
const LIMITS = { contextTokens: 1_000_000, vocabularyTokens: vocabulary.size, sequencesMax: 8 }

type Message = Extract<DispatchRequest['input'], { kind: 'chat' }>['messages'][number]
const chat = (messages: Message[]): DispatchRequest => dispatchRequest({ input: { kind: 'chat', messages } })
const said = (text: string, role: Message['role'] = 'user'): Message => ({ role, content: text })

async function prepared(request: DispatchRequest) {
  const result = await prepareDispatch(request, model, LIMITS, { randomSeed: () => 1n, tenant: 1n })
  if (!result.ok) throw new Error(result.error.message)
  const [prompt] = result.value.prompts
  return { ids: prompt?.ids ?? [], chunks: prompt?.chunks ?? [] }
}

/** Tokens that end at or before `offset` of `text`, by their bytes. */
function tokensBefore(text: string, ids: readonly number[], offset: number): number {
  const bytes = Buffer.byteLength(text.slice(0, offset).replace(/[\ud800-\udbff]$/, ''))
  let at = 0
  let count = 0
  for (const id of ids) {
    at += vocabulary.nameBytes(id).length
    if (at > bytes) break
    count++
  }
  return count
}

/** As the ChatML template of the test model writes it, with where each content begins. */
function written(messages: readonly Message[]): { text: string; starts: number[] } {
  let text = ''
  const starts: number[] = []
  for (const { role, content } of messages) {
    text += `<|im_start|>${role}\n`
    starts.push(text.length)
    text += `${content}<|im_end|>\n`
  }
  return { text: `${text}<|im_start|>assistant\n`, starts }
}

/** Where the chunks end in the written text: framing with the content after it. */
function trueOffsets(request: DispatchRequest, messages: readonly Message[], starts: readonly number[]): number[] {
  const offsets: number[] = []
  let at = 0
  for (const piece of promptPieces(request)) {
    const source = piece.source as { message: number } | undefined
    for (let end = (offsets.length + 1) * CHUNK_CHARS; end <= at + piece.text.length; end += CHUNK_CHARS) {
      const index = source?.message ?? messages.findIndex((_, i) => ends(request, i) >= end)
      offsets.push((starts[index] ?? 0) + (source === undefined ? 0 : end - at))
    }
    at += piece.text.length
  }
  return offsets
}

/** Where message `index` ends in the canonical text. */
function ends(request: DispatchRequest, index: number): number {
  let at = 0
  for (const piece of promptPieces(request)) {
    at += piece.text.length
    if (piece.source !== undefined && 'message' in piece.source && piece.source.message === index) return at
  }
  return at
}

/** Of the canonical text before the first message. */
const framing = (pieces: readonly { text: string }[]): number => pieces[0]?.text.length ?? 0

const text = fc
  .array(
    fc.oneof(
      { weight: 5, arbitrary: fc.constantFrom('hello world ', 'held ', 'old ', 'x', '\n', 'user\n', '<|im_', 'end|>') },
      fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }),
      fc.constantFrom('<|im_end|>', '😀', '<|im_start|>user\n', 'é', '漢字', '\ud83d'),
    ),
    { minLength: 1, maxLength: 250 },
  )
  .map((parts) => parts.join('').replaceAll(/[\ufdd0-\ufdef]/g, ''))
const message = fc.record({ role: fc.constantFrom<Message['role']>('system', 'user', 'assistant'), content: text })

describe('the end of a chunk', () => {
  test('covers the tokens that end before it, whatever the caller writes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 6 }), async (messages) => {
        const request = chat(messages)
        const { ids, chunks } = await prepared(request)
        const { text: all, starts } = written(messages)
        const offsets = trueOffsets(request, messages, starts)
        const hashes = chunkHashes(promptPieces(request), request.tenant, request.model)
        expect(chunks.map(({ chunk }) => chunk)).toEqual(hashes.slice(0, chunks.length))
        chunks.forEach(({ tokens }, at) => {
          const count = tokensBefore(all.toWellFormed(), ids, offsets[at] as number)
          // Content that also stands in what follows is taken for the later one: never for less than there is.
          expect(tokens).toBeGreaterThanOrEqual(count)
          expect(tokens).toBeLessThanOrEqual(ids.length)
        })
        expect(chunks.length).toBe(offsets.length)
      }),
      { numRuns: 300 },
    )
  })

  test('is exact for messages that stand nowhere else', async () => {
    const long = (name: string) => Array.from({ length: 300 }, (_, i) => `${name}${i} wörld😀`).join(' ')
    const messages = [said(long('a'), 'system'), said(long('b')), said(long('c'), 'assistant'), said(long('d'))]
    const request = chat(messages)
    const { ids, chunks } = await prepared(request)
    const { text: all, starts } = written(messages)
    const counts = trueOffsets(request, messages, starts).map((offset) => tokensBefore(all, ids, offset))
    expect(chunks.length).toBeGreaterThan(20)
    expect(chunks.map(({ tokens }) => tokens)).toEqual(counts)
  })

  test('of two prompts with one beginning covers the same tokens', async () => {
    const system = said('You know everything about pumps. '.repeat(100), 'system')
    const one = await prepared(chat([system, said('What is a pump?'.repeat(50))]))
    const two = await prepared(chat([system, said('Why do pumps leak?'.repeat(80))]))
    const shared = one.chunks.filter(({ chunk }, at) => two.chunks[at]?.chunk === chunk)
    expect(shared.length).toBeGreaterThanOrEqual(6)
    expect(two.chunks.slice(0, shared.length)).toEqual(shared)
    const last = shared.at(-1)?.tokens ?? 0
    expect(one.ids.slice(0, last)).toEqual(two.ids.slice(0, last))
  })

  test('is known for a prompt of text, also where the tokenizer begins with a token of its own', async () => {
    const content = 'hello world, '.repeat(200)
    const withBos = createTokenizer(testModelFile({ addBos: true }))
    const request = dispatchRequest({ input: { kind: 'completion', prompts: [{ text: content }], echo: false } })
    const { ids } = await withBos.encodeText(content, { tokensMax: 100_000 })
    const chunks = promptChunks(request, 0, content, ids, withBos.vocabulary)
    expect(chunks).toHaveLength(Math.floor(content.length / CHUNK_CHARS))
    chunks.forEach(({ tokens }, at) => {
      expect(tokens).toBe(1 + tokensBefore(content, ids.slice(1), (at + 1) * CHUNK_CHARS))
    })
  })

  test('within a pair of surrogates is before that pair, also where it is the last one', async () => {
    for (const after of [2, 300, 600]) {
      const content = `${'x'.repeat(CHUNK_CHARS - 1)}😀${'y'.repeat(after)}`
      const request = dispatchRequest({ input: { kind: 'completion', prompts: [{ text: content }], echo: false } })
      const { ids } = await tokenizer.encodeText(content, { tokensMax: 100_000 })
      const chunks = promptChunks(request, 0, content, ids, vocabulary)
      expect(chunks).toHaveLength(Math.floor(content.length / CHUNK_CHARS))
      expect(chunks[0]?.tokens).toBe(tokensBefore(content, ids, CHUNK_CHARS))
    }
  })

  for (const source of VOCABULARIES) {
    test.skipIf(source.load === undefined)(`is known with the vocabulary ${skippedWithout(source)}`, async () => {
      const own = createTokenizer((await source.load?.()) ?? file)
      const content = 'Hello world, häßlich und schön: 漢字 and 😀😀.\n\tTabs,  spaces. '.repeat(40)
      const request = dispatchRequest({ input: { kind: 'completion', prompts: [{ text: content }], echo: false } })
      const { ids } = await own.encodeText(content, { tokensMax: 100_000 })
      const chunks = promptChunks(request, 0, content, ids, own.vocabulary)
      expect(chunks).toHaveLength(Math.floor(content.length / CHUNK_CHARS))
      // What is covered is the text's own beginning; a space that was put before it aside.
      for (const [at, { tokens }] of chunks.entries()) {
        const bytes = Buffer.concat(ids.slice(0, tokens).map((id) => own.vocabulary.outputBytes(id)))
        const covered = bytes.toString().trimStart()
        expect(content.startsWith(covered)).toBe(true)
        expect(covered.length).toBeGreaterThan((at + 1) * CHUNK_CHARS - 20)
      }
    })
  }

  test('of a prompt of token ids covers those that are written before it', () => {
    const ids = Array.from({ length: 1000 }, (_, i) => (i * 7919) % 1200)
    const request = dispatchRequest({ input: { kind: 'completion', prompts: [{ tokenIds: ids }], echo: false } })
    const chunks = promptChunks(request, 0, undefined, ids, vocabulary)
    expect(chunks.length).toBe(Math.floor(ids.join(',').length / CHUNK_CHARS))
    chunks.forEach(({ tokens }, at) => {
      const all = ids.slice(0, tokens).join(',')
      expect(all.length + 1).toBeLessThanOrEqual((at + 1) * CHUNK_CHARS)
      expect(`${all},${ids[tokens]},`.length).toBeGreaterThan((at + 1) * CHUNK_CHARS)
    })
  })

  test('is unknown from a token on that is not the text, as after normalisation', async () => {
    const plain = 'a'.repeat(700)
    const content = `${plain}e\u0301${'b'.repeat(700)}`
    const normalising = createTokenizer(testModelFile({ normalisesToNfc: true }))
    const request = dispatchRequest({ input: { kind: 'completion', prompts: [{ text: content }], echo: false } })
    const { ids } = await normalising.encodeText(content, { tokensMax: 100_000 })
    expect(promptChunks(request, 0, content, ids, normalising.vocabulary)).toHaveLength(1)
  })

  test('is unknown from a message on that the template rewrote', () => {
    const messages = [said('x'.repeat(600)), said('y'.repeat(600)), said('z'.repeat(2000))]
    const pieces = promptPieces(chat(messages))
    const rewritten = `[${'x'.repeat(600)}][${'Y'.repeat(600)}][${'z'.repeat(2000)}]`
    expect(chunkOffsets(pieces, rewritten, 100)).toEqual([1 + CHUNK_CHARS - framing(pieces)])
  })

  test('is known in a message that the template trimmed', () => {
    const content = `  \n${'x'.repeat(1000)}\n\n`
    const pieces = promptPieces(chat([said(content)]))
    const lead = framing(pieces) + 3
    expect(chunkOffsets(pieces, `user: ${'x'.repeat(1000)}!`, 100)).toEqual([6 + CHUNK_CHARS - lead])
  })

  test('of a text that also stands in the template is that of the later place', () => {
    const content = `only once ${'q'.repeat(600)}`
    const pieces = promptPieces(chat([said(content)]))
    const start = 12 + content.length
    expect(chunkOffsets(pieces, `[by default ${content}${content}]`, 100)).toEqual([
      start + CHUNK_CHARS - framing(pieces),
    ])
  })

  test('within tools is that of the message after them, and within what nothing follows is unknown', () => {
    const parameters = { type: 'object', description: 'p'.repeat(2000) }
    const request = { ...chat([said('go on'.repeat(200))]), tools: [{ name: 'f', parameters }] }
    const pieces = promptPieces(request)
    const offsets = chunkOffsets(pieces, `tools as they please user ${'go on'.repeat(200)} end`, 100)
    expect(offsets.slice(0, 4)).toEqual([26, 26, 26, 26])
    expect(chunkOffsets(pieces, 'nothing of it', 100)).toEqual([])
  })

  test('of a short prompt is none', async () => {
    expect((await prepared(chat([said('hello')]))).chunks).toEqual([])
  })
})
