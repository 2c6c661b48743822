// Reads one member of a zip file. Owns the directory, the inflating and every check on the way; members of 4 GB and
// more (zip64) are refused.
import { createReadStream, createWriteStream } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createInflateRaw } from 'node:zlib'

type ZipMember = { name: string; bytes: number; packedBytes: number; method: number; headerOffset: number }

/** The archive is damaged, is not one, or lacks the member. */
export class ZipError extends Error {
  override name = 'ZipError'
}

const END_SIGNATURE = 0x06054b50
const ENTRY_SIGNATURE = 0x02014b50
const LOCAL_SIGNATURE = 0x04034b50
const END_BYTES = 22
/** The end record is followed by a comment of at most 64 KiB. */
const COMMENT_BYTES_MAX = 65_535
/** Far above what a wheel has; a directory beyond it is not read into memory. */
const DIRECTORY_BYTES_MAX = 64 * 1024 * 1024
const ZIP64_MARK = 0xffffffff
const STORED = 0
const DEFLATED = 8

/** Writes the member `name` of the archive to `target`. @throws ZipError */
export async function extractMember(
  archive: string,
  name: string,
  target: string,
  options: { signal?: AbortSignal; onBytes?: (written: number) => void } = {},
): Promise<void> {
  const file = await open(archive, 'r')
  let start: number
  let member: ZipMember | undefined
  try {
    member = (await readDirectory(file)).find((entry) => entry.name === name)
    if (member === undefined) throw new ZipError(`${archive} has no member ${name}`)
    start = await dataOffset(file, member)
  } finally {
    await file.close()
  }
  if (member.method !== STORED && member.method !== DEFLATED) {
    throw new ZipError(`${name} is packed with method ${member.method}, which is not supported`)
  }
  let written = 0
  const { bytes } = member
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      written += chunk.length
      options.onBytes?.(written)
      done(written > bytes ? new ZipError(`${name} is larger than the ${bytes} bytes its entry says`) : null, chunk)
    },
  })
  const source = createReadStream(archive, { start, end: start + Math.max(member.packedBytes, 1) - 1 })
  const sink = createWriteStream(target, { mode: 0o600 })
  const bound = options.signal ? { signal: options.signal } : {}
  try {
    if (member.method === STORED) await pipeline(source, count, sink, bound)
    else await pipeline(source, createInflateRaw(), count, sink, bound)
  } catch (error) {
    if (
      typeof (error as NodeJS.ErrnoException).code === 'string' &&
      String((error as NodeJS.ErrnoException).code).startsWith('Z_')
    ) {
      throw new ZipError(`${name} cannot be unpacked: ${(error as Error).message}`)
    }
    throw error
  }
  if (written !== bytes) throw new ZipError(`${name} has ${written} bytes instead of ${bytes}`)
}

/** All entries of the archive's directory. @throws ZipError */
async function readDirectory(file: FileHandle): Promise<ZipMember[]> {
  const { size } = await file.stat()
  const tail = await readAt(
    file,
    Math.max(0, size - END_BYTES - COMMENT_BYTES_MAX),
    Math.min(size, END_BYTES + COMMENT_BYTES_MAX),
  )
  let end = tail.length - END_BYTES
  while (end >= 0 && tail.readUInt32LE(end) !== END_SIGNATURE) end--
  if (end < 0) throw new ZipError('not a zip file, or its end is missing')
  const [count, bytes, offset] = [tail.readUInt16LE(end + 10), tail.readUInt32LE(end + 12), tail.readUInt32LE(end + 16)]
  if (offset === ZIP64_MARK || bytes > DIRECTORY_BYTES_MAX) throw new ZipError('zip64 archives are not supported')
  if (offset + bytes > size) throw new ZipError('the directory of the zip file lies outside of it')
  const directory = await readAt(file, offset, bytes)
  const members: ZipMember[] = []
  let at = 0
  for (let index = 0; index < count; index++) {
    if (at + 46 > directory.length || directory.readUInt32LE(at) !== ENTRY_SIGNATURE) {
      throw new ZipError(`entry ${index} of the zip file's directory is damaged`)
    }
    const lengths = [28, 30, 32].map((field) => directory.readUInt16LE(at + field))
    const [nameBytes = 0, extraBytes = 0, commentBytes = 0] = lengths
    const member = {
      name: directory.toString('utf8', at + 46, at + 46 + nameBytes),
      method: directory.readUInt16LE(at + 10),
      packedBytes: directory.readUInt32LE(at + 20),
      bytes: directory.readUInt32LE(at + 24),
      headerOffset: directory.readUInt32LE(at + 42),
    }
    if ([member.packedBytes, member.bytes, member.headerOffset].includes(ZIP64_MARK)) {
      throw new ZipError('zip64 archives are not supported')
    }
    members.push(member)
    at += 46 + nameBytes + extraBytes + commentBytes
  }
  return members
}

/** The local header repeats the name and has extra fields of its own, so only it knows where the data begins. */
async function dataOffset(file: FileHandle, member: ZipMember): Promise<number> {
  const header = await readAt(file, member.headerOffset, 30)
  if (header.length < 30 || header.readUInt32LE(0) !== LOCAL_SIGNATURE) {
    throw new ZipError(`the header of ${member.name} is damaged`)
  }
  const start = member.headerOffset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28)
  const { size } = await file.stat()
  if (start + member.packedBytes > size) throw new ZipError(`${member.name} ends outside of the zip file`)
  return start
}

async function readAt(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  const { bytesRead } = await file.read(buffer, 0, length, offset)
  return buffer.subarray(0, bytesRead)
}
