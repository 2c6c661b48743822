// The same model in another weight format: matrices through f32 into the new format, everything else as it is. Owns the
// arithmetic and the file's layout; where files lie and when one is made is bench.ts. Pure: the bytes depend on nothing else.
//
// Formats as ggml defines them: blocks of 32 values; Q8_0 = f16 d, 32 int8; Q4_0 = f16 d, nibbles n with value d (n - 8);
// Q4_1 = f16 d, f16 m, nibbles with value d n + m; byte j of the nibbles holds values j (low half) and j + 16.
import { decodeHalf, encodeHalf } from './half.ts'

const BLOCK = 32
const F32 = 0
const FORMATS = {
  F16: { type: 1, fileType: 1, blockValues: 1, blockBytes: 2 },
  Q4_0: { type: 2, fileType: 2, blockValues: BLOCK, blockBytes: 18 },
  Q4_1: { type: 3, fileType: 3, blockValues: BLOCK, blockBytes: 20 },
  Q8_0: { type: 8, fileType: 7, blockValues: BLOCK, blockBytes: 34 },
} as const
export type Format = keyof typeof FORMATS

type Tensor = { name: string; nameBytes: Buffer; shape: number[]; type: number; offset: number }
type Layout = { tensors: Tensor[]; metadataEnd: number; fileTypeAt: number | undefined; dataStart: number }

const ALIGNMENT = 32
/** Bytes of a metadata value by its type; strings (8) and arrays (9) are handled apart. */
const VALUE_BYTES: Record<number, number> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }

/**
 * @param source a GGUF file of version 3, little endian, default alignment, matrices in Q8_0, Q4_0, Q4_1 or F16
 * @param format of the matrices; the embedding stays Q8_0 where four bits are asked for, as quantisers leave it
 * @throws Error where the source holds something else
 */
export function requantize(source: Buffer, format: Format): Buffer {
  const { tensors, metadataEnd, fileTypeAt, dataStart } = readLayout(source)
  const head = Buffer.from(source.subarray(0, metadataEnd))
  if (fileTypeAt !== undefined) head.writeUInt32LE(FORMATS[format].fileType, fileTypeAt)
  const table: Buffer[] = []
  const data: Buffer[] = []
  let offset = 0
  for (const tensor of tensors) {
    const target = targetOf(tensor, format)
    const bytes = convert(source, dataStart + tensor.offset, tensor, target)
    table.push(entry(tensor, target === undefined ? tensor.type : FORMATS[target].type, offset))
    const padded = Math.ceil(bytes.length / ALIGNMENT) * ALIGNMENT
    data.push(bytes, Buffer.alloc(padded - bytes.length))
    offset += padded
  }
  const headBytes = head.length + table.reduce((sum, part) => sum + part.length, 0)
  const padding = Buffer.alloc(Math.ceil(headBytes / ALIGNMENT) * ALIGNMENT - headBytes)
  return Buffer.concat([head, ...table, padding, ...data])
}

export type Shape = {
  /** Multiplications and additions per token in matrices, without the output head. */
  matrixMacs: number
  layers: number
  heads: number
  headDim: number
  vocabulary: number
}

/** What a model of the llama family computes per token. */
export function shapeOf(source: Buffer): Shape {
  const { tensors } = readLayout(source)
  const size = (tensor: Tensor) => tensor.shape.reduce((product, extent) => product * extent, 1)
  const find = (name: string) => tensors.find((tensor) => tensor.name === name)?.shape
  const inner = tensors.filter(({ name, shape }) => name.startsWith('blk.') && shape.length === 2)
  const layers = new Set(inner.map(({ name }) => name.split('.')[1])).size
  const queries = find('blk.0.attn_q.weight')?.[1] ?? 0
  const headDim = readInteger(source, 'llama.rope.dimension_count') ?? 0
  return {
    matrixMacs: inner.reduce((sum, tensor) => sum + size(tensor), 0),
    layers,
    heads: queries / headDim,
    headDim,
    vocabulary: find('token_embd.weight')?.[1] ?? 0,
  }
}

/** A u32 of the metadata, by its key as it stands in the file. */
export function readInteger(source: Buffer, key: string): number | undefined {
  const written = Buffer.concat([Buffer.from(key, 'utf8'), Buffer.from([4, 0, 0, 0])])
  const at = source.indexOf(written)
  return at < 0 ? undefined : source.readUInt32LE(at + written.length)
}

function targetOf(tensor: Tensor, format: Format): Format | undefined {
  if (tensor.type === F32 || tensor.shape.length < 2) return undefined
  return tensor.name === 'token_embd.weight' && format.startsWith('Q4') ? 'Q8_0' : format
}

function readLayout(source: Buffer): Layout {
  if (source.toString('latin1', 0, 4) !== 'GGUF' || source.readUInt32LE(4) !== 3) throw new Error('not GGUF version 3')
  const tensorCount = Number(source.readBigUInt64LE(8))
  const valueCount = Number(source.readBigUInt64LE(16))
  let at = 24
  const skip = (type: number): void => {
    if (type === 8) at += 8 + Number(source.readBigUInt64LE(at))
    else if (type === 9) {
      const element = source.readUInt32LE(at)
      const count = Number(source.readBigUInt64LE(at + 4))
      at += 12
      for (let index = 0; index < count; index++) skip(element)
    } else {
      const bytes = VALUE_BYTES[type]
      if (bytes === undefined) throw new Error(`metadata of type ${type}`)
      at += bytes
    }
  }
  let fileTypeAt: number | undefined
  for (let index = 0; index < valueCount; index++) {
    const keyBytes = Number(source.readBigUInt64LE(at))
    const key = source.toString('utf8', at + 8, at + 8 + keyBytes)
    at += 8 + keyBytes
    const type = source.readUInt32LE(at)
    at += 4
    if (key === 'general.alignment') throw new Error('an alignment of its own')
    if (key === 'general.file_type') fileTypeAt = at
    skip(type)
  }
  const metadataEnd = at
  const tensors: Tensor[] = []
  for (let index = 0; index < tensorCount; index++) {
    const nameBytes = source.subarray(at + 8, at + 8 + Number(source.readBigUInt64LE(at)))
    at += 8 + nameBytes.length
    const dims = source.readUInt32LE(at)
    const shape = Array.from({ length: dims }, (_, dim) => Number(source.readBigUInt64LE(at + 4 + 8 * dim)))
    at += 4 + 8 * dims
    const tensor = { type: source.readUInt32LE(at), offset: Number(source.readBigUInt64LE(at + 4)) }
    tensors.push({ name: nameBytes.toString('utf8'), nameBytes, shape, ...tensor })
    at += 12
  }
  return { tensors, metadataEnd, fileTypeAt, dataStart: Math.ceil(at / ALIGNMENT) * ALIGNMENT }
}

function entry({ nameBytes, shape }: Tensor, type: number, offset: number): Buffer {
  const bytes = Buffer.alloc(8 + nameBytes.length + 4 + 8 * shape.length + 12)
  let at = bytes.writeBigUInt64LE(BigInt(nameBytes.length))
  at += nameBytes.copy(bytes, at)
  at = bytes.writeUInt32LE(shape.length, at)
  for (const extent of shape) at = bytes.writeBigUInt64LE(BigInt(extent), at)
  at = bytes.writeUInt32LE(type, at)
  bytes.writeBigUInt64LE(BigInt(offset), at)
  return bytes
}

/** The tensor's bytes in the target format; unchanged where it is undefined or the same. */
function convert(source: Buffer, start: number, tensor: Tensor, target: Format | undefined): Buffer {
  const values = tensor.shape.reduce((product, extent) => product * extent, 1)
  if (tensor.type === F32) return source.subarray(start, start + 4 * values)
  const from = (Object.keys(FORMATS) as Format[]).find((name) => FORMATS[name].type === tensor.type)
  if (from === undefined) throw new Error(`${tensor.name} is of type ${tensor.type}`)
  const { blockValues, blockBytes } = FORMATS[from]
  const bytes = source.subarray(start, start + (values / blockValues) * blockBytes)
  if (target === undefined || target === from) return bytes
  const block = new Float32Array(BLOCK)
  const out = Buffer.alloc((values / FORMATS[target].blockValues) * FORMATS[target].blockBytes)
  const fromBytes = from === 'F16' ? 2 * BLOCK : blockBytes
  const toBytes = target === 'F16' ? 2 * BLOCK : FORMATS[target].blockBytes
  for (let index = 0; index < values / BLOCK; index++) {
    decodeBlock(bytes, index * fromBytes, from, block)
    encodeBlock(block, target, out, index * toBytes)
  }
  return out
}

function decodeBlock(bytes: Buffer, at: number, format: Format, block: Float32Array): void {
  if (format === 'F16') {
    for (let index = 0; index < BLOCK; index++) block[index] = decodeHalf(bytes.readUInt16LE(at + 2 * index))
    return
  }
  const d = decodeHalf(bytes.readUInt16LE(at))
  if (format === 'Q8_0') {
    for (let index = 0; index < BLOCK; index++) block[index] = d * bytes.readInt8(at + 2 + index)
    return
  }
  const m = format === 'Q4_1' ? decodeHalf(bytes.readUInt16LE(at + 2)) : -8 * d
  const nibbles = at + (format === 'Q4_1' ? 4 : 2)
  for (let index = 0; index < BLOCK / 2; index++) {
    const byte = bytes[nibbles + index] ?? 0
    block[index] = d * (byte & 15) + m
    block[index + BLOCK / 2] = d * (byte >> 4) + m
  }
}

function encodeBlock(block: Float32Array, format: Format, out: Buffer, at: number): void {
  if (format === 'F16') {
    for (let index = 0; index < BLOCK; index++) out.writeUInt16LE(encodeHalf(block[index] ?? 0), at + 2 * index)
    return
  }
  if (format === 'Q4_1') throw new Error('nothing is converted into Q4_1')
  // The value of the largest size, with its sign: four bits reach one step further below zero than above.
  let extreme = 0
  for (const value of block) if (Math.abs(value) > Math.abs(extreme)) extreme = value
  const d = Math.fround(format === 'Q8_0' ? Math.abs(extreme) / 127 : extreme / -8)
  out.writeUInt16LE(encodeHalf(d), at)
  const inverse = d === 0 ? 0 : 1 / d
  if (format === 'Q8_0') {
    for (let index = 0; index < BLOCK; index++) {
      const value = (block[index] ?? 0) * inverse
      out.writeInt8(Math.sign(value) * Math.round(Math.abs(value)), at + 2 + index)
    }
    return
  }
  const nibble = (index: number) => Math.min(15, Math.floor((block[index] ?? 0) * inverse + 8.5))
  for (let index = 0; index < BLOCK / 2; index++) {
    out[at + 2 + index] = nibble(index) | (nibble(index + BLOCK / 2) << 4)
  }
}
