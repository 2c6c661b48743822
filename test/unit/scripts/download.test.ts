import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { DownloadFailed, type DownloadOptions, download } from '../../../scripts/download.ts'
import { serve } from './support/http.ts'
import { tempFolder } from './support/temp.ts'

const DATA = randomBytes(300_000)
const ETAG = '"v1"'
const signal = new AbortController().signal

/** Serves DATA with ranges; `cutAt` breaks the line after so many bytes of each answer. */
function file(options: { etag?: string; cutAt?: number; log?: string[] } = {}) {
  const etag = options.etag ?? ETAG
  return (request: IncomingMessage, response: ServerResponse) => {
    options.log?.push(request.headers.range ?? 'all')
    const match = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')
    const start = match !== null && request.headers['if-range'] === etag ? Number(match[1]) : 0
    const body = DATA.subarray(start)
    const range = start > 0 ? { 'content-range': `bytes ${start}-${DATA.length - 1}/${DATA.length}` } : {}
    response.writeHead(start > 0 ? 206 : 200, { 'content-length': body.length, etag, ...range })
    if (options.cutAt === undefined) response.end(body)
    else response.write(body.subarray(0, options.cutAt), () => setTimeout(() => response.destroy(), 20))
  }
}

function options(url: string, more: Partial<DownloadOptions> = {}): DownloadOptions {
  return { url, partPath: join(tempFolder(), 'part'), bytes: DATA.length, signal, ...more }
}

const failureOf = (promise: Promise<void>) =>
  promise.then(
    () => 'no failure',
    (error: unknown) => (error instanceof DownloadFailed ? error.message : `another error: ${error}`),
  )

test('a file arrives whole, with its progress', async () => {
  const seen: number[] = []
  const asked = options(await serve(file()), { onBytes: (bytes) => seen.push(bytes) })
  await download(asked)
  expect(readFileSync(asked.partPath).equals(DATA)).toBe(true)
  expect(seen.at(-1)).toBe(DATA.length)
})

test('a line that breaks again and again is taken up where it broke', async () => {
  const log: string[] = []
  const asked = options(await serve(file({ cutAt: 120_000, log })))
  await download(asked)
  expect(readFileSync(asked.partPath).equals(DATA)).toBe(true)
  expect(log[0]).toBe('all')
  expect(log.length).toBeGreaterThan(2)
  const starts = log.slice(1).map((range) => Number(/^bytes=(\d+)-$/.exec(range)?.[1]))
  expect(starts).toEqual([...starts].sort((left, right) => left - right))
  expect(starts[0]).toBeGreaterThan(0)
})

test('a later start goes on from the part of an earlier one', async () => {
  const log: string[] = []
  const asked = options(await serve(file({ log })))
  writeFileSync(asked.partPath, DATA.subarray(0, 1000))
  writeFileSync(`${asked.partPath}.etag`, ETAG)
  await download(asked)
  expect(log).toEqual(['bytes=1000-'])
  expect(readFileSync(asked.partPath).equals(DATA)).toBe(true)
})

test('a part of another version of the file is not continued', async () => {
  const asked = options(await serve(file({ etag: '"v2"' })))
  writeFileSync(asked.partPath, Buffer.alloc(1000, 9))
  writeFileSync(`${asked.partPath}.etag`, ETAG)
  await download(asked)
  expect(readFileSync(asked.partPath).equals(DATA)).toBe(true)
})

test('a part that is larger than the file begins anew', async () => {
  const asked = options(await serve(file()))
  writeFileSync(asked.partPath, Buffer.alloc(DATA.length + 1))
  await download(asked)
  expect(readFileSync(asked.partPath).equals(DATA)).toBe(true)
})

test('a server that offers another size is refused before a byte is read', async () => {
  const asked = options(await serve(file()), { bytes: DATA.length + 1 })
  expect(await failureOf(download(asked))).toBe(`the server offers ${DATA.length} bytes instead of ${DATA.length + 1}`)
  expect(existsSync(asked.partPath)).toBe(false)
})

test('a server that sends without end is cut off', async () => {
  const url = await serve((_, response) => {
    response.writeHead(200)
    response.end(Buffer.alloc(DATA.length + 100))
  })
  expect(await failureOf(download(options(url)))).toContain('sends more than')
})

test('a refusal is told and not repeated', async () => {
  let calls = 0
  const url = await serve((_, response) => {
    calls++
    response.writeHead(404).end('no')
  })
  expect(await failureOf(download(options(url)))).toBe('the server answered 404')
  expect(calls).toBe(1)
})

test('a host that accepts and says nothing costs the first bound, once', async () => {
  let calls = 0
  const url = await serve(() => {
    calls++
  })
  const timeouts = { firstByteMs: 100, idleMs: 10_000 }
  expect(await failureOf(download(options(url, { timeouts })))).toBe('no answer within 0.1 s')
  expect(calls).toBe(1)
})

test('a line that stalls in the middle is given up after two tries without a byte', async () => {
  let calls = 0
  const url = await serve((request, response) => {
    calls++
    if (request.headers.range !== undefined) return
    response.writeHead(200, { 'content-length': DATA.length, etag: ETAG })
    response.write(DATA.subarray(0, 1000))
  })
  const timeouts = { firstByteMs: 100, idleMs: 100 }
  expect(await failureOf(download(options(url, { timeouts })))).toContain('no answer within')
  expect(calls).toBe(2)
})

test('a host that is not there is a failure of the source', async () => {
  const url = 'http://127.0.0.1:1/'
  expect(await failureOf(download(options(url)))).not.toContain('another error')
})

test('an abort ends the download with its own reason', async () => {
  const stop = new AbortController()
  const url = await serve(file({ cutAt: 1000 }))
  const running = download(options(url, { signal: stop.signal }))
  stop.abort(new Error('interrupted'))
  await expect(running).rejects.toThrow('interrupted')
})

test('a folder that cannot be written is an error of this machine, not of the source', async () => {
  const asked = options(await serve(file()), { partPath: join(tempFolder(), 'missing', 'part') })
  expect(await failureOf(download(asked))).toContain('another error')
})
