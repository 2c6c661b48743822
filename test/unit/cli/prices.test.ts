// `penstock prices import` against a stand-in for the admin API.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { penstock } from './support/terminal.ts'

type Seen = {
  path: string | undefined
  token: string | undefined
  body: { dry_run: boolean; entries: { provider: string }[] }
}

let server: Server
let url: string
let dir: string
const seen: Seen[] = []

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'penstock-prices-'))
  server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = JSON.parse(Buffer.concat(chunks).toString())
      seen.push({ path: request.url, token: request.headers.authorization, body })
      const named = { id: 'x', model: 'm', service_tier: 'flex', effective_from: '2026-11-22T00:00:00.000Z' }
      const change = { output_text: { old: '2', new: '3' }, input_audio: { old: null, new: '1' } }
      const tier = { above_input_tokens: 200_000, usd_per_million: { output_text: '6' } }
      const added = [{ ...named, provider: 'a', usd_per_million: { output_text: '4' }, context_tiers: [tier] }]
      const changed = [{ ...named, provider: 'b', replaces: 'y', usd_per_million: change }]
      response.end(JSON.stringify({ dry_run: body.dry_run, added, changed, unchanged: 7, ended: 1 }))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
})

afterAll(async () => {
  server.close()
  await rm(dir, { recursive: true })
})

const script = (args: string[], env: Record<string, string> = {}) =>
  penstock(['prices', 'import', '--url', url, ...args], env)

test('a dry run sends the catalogue, shows each difference and says that nothing changed', async () => {
  const { said, code } = await script(['--dry-run'], { ADMIN_TOKEN: 'token-of-the-environment' })
  const [call] = seen.splice(0)
  expect(call).toMatchObject({ path: '/admin/v1/prices/import', token: 'Bearer token-of-the-environment' })
  expect(call?.body.dry_run).toBe(true)
  expect(call?.body.entries.length).toBeGreaterThan(50)
  expect(code).toBe(8)
  expect(said).toEqual([
    '+ a m (flex) from 2026-11-22T00:00:00.000Z',
    '    output_text 4',
    '    above 200000 input tokens: output_text 6',
    '~ b m (flex) from 2026-11-22T00:00:00.000Z',
    '    output_text 2 -> 3',
    '    input_audio unknown -> 1',
    '1 added, 1 changed, 7 unchanged, 1 ended already',
    'Nothing was changed: this was a dry run.',
  ])
})

test('chosen providers go in under the names they have here, with the token of the data folder', async () => {
  await writeFile(join(dir, 'secrets.json'), JSON.stringify({ ADMIN_TOKEN: 'token-of-the-folder' }))
  await script(['--data', dir, '--provider', 'deepseek=my-deepseek', '--provider', 'groq'])
  const [call] = seen.splice(0)
  expect(call?.token).toBe('Bearer token-of-the-folder')
  expect(call?.body.dry_run).toBe(false)
  expect(new Set(call?.body.entries.map(({ provider }) => provider))).toEqual(new Set(['my-deepseek', 'groq']))
})

test.each([
  ['no token anywhere', ['--data', 'nowhere'], 'There is no token'],
  ['a provider that the file does not price', ['--provider', 'nobody'], 'has no entry of nobody'],
  ['an option that there is not', ['--force'], '--force'],
])('%s ends it with a word of why', async (_, args, words) => {
  const { code, said, warned } = await script(args, args.includes('--data') ? {} : { ADMIN_TOKEN: 'token' })
  expect([code === 0, said]).toEqual([false, []])
  expect(warned.join('\n')).toContain(words)
  expect(seen).toEqual([])
})
