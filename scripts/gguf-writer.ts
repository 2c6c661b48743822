// Writes GGUF version 3 files. Owns the container alone: header, metadata, tensor table, alignment. Pure; the bytes
// depend on nothing but the arguments.

/** Values as the format types them: the width of a number is part of the file. */
export type GgufValue =
  | { type: 'u32'; value: number }
  | { type: 'i32'; value: number }
  | { type: 'f32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: string[] }
  | { type: 'i32s'; value: number[] }

export type GgufTensor = {
  name: string
  /** Innermost (contiguous) dimension first. */
  shape: number[]
  type: TensorType
  data: Uint8Array
}

/** Type numbers of the format, and how many values share a block of how many bytes. */
export const TENSOR_TYPES = {
  F32: { id: 0, blockValues: 1, blockBytes: 4 },
  F16: { id: 1, blockValues: 1, blockBytes: 2 },
  Q4_0: { id: 2, blockValues: 32, blockBytes: 18 },
  Q4_1: { id: 3, blockValues: 32, blockBytes: 20 },
  Q8_0: { id: 8, blockValues: 32, blockBytes: 34 },
} as const
export type TensorType = keyof typeof TENSOR_TYPES

/** The format's default; also a cache line's half, so that rows begin well. */
const ALIGNMENT = 32
const VERSION = 3
const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, strings: 9, i32s: 9 } as const

/** @throws Error where the data of a tensor does not fit its shape: a bug of the caller. */
export function writeGguf(metadata: Record<string, GgufValue>, tensors: GgufTensor[]): Buffer {
  const parts: Uint8Array[] = []
  const entries = Object.entries(metadata)
  parts.push(Buffer.from('GGUF'), u32(VERSION), u64(tensors.length), u64(entries.length))
  for (const [key, value] of entries) parts.push(string(key), u32(VALUE_TYPES[value.type]), ...encode(value))
  let offset = 0
  for (const tensor of tensors) {
    const { id } = TENSOR_TYPES[tensor.type]
    if (tensor.data.length !== tensorBytes(tensor)) throw new Error(`${tensor.name}: data and shape disagree`)
    parts.push(string(tensor.name), u32(tensor.shape.length), ...tensor.shape.map(u64), u32(id), u64(offset))
    offset = aligned(offset + tensor.data.length)
  }
  const headBytes = parts.reduce((sum, part) => sum + part.length, 0)
  parts.push(padding(headBytes))
  for (const tensor of tensors) parts.push(tensor.data, padding(tensor.data.length))
  return Buffer.concat(parts)
}

/** Bytes of a tensor's data; rows are whole blocks. */
export function tensorBytes({ shape, type }: Pick<GgufTensor, 'shape' | 'type'>): number {
  const { blockValues, blockBytes } = TENSOR_TYPES[type]
  if ((shape[0] ?? 0) % blockValues !== 0) throw new Error(`rows of ${shape[0]} are not whole blocks of ${type}`)
  return (shape.reduce((product, size) => product * size, 1) / blockValues) * blockBytes
}

function encode(value: GgufValue): Uint8Array[] {
  switch (value.type) {
    case 'u32':
      return [u32(value.value)]
    case 'i32':
      return [i32(value.value)]
    case 'f32':
      return [f32(value.value)]
    case 'bool':
      return [Uint8Array.of(value.value ? 1 : 0)]
    case 'string':
      return [string(value.value)]
    case 'strings':
      return [u32(VALUE_TYPES.string), u64(value.value.length), ...value.value.map(string)]
    case 'i32s':
      return [u32(VALUE_TYPES.i32), u64(value.value.length), ...value.value.map(i32)]
    default:
      return value satisfies never
  }
}

function aligned(offset: number): number {
  return Math.ceil(offset / ALIGNMENT) * ALIGNMENT
}

function padding(length: number): Uint8Array {
  return new Uint8Array(aligned(length) - length)
}

function u32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function i32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(value)
  return bytes
}

function f32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}

function u64(value: number): Uint8Array {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function string(value: string): Uint8Array {
  const bytes = Buffer.from(value, 'utf8')
  return Buffer.concat([u64(bytes.length), bytes])
}
