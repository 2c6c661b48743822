// Whose secrets the command line sends where, and what it lets through to a terminal.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { accessOf } from '../../../cli/access.ts'
import { plainLines } from '../../../cli/output.ts'

let home: string

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'penstock-access-'))
  const folder = join(home, '.local', 'share', 'penstock')
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'secrets.json'), JSON.stringify({ ADMIN_TOKEN: 'of-this-machine' }))
  vi.stubEnv('HOME', home)
})
afterAll(async () => {
  vi.unstubAllEnvs()
  await rm(home, { recursive: true, force: true })
})

const tokenFor = async (env: Record<string, string>) =>
  (await accessOf({ positionals: {}, rest: [], flags: {} }, env, Readable.from([]))).token

describe('the token of the data folder', () => {
  test('goes to the gateway of this machine', async () => {
    for (const url of ['http://127.0.0.1:8787', 'http://localhost:9000', 'http://[::1]:8787'])
      expect(await tokenFor({ PENSTOCK_URL: url })).toBe('of-this-machine')
    expect(await tokenFor({})).toBe('of-this-machine')
  })

  test('goes to no other gateway unless the folder is named', async () => {
    for (const url of ['https://gateway.example.com', 'http://127.0.0.1.example.com', 'http://localhost.example.com'])
      await expect(tokenFor({ PENSTOCK_URL: url })).rejects.toMatchObject({ code: 'no_token', exitCode: 3 })
    const named = { PENSTOCK_URL: 'https://gateway.example.com', PENSTOCK_DATA: join(home, '.local/share/penstock') }
    expect(await tokenFor(named)).toBe('of-this-machine')
  })
})

test('an answer of a model moves no cursor and sets no clipboard of a terminal, and keeps its lines', () => {
  expect(plainLines('one\n\ttwo \u001b]52;c;aGk=\u0007\u009b2J\r')).toBe('one\n\ttwo ·]52;c;aGk=··2J·')
})
