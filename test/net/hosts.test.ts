// Prefill on one host, decode on two others, the gateway on a fourth, over lines that delay, lose and are cut: the same tokens as
// from one engine, whatever happens on the way, and nothing held anywhere afterwards.
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { obtainModel } from '../../scripts/model.ts'
import { parseOptions } from '../../scripts/options.ts'
import { readEvents, System, TINY_MODEL } from '../e2e/support/system.ts'
import { Host } from './network.ts'

const ROOT = join(import.meta.dirname, '..', '..')
/** The same file as the gateway's own backend serves, under another name: what it says alone is what must be said here. */
const FAR_MODEL = 'tiny-far'
const PORT = 7801
const KV_PORT = 7901
const PROMPT_TOKENS = 2500

let system: System
let dir: string
let modelPath: string
let prefill: Host
let decodes: Host[]

type Backend = {
  id: string
  state: string
  url: string
  models: {
    model: string
    role: string
    sequences_running: number
    sequences_waiting: number
    requests_queued: number
    kv_blocks_used: number
    kv_reservations?: number
  }[]
}

async function backends(): Promise<Backend[]> {
  const { body } = await system.admin<{ data: Backend[] }>('GET', '/backends')
  return body.data.filter(({ models }) => models.some(({ model }) => model === FAR_MODEL))
}

/** Starts an agent with its engine on a host, and waits until it has joined. */
async function startAgent(host: Host, name: string, engines: string): Promise<void> {
  const { body } = await system.admin<{ token: string }>('POST', '/backends/tokens', { label: name })
  const options = {
    engine: join(ROOT, 'native-engine', 'build', 'penstock-engine'),
    model: modelPath,
    'model-name': FAR_MODEL,
    gateway: `http://${host.gateway}:${new URL(system.baseUrl).port}`,
    'state-dir': join(dir, name),
    listen: `${host.address}:${PORT}`,
    engines,
    threads: 1,
    'kv-mib': 32,
    'kv-listen': `${host.address}:${KV_PORT}`,
  }
  const args = Object.entries(options).flatMap(([flag, value]) => [`--${flag}`, String(value)])
  const env = { ...process.env, PENSTOCK_JOIN_TOKEN: body.token }
  const agent = host.start(process.execPath, [join(ROOT, 'backends', 'main.ts'), ...args], env)
  const said: string[] = []
  createInterface({ input: agent.stderr as NodeJS.ReadableStream }).on('line', (line) => said.push(line))
  const lines = createInterface({ input: agent.stdout as NodeJS.ReadableStream })
  await new Promise<void>((resolve, reject) => {
    lines.on('line', (line) => {
      if ((JSON.parse(line) as { event: string }).event === 'ready') resolve()
    })
    once(agent, 'exit').then(() => reject(new Error(`the agent on ${name} ended:\n${said.slice(-10).join('\n')}`)))
  })
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'penstock-hosts-'))
  system = await System.start({ model: TINY_MODEL, args: ['--host', '0.0.0.0', '--engines', 'both'] })
  const parsed = parseOptions(['--model', TINY_MODEL], { env: process.env, homeDir: homedir(), cwd: ROOT })
  if (parsed.kind !== 'start') throw new Error(parsed.text)
  modelPath = (await obtainModel({ ...parsed.options, signal: new AbortController().signal })).path
  await system.admin('POST', '/prices', {
    provider: 'fleet',
    model: FAR_MODEL,
    usd_per_million: { input_uncached: '0.02', input_cache_read: '0.002', output_text: '0.06' },
  })
  const [own] = (await system.admin<{ targets: { context_tokens: number }[] }>('GET', `/models/${TINY_MODEL}`)).body
    .targets
  await system.admin('PUT', `/models/${FAR_MODEL}`, {
    targets: [{ provider: 'fleet', model: FAR_MODEL, context_tokens: own?.context_tokens }],
  })
  prefill = await Host.add(10)
  decodes = [await Host.add(11), await Host.add(12)]
  await startAgent(prefill, 'prefill', 'prefill')
  await startAgent(decodes[0] as Host, 'decode-1', 'decode')
  await startAgent(decodes[1] as Host, 'decode-2', 'decode')
  await System.until(async () => (await backends()).filter(({ state }) => state === 'live').length === 3)
})
afterAll(async () => {
  for (const host of [prefill, ...(decodes ?? [])]) await host?.remove()
  await system?.discard()
  await rm(dir, { recursive: true, force: true })
})

/** Every line whole, and every host known. */
async function mended(): Promise<void> {
  for (const host of [prefill, ...decodes]) {
    await host.heal()
    await host.set({ delayMs: 5, jitterMs: 2 })
  }
  await System.until(async () => (await backends()).filter(({ state }) => state === 'live').length === 3)
}

beforeEach(mended)

/** Whatever a test did: nothing runs, waits or is held in the end. */
afterEach(async () => {
  for (const host of [prefill, ...decodes]) {
    await host.heal()
    await host.set({ delayMs: 1 })
  }
  await System.until(async () =>
    (await backends()).every(({ models }) =>
      models.every(
        (one) => one.sequences_running + one.sequences_waiting + one.requests_queued + one.kv_blocks_used === 0,
      ),
    ),
  )
})

let nonce = 0
/** Tokens that no cache has, so many that it pays to have them computed elsewhere. */
const longPrompt = (): number[] => {
  nonce++
  return Array.from({ length: PROMPT_TOKENS }, (_, index) => 32 + ((index * (7 + nonce) + nonce) % 90))
}

type Answer = { id: string; text: string; status: number; finish: string | null }
const withoutId = (answers: readonly Answer[]) => answers.map(({ id: _, ...rest }) => rest)
/** The tokens that end an answer are never drawn. */
const ENDLESS = { logit_bias: { '0': -100, '1': -100, '2': -100 } }

async function ask(model: string, prompt: readonly number[], more: object = {}): Promise<Answer> {
  const response = await system.post('/v1/completions', {
    model,
    prompt,
    max_tokens: 40,
    temperature: 0.8,
    seed: 7,
    ...more,
  })
  const body = (await response.json()) as {
    choices?: { text: string; finish_reason: string }[]
    error?: { message: string }
  }
  if (response.status !== 200) throw new Error(`HTTP ${response.status}: ${JSON.stringify(body)}`)
  const [choice] = body.choices ?? []
  const id = response.headers.get('x-request-id') ?? ''
  return { id, text: choice?.text ?? '', status: response.status, finish: choice?.finish_reason ?? null }
}

/** What one engine alone says, against what the hosts together say. */
async function expectSame(
  prompts: readonly (readonly number[])[],
  during: () => Promise<void> = async () => {},
): Promise<void> {
  const far = Promise.all(prompts.map((prompt) => ask(FAR_MODEL, prompt)))
  far.catch(() => {})
  await during()
  const near = await Promise.all(prompts.map((prompt) => ask(TINY_MODEL, prompt)))
  expect(withoutId(await far)).toEqual(withoutId(near))
}

/** Of an agent's own metrics, summed over their labels. */
async function metric(host: Host, name: string, label = ''): Promise<number> {
  const text = await (await fetch(`http://${host.address}:${PORT}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`) && line.includes(label))
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
}

/** Hand-overs to all decode hosts that ended so. */
async function outcomes(...names: string[]): Promise<number> {
  const counts = decodes.flatMap((host) =>
    names.map((name) => metric(host, 'penstock_handoffs_total', `outcome="${name}"`)),
  )
  return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0)
}
const arrived = () => outcomes('arrived')

describe('prefill on another host', () => {
  it('says what one engine alone says, and was handed over', async () => {
    const before = await arrived()
    // The first prompts may come before the gateway has heard of the prefill host, and are right all the same.
    await vi.waitFor(async () => {
      await expectSame([longPrompt(), longPrompt(), longPrompt(), longPrompt()])
      expect(await arrived()).toBeGreaterThan(before)
    }, 20_000)
  })

  it('says the same where the line to it is cut while prompts are on their way, and while nobody has noticed', async () => {
    const lost = async () => await outcomes('failed', 'late', 'refused')
    const before = await lost()
    const several = (count: number) => Array.from({ length: count }, longPrompt)
    // An agent that finds its own engine quicker asks nobody: so many at once that it does, and again should it not have.
    await vi.waitFor(async () => {
      await mended()
      // Slow enough that what is cut is under way.
      await prefill.set({ delayMs: 100 })
      await expectSame(several(8), async () => {
        await new Promise((resolve) => setTimeout(resolve, 250))
        await prefill.cut()
      })
      await expectSame(several(4))
      expect(await lost()).toBeGreaterThan(before)
    }, 45_000)
  })

  it('says the same over a slow line that loses packets', async () => {
    await prefill.set({ delayMs: 60, jitterMs: 30, lossPermille: 30 })
    await expectSame([longPrompt(), longPrompt(), longPrompt()])
  })
})

/** The same as a stream. */
async function read(
  model: string,
  prompt: readonly number[],
): Promise<{ id: string; text: string; end: string | undefined }> {
  const body = { model, prompt, max_tokens: 4000, temperature: 0.8, seed: 7, stream: true, ...ENDLESS }
  const response = await system.post('/v1/completions', body)
  const { data } = await readEvents(response)
  const texts = data.slice(0, -1).map((line) => JSON.parse(line).choices?.[0]?.text ?? '')
  return { id: response.headers.get('x-request-id') ?? '', text: texts.join(''), end: data.at(-1) }
}

describe('a decode host that is cut off in mid-stream', () => {
  it('is left: its streams go on elsewhere, say what one engine alone says, and are billed once', async () => {
    const prompts = Array.from({ length: 4 }, () => longPrompt().slice(0, 200))
    const far = Promise.all(prompts.map((prompt) => read(FAR_MODEL, prompt)))
    far.catch(() => {})
    // Whichever has more of them.
    let running: number[] = []
    await System.until(async () => {
      running = await Promise.all(decodes.map((host) => metric(host, 'vllm:num_requests_running')))
      return running.reduce((sum, count) => sum + count, 0) === prompts.length
    })
    await (decodes[running.indexOf(Math.max(...running))] as Host).cut()
    const near = await Promise.all(prompts.map((prompt) => read(TINY_MODEL, prompt)))
    expect((await far).map(({ text, end }) => ({ text, end }))).toEqual(near.map(({ text, end }) => ({ text, end })))
    const ids = (await far).map(({ id }) => id)
    for (const id of ids)
      expect(await system.usage(id)).toMatchObject({ status: 'ok', outputTokens: 4000, attempts: 1 })
    const moved = await system.sql`
      SELECT count(*)::int AS count FROM usage_attempts
      WHERE request_id IN ${system.sql(ids.map((id) => id.replace(/^req_/, '')))} AND route LIKE '%"moves"%'`
    expect(moved[0]?.count).toBeGreaterThan(0)
  })
})
