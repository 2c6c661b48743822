// The command line against the whole system, as a person and as a script would drive it. Commands run in this process, with streams
// of their own; that a process of its own does the same is shown once.
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { commands } from '../../cli/commands.ts'
import { run } from '../../cli/run.ts'
import { System, TINY_MODEL } from './support/system.ts'

const MAIN = join(import.meta.dirname, '../../cli/main.ts')
const COMMAND_TIMEOUT_MS = 30_000

let system: System
let dir: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'penstock-cli-'))
  system = await System.start({ model: TINY_MODEL })
})
afterAll(async () => {
  await system?.discard()
  await rm(dir, { recursive: true, force: true })
})

type Ran = { code: number | null; out: string; err: string }
type Way = { env?: Record<string, string>; input?: string; stopAfter?: (out: string) => boolean }

/** Nothing of this process's own settings, so that only what a test says counts. */
const settings = (env: Record<string, string> = {}) => ({
  PENSTOCK_URL: system.baseUrl,
  PENSTOCK_DATA: system.dataDir,
  PATH: process.env.PATH ?? '',
  ...env,
})

async function penstock(words: string[], { env, input = '', stopAfter }: Way = {}): Promise<Ran> {
  const [out, err]: [string[], string[]] = [[], []]
  const interrupted = new AbortController()
  const into = (texts: string[]) => ({
    write: (text: string | Uint8Array) => {
      texts.push(typeof text === 'string' ? text : Buffer.from(text).toString('utf8'))
      if (stopAfter?.(texts.join('')) === true) interrupted.abort()
    },
  })
  const terminal = { stdin: Readable.from([Buffer.from(input)]), stdout: into(out), stderr: into(err) }
  const around = { env: settings(env), terminal, signal: interrupted.signal, nowMs: () => Date.now() }
  const code = await run(words, commands, around)
  return { code, out: out.join(''), err: err.join('') }
}

/** As `npx penstock` runs it. */
function asProcess(words: string[], input = ''): Promise<Ran> {
  const child = spawn(process.execPath, [MAIN, ...words], { env: settings(), timeout: COMMAND_TIMEOUT_MS })
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text
  })
  child.stdin.end(input)
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, out, err })))
}

/** `data` of a command that must end well, and whose schema must name it. */
async function json<T>(words: string[], shape: z.ZodType<T>, way: Way = {}): Promise<T> {
  const ran = await penstock([...words, '--json'], way)
  expect(ran, `${words.join(' ')}: ${ran.err}`).toMatchObject({ code: 0, err: '' })
  const answer = z.object({ schema: z.string(), data: shape }).parse(JSON.parse(ran.out))
  expect(answer.schema).toMatch(/^penstock\.[a-z.-]+\.v1$/)
  return answer.data
}

async function refusal(words: string[], way: Way = {}) {
  const ran = await penstock([...words, '--json'], way)
  expect(ran.out).toBe('')
  const { error } = z
    .object({
      error: z.object({ code: z.string(), message: z.string(), hint: z.string().optional(), exit_code: z.number() }),
    })
    .parse(JSON.parse(ran.err))
  expect(error.exit_code).toBe(ran.code)
  return error
}

const Key = z.looseObject({ id: z.string(), name: z.string(), key: z.string().optional() })
const Keys = z.array(Key)

describe('a new user', () => {
  it('finds everything as it should be', async () => {
    const findings = await json(
      ['doctor'],
      z.array(z.object({ check: z.string(), verdict: z.string(), says: z.string() })),
    )
    expect(findings.filter(({ verdict }) => verdict === 'bad')).toEqual([])
    expect(findings.find(({ check }) => check === 'fleet')?.says).toContain(TINY_MODEL)
  })

  it('makes a key, asks with it, and finds the request, its tokens and its cost', async () => {
    const made = await penstock(['keys', 'create', 'me', '--quiet'])
    expect(made).toMatchObject({ code: 0, out: expect.stringMatching(/^\S{20,}\n$/) })
    const env = { PENSTOCK_KEY: made.out.trim() }
    const Answer = z.looseObject({
      text: z.string(),
      request_id: z.string(),
      usage: z.looseObject({ completion_tokens: z.number() }),
    })
    const answer = await json(['chat', 'Rivers', '--max-tokens', '5', '--temperature', '0'], Answer, { env })
    expect(answer.usage.completion_tokens).toBe(5)
    const piped = await penstock(['chat', '--max-tokens', '5', '--temperature', '0'], { env, input: 'Rivers' })
    expect(piped).toEqual({ code: 0, out: `${answer.text}\n`, err: '' })

    await system.usage(answer.request_id)
    const Shown = z.looseObject({
      output_tokens: z.number(),
      cost_usd: z.string(),
      attempt_rows: z.array(z.looseObject({ provider: z.string() })),
    })
    const shown = await json(['requests', 'show', answer.request_id], Shown)
    expect(shown).toMatchObject({ output_tokens: 5, attempt_rows: [{ provider: 'fleet' }] })
    const listed = await json(['requests', 'list', '--last', '1h'], z.array(z.looseObject({ id: z.string() })))
    expect(listed.map(({ id }) => id)).toContain(answer.request_id)
    const human = await penstock(['requests', 'show', answer.request_id])
    expect(human.out).toContain(`$${shown.cost_usd}`)
  })

  it('reaches a budget and is told so by its own exit code', async () => {
    const { out } = await penstock(['keys', 'create', 'poor', '--quiet'])
    const [key] = (await json(['keys', 'list'], Keys)).filter(({ name }) => name === 'poor')
    expect(await penstock(['limits', 'set', 'money/month=0', '--key', key?.id ?? ''])).toMatchObject({ code: 0 })
    const refused = await refusal(['chat', 'Rivers', '--model', TINY_MODEL], { env: { PENSTOCK_KEY: out.trim() } })
    expect(refused).toMatchObject({ code: 'budget_exhausted', exit_code: 6 })
  })
})

describe('keys', () => {
  it('are made once by a script that says so, change hands and end', async () => {
    const first = await json(['keys', 'create', 'ci', '--if-absent', '--model', TINY_MODEL, '--expires', '30d'], Key)
    const again = await json(['keys', 'create', 'ci', '--if-absent'], Key)
    expect({ ...again }).toMatchObject({ id: first.id })
    expect([typeof first.key, again.key]).toEqual(['string', undefined])
    const rotated = await json(['keys', 'rotate', 'ci', '--overlap', '0s'], Key)
    expect(rotated.id).not.toBe(first.id)
    expect(
      await penstock(['chat', 'Rivers', '--model', TINY_MODEL, '--max-tokens', '2'], {
        env: { PENSTOCK_KEY: rotated.key ?? '' },
      }),
    ).toMatchObject({ code: 0 })
    expect(await refusal(['keys', 'revoke', rotated.id])).toMatchObject({
      code: 'usage',
      exit_code: 2,
      hint: expect.stringContaining('--yes'),
    })
    expect(await penstock(['keys', 'revoke', rotated.id, '--yes'])).toMatchObject({ code: 0 })
    expect(await penstock(['keys', 'revoke', rotated.id, '--yes'])).toMatchObject({
      code: 0,
      out: expect.stringContaining('was revoked'),
    })
    expect(
      await refusal(['chat', 'Rivers', '--model', TINY_MODEL], { env: { PENSTOCK_KEY: rotated.key ?? '' } }),
    ).toMatchObject({ exit_code: 3 })
  })

  it('are not made by a dry run, which shows no secret and ends with 8', async () => {
    const before = await json(['keys', 'list', '--all'], Keys)
    const dry = await penstock(['keys', 'create', 'never', '--dry-run'])
    expect(dry).toMatchObject({ code: 8, out: expect.stringContaining('POST /admin/v1/organisations/') })
    const ids = (keys: typeof before) => keys.map(({ id }) => id)
    expect(ids(await json(['keys', 'list', '--all'], Keys))).toEqual(ids(before))
  })
})

describe('limits', () => {
  it('are set and lifted one by one, and setting the same again changes nothing', async () => {
    const Place = z.looseObject({
      limits: z.array(z.looseObject({ meter: z.string(), max: z.number().optional(), max_usd: z.string().optional() })),
    })
    const set = await json(
      ['limits', 'set', 'requests/minute=60', 'money/month=25.00', 'concurrency=8', '--user', '*'],
      Place,
    )
    expect(set.limits.map(({ meter }) => meter).sort()).toEqual(['concurrency', 'money', 'requests'])
    await json(['limits', 'set', 'requests/minute=90', '--user', '*'], Place)
    expect(await penstock(['limits', 'set', 'requests/minute=90', '--user', '*'])).toMatchObject({
      out: expect.stringContaining('Nothing to change'),
    })
    const left = await json(['limits', 'unset', 'money/month', '--user', '*'], Place)
    expect(left.limits).toEqual([
      expect.objectContaining({ meter: 'concurrency', max: 8 }),
      expect.objectContaining({ meter: 'requests', max: 90 }),
    ])
    expect(await refusal(['limits', 'set', 'requests/fortnight=3'])).toMatchObject({ exit_code: 2 })
  })
})

describe('an operator', () => {
  it('sees the machine, sends it no more requests, and takes that back', async () => {
    const Backends = z.array(
      z.looseObject({ id: z.string(), models: z.array(z.looseObject({ draining: z.boolean() })) }),
    )
    const [one] = await json(['backends', 'list'], Backends)
    expect(await penstock(['backends', 'drain', one?.id ?? ''])).toMatchObject({ code: 0 })
    await System.until(async () =>
      (await json(['backends', 'list'], Backends))[0]?.models.every(({ draining }) => draining),
    )
    expect(await penstock(['backends', 'drain', one?.id ?? '', '--stop'])).toMatchObject({ code: 0 })
    await System.until(async () =>
      (await json(['backends', 'list'], Backends))[0]?.models.every(({ draining }) => !draining),
    )
    expect(await refusal(['backends', 'drain', 'nobody'])).toMatchObject({ code: 'not_found', exit_code: 4 })
  })

  it('enrols a machine, lets people in, grants credit once, and finds all of it in the audit', async () => {
    expect(await penstock(['backends', 'enroll', '--label', 'spare', '--quiet'])).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^\S+\n$/),
    })
    const User = z.looseObject({ id: z.string(), role: z.string().nullable() })
    expect(await json(['users', 'create', 'ada@example.com', '--role', 'developer'], User)).toMatchObject({
      role: 'developer',
    })
    expect(await json(['users', 'role', 'ada@example.com', 'viewer'], User)).toMatchObject({ role: 'viewer' })
    expect(await penstock(['users', 'suspend', 'ada@example.com'])).toMatchObject({
      out: expect.stringContaining('suspended'),
    })
    await json(['teams', 'create', 'search'], z.looseObject({ slug: z.literal('search') }))
    expect(await penstock(['teams', 'add', 'search', 'ada@example.com'])).toMatchObject({ code: 0 })
    const grant = ['credit', 'grant', '25.00', '--id', '2f0c7a52-7d5c-4f5e-9a35-0a4f2f0d6d11', '--note', 'invoice 17']
    const Credit = z.looseObject({ balance_usd: z.string() })
    await json(grant, z.unknown())
    const { balance_usd: once } = await json(['credit', 'show'], Credit)
    await json(grant, z.unknown())
    expect((await json(['credit', 'show'], Credit)).balance_usd).toBe(once)
    const acts = await json(['audit', 'list', '--all'], z.array(z.looseObject({ action: z.string() })))
    expect(acts.map(({ action }) => action)).toEqual(
      expect.arrayContaining(['enrolment_token.create', 'credit.grant', 'user.change']),
    )
    expect(await json(['ledger', 'check'], z.looseObject({ ok: z.boolean() }))).toMatchObject({ ok: true })
  })

  it('adds up usage and exports it, and a file that is there is not written over', async () => {
    const Usage = z.looseObject({
      total: z.looseObject({ requests: z.number() }),
      data: z.array(z.looseObject({ model: z.string(), requests: z.number() })),
    })
    const usage = await json(['usage', 'show', '--by', 'model', '--last', '1h'], Usage)
    expect(usage.data.reduce((sum, { requests }) => sum + requests, 0)).toBe(usage.total.requests)
    expect(usage.total.requests).toBeGreaterThan(0)
    const out = join(dir, 'usage.csv')
    expect(await penstock(['usage', 'export', '--last', '1h', '--out', out])).toMatchObject({ code: 0 })
    const lines = (await readFile(out, 'utf8')).trim().split('\n')
    expect(lines.length).toBeGreaterThan(usage.total.requests)
    expect(await penstock(['usage', 'export', '--last', '1h', '--out', out])).toMatchObject({ code: 1 })
    expect((await penstock(['usage', 'export', '--last', '1h'])).out.split('\n')[0]).toBe(lines[0])
  })

  it('narrows a key and widens it again, and sees when it was last used', async () => {
    const Scoped = z.looseObject({ models: z.array(z.string()).nullable(), expires_at: z.string().nullable() })
    const { out } = await penstock(['keys', 'create', 'narrow', '--quiet'])
    const env = { PENSTOCK_KEY: out.trim() }
    const chat = ['chat', 'Rivers', '--model', TINY_MODEL, '--max-tokens', '1']
    expect(await penstock(chat, { env })).toMatchObject({ code: 0 })
    const narrowed = await json(['keys', 'update', 'narrow', '--model', 'another', '--expires', '1d'], Scoped)
    expect(narrowed).toMatchObject({ models: ['another'], expires_at: expect.any(String) })
    await System.until(async () => (await penstock(chat, { env })).code === 3)
    const widened = await json(['keys', 'update', 'narrow', '--lift', 'models', '--expires', 'never'], Scoped)
    expect(widened).toMatchObject({ models: null, expires_at: null })
    expect(await refusal(['keys', 'update', 'narrow', '--lift', 'models', '--model', 'x'])).toMatchObject({
      exit_code: 2,
    })
    expect(await refusal(['keys', 'update', 'narrow'])).toMatchObject({ exit_code: 2 })
    const Used = z.array(z.looseObject({ name: z.string(), last_used_at: z.string().nullable() }))
    await System.until(
      async () => (await json(['keys', 'list'], Used)).find(({ name }) => name === 'narrow')?.last_used_at != null,
    )
  })

  it('reads the statement of the running month, which agrees with the ledger and with its own table', async () => {
    const [running] = await json(
      ['statements', 'list'],
      z.array(z.looseObject({ month: z.string(), over: z.boolean() })),
    )
    expect(running).toMatchObject({ over: false })
    const Statement = z.looseObject({
      matches_ledger: z.boolean(),
      usage_nanousd: z.string(),
      lines: z.array(z.unknown()),
    })
    const file = join(dir, 'statement.csv')
    const month = running?.month ?? ''
    expect(await json(['statements', 'show', month], Statement)).toMatchObject({ matches_ledger: true })
    expect((await penstock(['statements', 'show', month])).out).toMatch(/agrees with the ledger +yes/)
    expect(await penstock(['statements', 'show', month, '--csv', file])).toMatchObject({ code: 0 })
    expect(await refusal(['statements', 'show', month, '--csv', file])).toMatchObject({ code: 'exists' })
    const [head = '', ...rows] = (await readFile(file, 'utf8')).trim().split('\r\n')
    const column = (name: string) =>
      head
        .replace(/^\uFEFF/, '')
        .split(',')
        .indexOf(name)
    const sum = rows
      .map((row) => row.split(','))
      .filter((cells) => ['usage', 'correction'].includes(cells[column('kind')] ?? ''))
      .reduce((total, cells) => total + BigInt(cells[column('amount_nanousd')] || 0), 0n)
    expect(sum).toBeGreaterThan(0n)
    expect(await refusal(['statements', 'show', '2026-13'])).toMatchObject({ exit_code: 2 })
  })

  it('sees how full limits are, how targets do, and who is signed in', async () => {
    await json(['limits', 'set', 'money/month=25.00'], z.unknown())
    const State = z.looseObject({
      data: z.array(
        z.looseObject({ scope: z.string(), meter: z.string(), max: z.string(), settled: z.string().nullable() }),
      ),
    })
    await System.until(async () =>
      (await json(['limits', 'state'], State)).data.some(
        ({ scope, meter, max }) => scope === 'org' && meter === 'money' && max === '25000000000',
      ),
    )
    expect((await penstock(['limits', 'state'])).out).toMatch(/organisation +money\/month +\$\S+ +\$\S+ +\$25 /)
    const Health = z.looseObject({ data: z.array(z.looseObject({ provider: z.string() })) })
    expect((await json(['providers', 'health'], Health)).data).toContainEqual(
      expect.objectContaining({ provider: 'fleet' }),
    )
    expect((await penstock(['providers', 'health'])).out).toContain('fleet')
    expect(await json(['sessions', 'list', '--all'], z.array(z.unknown()))).toEqual([])
    const nobody = '6b1c2a90-0000-4000-8000-000000000000'
    expect(await refusal(['sessions', 'end', nobody, '--yes'])).toMatchObject({ exit_code: 4 })
  })

  it('watches the fleet as it changes', async () => {
    const { out } = await penstock(['backends', 'watch', '--json'], { stopAfter: (text) => text.includes('\n') })
    const Snapshot = z.looseObject({ data: z.array(z.looseObject({ models: z.array(z.unknown()) })) })
    expect(Snapshot.parse(JSON.parse(out.split('\n')[0] ?? '')).data[0]?.models.length).toBeGreaterThan(0)
    const lines = await penstock(['backends', 'watch'], { stopAfter: (text) => text.includes('\n') })
    expect(lines.out).toContain(TINY_MODEL)
  })

  it('follows requests as they come', async () => {
    const following = penstock(['logs', '--follow', '--json', '--limit', '1'], {
      stopAfter: (out) => out.split('\n').length > 2,
    })
    const asking = setInterval(
      () =>
        void system.post('/v1/chat/completions', {
          model: TINY_MODEL,
          max_tokens: 1,
          messages: [{ role: 'user', content: 'x' }],
        }),
      500,
    )
    const { out } = await following.finally(() => clearInterval(asking))
    const ids = out
      .trim()
      .split('\n')
      .map((line) => z.looseObject({ id: z.string() }).parse(JSON.parse(line)).id)
    expect(ids.length).toBeGreaterThanOrEqual(2)
    expect(new Set(ids).size).toBe(ids.length)
  })
})

describe('what goes wrong', () => {
  it('ends with the code of its class and says what to do', async () => {
    expect(await refusal(['keys', 'list'], { env: { PENSTOCK_TOKEN: 'wrong' } })).toMatchObject({
      exit_code: 3,
      hint: expect.any(String),
    })
    expect(await refusal(['keys', 'list'], { env: { PENSTOCK_DATA: dir } })).toMatchObject({
      code: 'no_token',
      exit_code: 3,
    })
    expect(await refusal(['keys', 'show', 'nobody'])).toMatchObject({ exit_code: 4 })
    expect(await refusal(['keys', 'list', '--org', 'defualt'])).toMatchObject({
      exit_code: 4,
      hint: 'Did you mean default?',
    })
    expect(await refusal(['keys', 'list'], { env: { PENSTOCK_URL: 'http://127.0.0.1:1' } })).toMatchObject({
      code: 'unreachable',
      exit_code: 7,
    })
  })

  it('is told where a web server that is no gateway answers', async () => {
    const other = createServer((_, response) =>
      response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>hello</h1>'),
    )
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
    const env = { PENSTOCK_URL: `http://127.0.0.1:${(other.address() as AddressInfo).port}` }
    try {
      expect(await refusal(['keys', 'list'], { env })).toMatchObject({ code: 'unknown_answer', exit_code: 1 })
      expect(await penstock(['doctor'], { env })).toMatchObject({
        code: 1,
        out: expect.stringContaining('no Penstock gateway'),
      })
    } finally {
      other.close()
    }
  })

  it('is told by a process of its own alike, and a pipe gets plain text', async () => {
    expect(await asProcess(['keys', 'show', 'nobody'])).toMatchObject({
      code: 4,
      out: '',
      err: expect.stringMatching(/^error {2}There/),
    })
    expect(await asProcess(['chat', '--max-tokens', '2'], 'Rivers')).toMatchObject({ code: 0, err: '' })
    expect(await asProcess(['up', '--port', 'x'])).toMatchObject({ code: 2 })
  })

  it('does not leave the token on a command line, and takes it from standard input', async () => {
    const ran = await penstock(['orgs', 'list', '--token-stdin', '--json'], {
      env: { PENSTOCK_DATA: dir },
      input: await system.adminToken,
    })
    expect(ran.code).toBe(0)
  })

  it('shows no control character of somebody else on a terminal', async () => {
    expect(await penstock(['keys', 'create', 'a\u202eb'])).toMatchObject({ code: expect.any(Number) })
    const { out } = await penstock(['keys', 'list'])
    expect([...out].filter((letter) => letter !== '\n' && (letter < ' ' || letter === '\u202e'))).toEqual([])
  })

  it('is mended where it is safe to: secrets that others can read', async () => {
    const secrets = join(dir, 'secrets.json')
    await writeFile(join(dir, 'penstock.json'), '{"layout":1}')
    await writeFile(secrets, '{}', { mode: 0o644 })
    const env = { PENSTOCK_DATA: dir, PENSTOCK_TOKEN: await system.adminToken }
    expect((await penstock(['doctor'], { env })).code).toBe(1)
    expect((await penstock(['doctor', '--fix'], { env })).out).toContain('not any more')
    expect((await stat(secrets)).mode & 0o777).toBe(0o600)
  })
})
