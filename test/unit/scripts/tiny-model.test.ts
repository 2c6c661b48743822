import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gguf } from '@huggingface/gguf'
import { expect, test } from 'vitest'
import { TENSOR_TYPES, tensorBytes, writeGguf } from '../../../scripts/gguf-writer.ts'
import { tinyModel } from '../../../scripts/tiny-model.ts'
import { tempFolder } from './support/temp.ts'

/** Every machine makes these bytes; tests elsewhere record what an engine answers with them. */
const SHA256 = 'd6b9e46029faa428991a8b303dc50ca0d3fa991b9489dbd58b223a64e1585b2b'

async function parse(bytes: Buffer) {
  const path = join(tempFolder(), 'model.gguf')
  writeFileSync(path, bytes)
  return gguf(path, { allowLocalFile: true })
}

test('the tiny model is the same bytes on every machine, and a few hundred kilobytes', () => {
  const bytes = tinyModel()
  expect(createHash('sha256').update(bytes).digest('hex')).toBe(SHA256)
  expect(bytes.length).toBeGreaterThan(100_000)
  expect(bytes.length).toBeLessThan(1_000_000)
})

test('an independent reader finds a Llama with grouped heads and a long context in it', async () => {
  const { metadata } = await parse(tinyModel())
  expect(metadata).toMatchObject({
    version: 3,
    'general.architecture': 'llama',
    'llama.context_length': 32768,
    'llama.attention.head_count': 4,
    'llama.attention.head_count_kv': 2,
    'tokenizer.ggml.model': 'gpt2',
  })
})

test('its tensors are complete, aligned, without gaps, and of every supported type', async () => {
  const bytes = tinyModel()
  const { tensorInfos, tensorDataOffset } = await parse(bytes)
  const names = Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id, name] as const)
  const typeOf = new Map<number, keyof typeof TENSOR_TYPES>(
    names.map(([id, name]) => [id, name as keyof typeof TENSOR_TYPES]),
  )
  let end = 0
  for (const { name, shape, dtype, offset } of tensorInfos) {
    const type = typeOf.get(dtype)
    if (type === undefined) throw new Error(`${name} has type ${dtype}`)
    expect(Number(offset) % 32).toBe(0)
    expect(Number(offset) - end).toBeLessThan(32)
    end = Number(offset) + tensorBytes({ shape: shape.map(Number), type })
  }
  expect(bytes.length - (Number(tensorDataOffset) + end)).toBeLessThan(32)
  expect(new Set(tensorInfos.map(({ dtype }) => dtype)).size).toBe(names.length)
  expect(tensorInfos.map(({ name }) => name)).toContain('blk.1.ffn_down.weight')
})

test('its vocabulary holds every byte, and every merge makes a token of it', async () => {
  const metadata = (await parse(tinyModel())).metadata as unknown as Record<string, unknown>
  const tokens = metadata['tokenizer.ggml.tokens'] as string[]
  const merges = metadata['tokenizer.ggml.merges'] as string[]
  expect(tokens.slice(0, 3)).toEqual(['<|endoftext|>', '<|im_start|>', '<|im_end|>'])
  expect(new Set(tokens).size).toBe(tokens.length)
  expect(tokens.filter((token) => [...token].length === 1)).toHaveLength(256)
  for (const merge of merges) {
    const [left = '', right = ''] = merge.split(' ')
    expect(tokens).toContain(left)
    expect(tokens).toContain(right)
    expect(tokens).toContain(left + right)
  }
})

test('a tensor whose data does not fit its shape is a bug that is told', () => {
  const tensor = { name: 'w', shape: [32, 2], type: 'Q8_0' as const, data: new Uint8Array(34) }
  expect(() => writeGguf({}, [tensor])).toThrow('w: data and shape disagree')
  expect(() => tensorBytes({ shape: [33], type: 'Q4_0' })).toThrow('not whole blocks')
})
