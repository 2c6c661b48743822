// `penstock config` against a stand-in for the admin API: what it sends, what it says, how it ends.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'smol-toml'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { penstock } from './support/terminal.ts'

type Seen = { route: string; token: string | undefined; body: Record<string, unknown> }

const NOTHING = {
  version: 3,
  changes: [],
  secrets: [],
  summary: { added: 0, changed: 0, removed: 0, secrets: 0 },
}
const PLAN = {
  version: 3,
  changes: [
    { object: 'provider', name: 'up', action: 'add', fields: [{ path: 'kind', after: 'openai' }] },
    {
      object: 'model',
      name: 'm',
      action: 'change',
      fields: [
        { path: 'targets[0].weight', before: 1, after: 2 },
        { path: 'policy', before: { strategy: 'ordered' } },
        { path: 'targets[0].region', after: '\u001b[31m' },
      ],
    },
    { object: 'model', name: 'old', action: 'remove', fields: [{ path: 'targets', before: [] }] },
  ],
  secrets: [{ provider: 'up', key: 'default', action: 'set' }],
  summary: { added: 1, changed: 1, removed: 1, secrets: 1 },
}
const TOML = `format = 1
[providers.up]
kind = "openai"
keys.default.secret = "env:UP_KEY"
keys.spare.secret = "env:UP_SPARE"
`

let server: Server
let url: string
let dir: string
let answers: Record<string, { status?: number; body: unknown }>
const seen: Seen[] = []

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'penstock-config-'))
  server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const text = Buffer.concat(chunks).toString()
      const route = `${request.method} ${request.url?.replace('/admin/v1', '')}`
      const body: Record<string, unknown> = text === '' ? {} : JSON.parse(text)
      seen.push({ route, token: request.headers.authorization, body })
      const { status = 200, body: answer } = answers[body.dry_run === false ? `${route}!` : route] ?? {
        status: 404,
        body: {},
      }
      response.writeHead(status).end(JSON.stringify(answer))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
})

beforeEach(() => {
  seen.length = 0
  answers = {}
})

afterAll(async () => {
  server.close()
  await rm(dir, { recursive: true })
})

async function config(args: string[], env: Record<string, string> = {}) {
  const { code, said, warned } = await penstock(['config', ...args, '--url', url], { ADMIN_TOKEN: 'token', ...env })
  return { code, said, warned }
}

async function file(name: string, text: string): Promise<string> {
  const path = join(dir, name)
  await writeFile(path, text)
  return path
}

test('a plan shows each difference, changes nothing and ends with 8', async () => {
  answers = { 'POST /config/apply': { body: PLAN } }
  const ran = await config(['plan', await file('a.toml', TOML), '--prune'], { UP_KEY: 'sk-1' })
  expect(ran).toEqual({
    code: 8,
    said: [
      '+ provider up',
      '    kind "openai"',
      '~ model m',
      '    targets[0].weight 1 -> 2',
      '    policy {"strategy":"ordered"} -> gone',
      '    targets[0].region "\\u001b[31m"',
      '- model old',
      '* provider up: secret of key default is set',
      '1 added, 1 changed, 1 removed; 1 secrets',
      'Nothing was changed: this was a plan.',
    ],
    warned: ['UP_SPARE (key spare of up) is not set: the secret stays as it is'],
  })
  expect(seen).toEqual([
    {
      route: 'POST /config/apply',
      token: 'Bearer token',
      body: {
        document: parse(TOML),
        secrets: { up: { default: 'sk-1' } },
        prune: true,
        dry_run: true,
      },
    },
  ])
})

test('where nothing would change, plan and apply say so, send nothing more and end with 0', async () => {
  answers = { 'POST /config/apply': { body: NOTHING } }
  const path = await file('b.json', JSON.stringify({ $schema: 'https://example.com/x', format: 1 }))
  for (const name of ['plan', 'apply']) {
    const ran = await config([name, path])
    expect(ran).toEqual({ code: 0, said: ['Nothing to change; the last version is 3.'], warned: [] })
  }
  expect(seen.map(({ body }) => [body.dry_run, body.document])).toEqual([
    [true, { format: 1 }],
    [true, { format: 1 }],
  ])
})

test('applying carries out what was shown, on the version it was planned on', async () => {
  answers = { 'POST /config/apply': { body: PLAN }, 'POST /config/apply!': { body: { ...PLAN, version: 4 } } }
  const ran = await config(['apply', await file('c.toml', TOML), '--note', 'why'], { UP_KEY: 'sk-1', UP_SPARE: 'sk-2' })
  expect([ran.code, ran.said.at(-1), ran.warned]).toEqual([0, 'Done; the version is 4 now.', []])
  expect(seen[1]?.body).toMatchObject({
    secrets: { up: { default: 'sk-1', spare: 'sk-2' } },
    dry_run: false,
    expected_version: 3,
    note: 'why',
  })
  expect(JSON.stringify(ran)).not.toContain('sk-')
})

test('what the gateway refuses is told in its words, and ends with the code of a conflict', async () => {
  const message = 'The configuration is at version 4, not 3: somebody changed it. Plan again.'
  answers = {
    'POST /config/apply': { body: PLAN },
    'POST /config/apply!': { status: 409, body: { error: { message } } },
  }
  const ran = await config(['apply', await file('d.toml', TOML)])
  expect([ran.code, ran.warned.at(-1)]).toEqual([5, `error  ${message}`])
})

test('a rollback shows what it changes; its dry run ends with 8', async () => {
  answers = { 'POST /config/rollback': { body: PLAN }, 'POST /config/rollback!': { body: { ...PLAN, version: 4 } } }
  expect((await config(['rollback', '2', '--dry-run'])).code).toBe(8)
  expect((await config(['rollback', '2'])).said.at(-1)).toBe('Done; the version is 4 now.')
  expect(seen.map(({ body }) => [body.version, body.dry_run, body.expected_version])).toEqual([
    [2, true, undefined],
    [2, true, undefined],
    [2, false, 3],
  ])
  expect((await config(['rollback', 'x'])).code).toBe(2)
})

test.each(['toml', 'json'])('pulling into .%s writes what stands, and keeps the places of secrets', async (ending) => {
  const keys = { default: { secret: 'keep', weight: 1, disabled: false } }
  const document = {
    format: 1,
    providers: { up: { kind: 'openai', base_url: 'https://api.example.com', options: {}, keys } },
    models: { 'meta/m:1': { targets: [{ provider: 'up', model: 'a', context_tokens: 10 }] } },
  }
  answers = { 'GET /config': { body: { version: 3, document } } }
  const path = join(dir, `pulled.${ending}`)
  const read = async () => {
    const text = await readFile(path, 'utf8')
    return ending === 'toml' ? parse(text) : JSON.parse(text)
  }
  expect((await config(['pull', path])).code).toBe(0)
  expect(await read()).toEqual(document)
  expect((await config(['pull', path])).warned[0]).toContain('--force')
  const named = (await readFile(path, 'utf8')).replace('keep', 'env:UP_KEY')
  await writeFile(path, named)
  expect((await config(['pull', path, '--force'])).code).toBe(0)
  expect((await read()).providers.up.keys.default.secret).toBe('env:UP_KEY')
})

test('versions are listed, newest first', async () => {
  const data = [
    { version: 2, applied_at: '2026-11-22T00:00:00.000Z', actor: 'operator', note: 'why' },
    { version: 1, applied_at: '2026-11-21T00:00:00.000Z', actor: 'operator' },
  ]
  answers = { 'GET /config/versions?limit=20': { body: { data } } }
  expect((await config(['versions'])).said).toEqual([
    'VERSION  APPLIED                   BY        NOTE',
    '      2  2026-11-22T00:00:00.000Z  operator  why',
    '      1  2026-11-21T00:00:00.000Z  operator',
  ])
})

test.each([
  ['a secret where TOML is expected', 'x.toml', 'sk-canary ='],
  ['a secret where JSON is expected', 'x.json', '{"sk-canary'],
  ['another type where keys stand', 'y.json', '{"providers": {"up": {"keys": "sk-canary"}}}'],
  ['another ending', 'x.yaml', 'sk-canary'],
])('%s is refused without a word of it', async (_, name, text) => {
  const ran = await config(['plan', await file(name, text)])
  expect([ran.code, ran.said, seen]).toEqual([1, [], []])
  expect(ran.warned.join('')).not.toContain('sk-canary')
})
