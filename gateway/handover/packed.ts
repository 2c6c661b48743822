// Arguments and results of objects as text. Owns what JSON cannot say of the values that Workers RPC carries. Pure.
//
// What is no plain JSON becomes an object with the one key `$`; an object that has such a key itself is told as a list of its entries.

type Tag = 'undefined' | 'bigint' | 'number' | 'date' | 'bytes' | 'map' | 'set' | 'object'

const tagged = (tag: Tag, value?: unknown) => ({ $: value === undefined ? [tag] : [tag, value] })

export const packed = (value: unknown): string => JSON.stringify(pack(value))
export const unpacked = (text: string): unknown => unpack(JSON.parse(text))

function pack(value: unknown): unknown {
  switch (typeof value) {
    case 'undefined':
      return tagged('undefined')
    case 'bigint':
      return tagged('bigint', String(value))
    case 'number':
      return Number.isFinite(value) && !Object.is(value, -0)
        ? value
        : tagged('number', Object.is(value, -0) ? '-0' : String(value))
    case 'string':
    case 'boolean':
      return value
    case 'object':
      return value === null ? null : packObject(value)
    default:
      throw new TypeError(`a ${typeof value} cannot be handed over`)
  }
}

/** Arguments of a call are a bounded number. */
const SLICE_BYTES = 32_768

function base64Of(bytes: Uint8Array): string {
  let text = ''
  for (let at = 0; at < bytes.length; at += SLICE_BYTES)
    text += String.fromCharCode(...bytes.subarray(at, at + SLICE_BYTES))
  return btoa(text)
}

function packObject(value: object): unknown {
  if (Array.isArray(value)) return value.map(pack)
  if (value instanceof Date) return tagged('date', value.getTime())
  if (value instanceof Uint8Array) return tagged('bytes', base64Of(value))
  if (value instanceof Map)
    return tagged(
      'map',
      [...value].map(([key, one]) => [pack(key), pack(one)]),
    )
  if (value instanceof Set) return tagged('set', [...value].map(pack))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null)
    throw new TypeError(`a ${value.constructor?.name} cannot be handed over`)
  const entries = Object.entries(value).map(([key, one]) => [key, pack(one)] as const)
  return '$' in value ? tagged('object', entries) : Object.fromEntries(entries)
}

function unpack(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(unpack)
  if (!('$' in value)) return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, unpack(one)]))
  const [tag, said] = value.$ as [Tag, unknown]
  switch (tag) {
    case 'undefined':
      return undefined
    case 'bigint':
      return BigInt(said as string)
    case 'number':
      return Number(said)
    case 'date':
      // JSON has no number for a date that is none.
      return new Date((said as number | null) ?? Number.NaN)
    case 'bytes':
      return Uint8Array.from(atob(said as string), (char) => char.charCodeAt(0))
    case 'map':
      return new Map((said as [unknown, unknown][]).map(([key, one]) => [unpack(key), unpack(one)]))
    case 'set':
      return new Set((said as unknown[]).map(unpack))
    case 'object':
      return Object.fromEntries((said as [string, unknown][]).map(([key, one]) => [key, unpack(one)]))
    default:
      return tag satisfies never
  }
}
