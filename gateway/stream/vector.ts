// Vectors as they travel: little-endian 32-bit floats in base64, which is also the dialect's own compact form. Owns the
// two conversions. Pure.

/** Code units that one call of String.fromCharCode takes without exhausting the stack. */
const CHUNK_BYTES = 8192

/** Rounds to 32-bit floats. */
export function encodeVector(values: readonly number[]): string {
  const view = new DataView(new ArrayBuffer(4 * values.length))
  for (const [index, value] of values.entries()) view.setFloat32(4 * index, value, true)
  const bytes = new Uint8Array(view.buffer)
  let text = ''
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    text += String.fromCharCode(...bytes.subarray(at, at + CHUNK_BYTES))
  }
  return btoa(text)
}

/** Bytes after the last whole float are dropped. @throws DOMException where the text is not base64. */
export function decodeVector(text: string): number[] {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
  const view = new DataView(bytes.buffer)
  return Array.from({ length: Math.floor(bytes.length / 4) }, (_, index) => view.getFloat32(4 * index, true))
}

/** Floats in an encoded vector. */
export const vectorLength = (text: string): number => Math.floor((text.length * 3) / 16)
