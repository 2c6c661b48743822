// The built-in test model: a complete, tiny Llama in the file format of real ones, for machines that reach no model.
// Owns its shape, vocabulary and weights. Pure: integers from a fixed generator, so its bytes are the same everywhere.
//
// It writes words without meaning, for as long as it is asked to: one dimension of the hidden state is the same for all
// tokens, and the output layer uses it to favour whole words over parts of words and never to pick a control token.
import { type GgufTensor, type TensorType, tensorBytes, writeGguf } from './gguf-writer.ts'

export const TINY_MODEL_NAME = 'penstock-tiny'

const SHAPE = { width: 128, ffn: 256, layers: 2, heads: 4, kvHeads: 2, headWidth: 32, contextTokens: 32_768 }
const SEED = 0x5eed_1e55
/** All matrices get values of about this size: 1/sqrt(width), so that activations keep their scale. */
const SCALE_EXPONENT = -10

const CONTROL_TOKENS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
const END_OF_TURN = 2
/** Each becomes a token with its leading space, and so do its beginnings. A few need more than one byte per letter. */
const WORDS = `a of to in is it on at as by we or an no up so the and river water stream flows stone light green valley
  mountain rain sea boat bridge fish tree wind cloud sun moon star night day cold warm deep wide slow old new long small
  great down over under through between carries turns sings sleeps waits runs flüsse été 川`.split(/\s+/)
const PUNCTUATION = ['.', ',']

const CHAT_TEMPLATE =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/** The whole file. */
export function tinyModel(): Buffer {
  const { tokens, merges, favoured } = vocabulary()
  const { width, ffn, layers, heads, kvHeads, headWidth, contextTokens } = SHAPE
  const next = generator(SEED)
  const matrix = (name: string, type: TensorType, columns: number, rows: number, fix?: Fix): GgufTensor => {
    const tensor = { name, shape: [columns, rows], type }
    return { ...tensor, data: fill(tensor, next, fix) }
  }
  const norm = (name: string): GgufTensor => ({ name, shape: [width], type: 'F32', data: ones(width) })

  const embedded: number[] = []
  const embedding: Fix = (row, column) => {
    const unit = column === 0 ? SPREAD : spread(next)
    embedded[row * width + column] = unit
    return unit
  }
  const tensors = [matrix('token_embd.weight', 'Q8_0', width, tokens.length, embedding)]
  /** Keeps the constant dimension constant: nothing is added to it. */
  const notFirst: Fix = (row) => (row === 0 ? 0 : undefined)
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `blk.${layer}.${part}.weight`
    // The two layers use different types, so that each type is both read as a matrix of attention and of the FFN.
    const even = layer % 2 === 0
    tensors.push(
      norm(name('attn_norm')),
      matrix(name('attn_q'), even ? 'Q4_0' : 'F16', width, heads * headWidth),
      matrix(name('attn_k'), even ? 'Q8_0' : 'Q4_1', width, kvHeads * headWidth),
      matrix(name('attn_v'), even ? 'Q4_1' : 'Q8_0', width, kvHeads * headWidth),
      matrix(name('attn_output'), even ? 'F16' : 'Q8_0', heads * headWidth, width, notFirst),
      norm(name('ffn_norm')),
      matrix(name('ffn_gate'), even ? 'Q4_1' : 'Q4_0', width, ffn),
      matrix(name('ffn_up'), even ? 'Q4_0' : 'Q4_1', width, ffn),
      matrix(name('ffn_down'), even ? 'Q8_0' : 'F32', ffn, width, notFirst),
    )
  }
  tensors.push(
    norm('output_norm.weight'),
    // A word is likely after the word before it in `favoured`, so that text goes on instead of standing still; what the
    // layers add makes it leave that track.
    matrix('output.weight', 'F16', width, tokens.length, (row, column) => {
      const place = favoured.indexOf(row)
      if (column === 0) return place >= 0 ? FAVOUR : -FAVOUR
      const before = favoured.at(place - 1) ?? 0
      return place >= 0 ? (embedded[before * width + column] ?? 0) : undefined
    }),
  )
  return writeGguf(
    {
      'general.architecture': { type: 'string', value: 'llama' },
      'general.name': { type: 'string', value: 'Penstock tiny test model' },
      'general.license': { type: 'string', value: 'apache-2.0' },
      'llama.context_length': { type: 'u32', value: contextTokens },
      'llama.embedding_length': { type: 'u32', value: width },
      'llama.block_count': { type: 'u32', value: layers },
      'llama.feed_forward_length': { type: 'u32', value: ffn },
      'llama.attention.head_count': { type: 'u32', value: heads },
      'llama.attention.head_count_kv': { type: 'u32', value: kvHeads },
      'llama.attention.layer_norm_rms_epsilon': { type: 'f32', value: 2 ** -17 },
      'llama.rope.freq_base': { type: 'f32', value: 10_000 },
      'llama.rope.dimension_count': { type: 'u32', value: headWidth },
      'llama.vocab_size': { type: 'u32', value: tokens.length },
      'tokenizer.ggml.model': { type: 'string', value: 'gpt2' },
      'tokenizer.ggml.pre': { type: 'string', value: 'smollm' },
      'tokenizer.ggml.tokens': { type: 'strings', value: tokens },
      'tokenizer.ggml.token_type': { type: 'i32s', value: tokens.map((_, id) => (id < CONTROL_TOKENS.length ? 3 : 1)) },
      'tokenizer.ggml.merges': { type: 'strings', value: merges },
      'tokenizer.ggml.bos_token_id': { type: 'u32', value: 1 },
      'tokenizer.ggml.eos_token_id': { type: 'u32', value: END_OF_TURN },
      'tokenizer.ggml.unknown_token_id': { type: 'u32', value: 0 },
      'tokenizer.ggml.padding_token_id': { type: 'u32', value: END_OF_TURN },
      'tokenizer.ggml.add_bos_token': { type: 'bool', value: false },
      'tokenizer.ggml.add_space_prefix': { type: 'bool', value: false },
      'tokenizer.chat_template': { type: 'string', value: CHAT_TEMPLATE },
    },
    tensors,
  )
}

/** Control tokens, the 256 bytes, then one token per merge: words grow letter by letter from their leading space. */
function vocabulary(): { tokens: string[]; merges: string[]; favoured: number[] } {
  const alphabet = byteAlphabet()
  const written = (text: string) => [...Buffer.from(text, 'utf8')].map((byte) => alphabet[byte] ?? '')
  const tokens = [...CONTROL_TOKENS, ...alphabet]
  const known = new Map(tokens.map((token, id) => [token, id]))
  const merges: string[] = []
  const favoured: number[] = []
  for (const word of WORDS) {
    const [first = '', ...letters] = written(` ${word}`)
    let token = first
    for (const letter of letters) {
      const longer = token + letter
      if (!known.has(longer)) {
        merges.push(`${token} ${letter}`)
        known.set(longer, tokens.length)
        tokens.push(longer)
      }
      token = longer
    }
    favoured.push(known.get(token) ?? 0)
  }
  for (const mark of PUNCTUATION) favoured.push(known.get(mark) ?? 0)
  return { tokens, merges, favoured }
}

/** Byte-level BPE writes each byte as a printable character: itself where it is one, else from U+0100 up. */
function byteAlphabet(): string[] {
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    return String.fromCodePoint(printable ? byte : next++)
  })
}

/** A fixed integer for an element, in units of 2^SCALE_EXPONENT; undefined leaves it to chance. */
type Fix = (row: number, column: number) => number | undefined

/** In units of 2^SCALE_EXPONENT; times the constant after the norm, about a half, no sum of the others reaches it. */
const FAVOUR = 32 * 1024
/** Random elements lie within this many units of zero. */
const SPREAD = 127

function fill(
  tensor: { shape: number[]; type: TensorType },
  next: () => number,
  fix: Fix = () => undefined,
): Uint8Array {
  const [columns = 0, rows = 0] = tensor.shape
  const data = Buffer.alloc(tensorBytes(tensor))
  let at = 0
  const element = (row: number, column: number) => fix(row, column) ?? spread(next)
  for (let row = 0; row < rows; row++) {
    if (tensor.type === 'F32' || tensor.type === 'F16') {
      for (let column = 0; column < columns; column++) {
        const units = element(row, column)
        if (tensor.type === 'F32') at = data.writeFloatLE(units * 2 ** SCALE_EXPONENT, at)
        else at = data.writeUInt16LE(half(units, SCALE_EXPONENT), at)
      }
      continue
    }
    for (let block = 0; block < columns; block += 32) {
      const units = Array.from({ length: 32 }, (_, index) => element(row, block + index))
      at = writeBlock(data, at, tensor.type, units)
    }
  }
  return data
}

/** Q8_0 holds the integers as they are; the four-bit types hold their sixteenth, which is all they can. */
function writeBlock(data: Buffer, start: number, type: 'Q8_0' | 'Q4_0' | 'Q4_1', units: number[]): number {
  let at = start
  if (type === 'Q8_0') {
    at = data.writeUInt16LE(half(1, SCALE_EXPONENT), at)
    for (const unit of units) at = data.writeInt8(unit, at)
    return at
  }
  const nibbles = units.map((unit) => (unit + 128) >> 4)
  at = data.writeUInt16LE(half(1, SCALE_EXPONENT + 4), at)
  // Q4_0 subtracts 8 by definition; Q4_1 adds a minimum, here minus 7.5 steps, which centres the sixteen levels.
  if (type === 'Q4_1') at = data.writeUInt16LE(half(-15, SCALE_EXPONENT + 3), at)
  for (let index = 0; index < 16; index++) {
    at = data.writeUInt8((nibbles[index] ?? 0) | ((nibbles[index + 16] ?? 0) << 4), at)
  }
  return at
}

/** IEEE half precision of `integer * 2^exponent`; the integer has at most 11 bits after its trailing zeros. */
function half(integer: number, exponent: number): number {
  if (integer === 0) return 0
  const sign = integer < 0 ? 0x8000 : 0
  const magnitude = Math.abs(integer)
  const top = 31 - Math.clz32(magnitude)
  const fraction = top <= 10 ? magnitude << (10 - top) : magnitude >> (top - 10)
  return sign | ((exponent + top + 15) << 10) | (fraction & 0x3ff)
}

function spread(next: () => number): number {
  return (next() % (2 * SPREAD + 1)) - SPREAD
}

function ones(count: number): Uint8Array {
  const data = Buffer.alloc(4 * count)
  for (let index = 0; index < count; index++) data.writeFloatLE(1, 4 * index)
  return data
}

/** Mulberry32: a full-period generator in 32-bit integer arithmetic alone. Values from 0 to 2^24 - 1. */
function generator(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 8) & 0xffffff
  }
}
