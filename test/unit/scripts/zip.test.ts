import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { extractMember, ZipError } from '../../../scripts/zip.ts'
import { tempFolder } from './support/temp.ts'
import { zipFile } from './support/zip-file.ts'

function archive(bytes: Buffer): { path: string; target: string } {
  const dir = tempFolder()
  writeFileSync(join(dir, 'a.zip'), bytes)
  return { path: join(dir, 'a.zip'), target: join(dir, 'out') }
}

test('a packed and a stored member come out as they went in', async () => {
  const data = Buffer.concat([randomBytes(100_000), Buffer.alloc(200_000, 7)])
  for (const stored of [false, true]) {
    const { path, target } = archive(
      zipFile([
        { name: 'x', data: Buffer.from('x') },
        { name: 'in/big', data, stored },
      ]),
    )
    await extractMember(path, 'in/big', target)
    expect(readFileSync(target).equals(data)).toBe(true)
  }
})

test('the directory is found behind a comment', async () => {
  const { path, target } = archive(zipFile([{ name: 'a', data: Buffer.from('hello') }], 'signed by nobody'))
  await extractMember(path, 'a', target)
  expect(readFileSync(target, 'utf8')).toBe('hello')
})

test('an empty member is an empty file', async () => {
  const { path, target } = archive(zipFile([{ name: 'a', data: Buffer.alloc(0) }]))
  await extractMember(path, 'a', target)
  expect(readFileSync(target)).toHaveLength(0)
})

const whole = zipFile([{ name: 'a', data: Buffer.alloc(5000, 1) }])
const damaged = Buffer.from(whole)
damaged.fill(0xff, 40, 45)
const wrongHeader = Buffer.from(whole)
wrongHeader.writeUInt32LE(0, 0)

test.each([
  ['a file that is no zip', Buffer.from('no zip at all'), 'a', 'not a zip file'],
  ['an empty file', Buffer.alloc(0), 'a', 'not a zip file'],
  ['an archive cut in its directory', whole.subarray(0, whole.length - 30), 'a', 'not a zip file'],
  ['a member that is not there', whole, 'b', 'has no member b'],
  ['damaged data', damaged, 'a', 'cannot be unpacked'],
  ['a damaged header', wrongHeader, 'a', 'the header of a is damaged'],
  ['a member larger than it says', zipFile([{ name: 'a', data: Buffer.alloc(5000), claimedBytes: 10 }]), 'a', 'larger'],
  ['a member smaller than it says', zipFile([{ name: 'a', data: Buffer.alloc(10), claimedBytes: 50 }]), 'a', 'instead'],
])('%s is told in words', async (_, bytes, name, message) => {
  const { path, target } = archive(bytes)
  const failure = await extractMember(path, name, target).catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(ZipError)
  expect(String(failure)).toContain(message)
})
