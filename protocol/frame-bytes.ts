// The bytes of a frame's body: little-endian numbers, texts and lists, each read only where its bytes are there.
// Owns bounds and growth; which fields a frame has is engine-frames.ts.

/** A peer that breaks the frame format; the connection must be closed. */
export class FrameError extends Error {
  override name = 'FrameError'
}

export class FrameWriter {
  #bytes = new Uint8Array(256)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  #grow(count: number): number {
    const at = this.#length
    this.#length += count
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#length, this.#bytes.length * 2))
      larger.set(this.#bytes)
      this.#bytes = larger
      this.#view = new DataView(larger.buffer)
    }
    return at
  }
  u8(value: number) {
    const at = this.#grow(1)
    this.#view.setUint8(at, value)
  }
  u16(value: number) {
    const at = this.#grow(2)
    this.#view.setUint16(at, value, true)
  }
  u32(value: number) {
    const at = this.#grow(4)
    this.#view.setUint32(at, value, true)
  }
  i32(value: number) {
    const at = this.#grow(4)
    this.#view.setInt32(at, value, true)
  }
  u64(value: bigint) {
    const at = this.#grow(8)
    this.#view.setBigUint64(at, value, true)
  }
  f32(value: number) {
    const at = this.#grow(4)
    this.#view.setFloat32(at, value, true)
  }
  str(value: string) {
    this.bytes(new TextEncoder().encode(value))
  }
  bytes(value: Uint8Array) {
    this.u32(value.length)
    const at = this.#grow(value.length)
    this.#bytes.set(value, at)
  }
  list<T>(items: readonly T[], write: (item: T) => void) {
    this.u32(items.length)
    for (const item of items) write(item)
  }
  patchU32(at: number, value: number) {
    this.#view.setUint32(at, value, true)
  }
  get length() {
    return this.#length
  }
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }
}

export class FrameReader {
  #view: DataView
  #at = 0
  readonly #bytes: Uint8Array
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
  #take(count: number): number {
    const at = this.#at
    if (at + count > this.#bytes.length)
      throw new FrameError(`frame body ends at byte ${this.#bytes.length}, field needs ${at + count}`)
    this.#at += count
    return at
  }
  u8 = () => this.#view.getUint8(this.#take(1))
  u32 = () => this.#view.getUint32(this.#take(4), true)
  i32 = () => this.#view.getInt32(this.#take(4), true)
  u64 = () => this.#view.getBigUint64(this.#take(8), true)
  f32 = () => {
    const value = this.#view.getFloat32(this.#take(4), true)
    if (!Number.isFinite(value)) throw new FrameError('frame holds a number that is not finite')
    return value
  }
  bytes = () => {
    const count = this.u32()
    const at = this.#take(count)
    return this.#bytes.slice(at, at + count)
  }
  str = () => new TextDecoder().decode(this.bytes())
  list<T>(itemBytesMin: number, read: () => T): T[] {
    const count = this.u32()
    if (count * itemBytesMin > this.#bytes.length - this.#at)
      throw new FrameError(`list of ${count} items does not fit its frame`)
    return Array.from({ length: count }, read)
  }
  end() {
    if (this.#at !== this.#bytes.length)
      throw new FrameError(`${this.#bytes.length - this.#at} bytes left over in frame`)
  }
}
