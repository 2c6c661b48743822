// Hand-overs between real engines of one agent: what they say together is what one of them says alone, to the bit, and in the
// end neither holds a block.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { DispatchEvent, DispatchRequest } from '../../protocol/dispatch.ts'
import { chunkHashes, promptPieces } from '../../protocol/prefix.ts'
import type { KvSeen } from '../../protocol/report.ts'
import { buildEngine } from '../../scripts/engine-build.ts'
import { tinyModel } from '../../scripts/tiny-model.ts'
import {
  dispatchRequest,
  eventStream,
  eventsOf,
  type Harness,
  startHarness,
  until,
} from '../unit/backends/support/harness.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const WORDS = 'river water stone valley mountain rain sea boat bridge fish tree wind cloud sun moon star'.split(' ')
/** Long enough that handing it over pays, and another one for each seed. */
function story(seed: number): string {
  let state = seed
  return Array.from({ length: 1500 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return WORDS[state >>> 28]
  }).join(' ')
}

let folder: string
let alone: Harness
let apart: Harness

beforeAll(async () => {
  const sourceDir = join(ROOT, 'native-engine')
  const buildDir = join(sourceDir, 'build')
  const { signal } = new AbortController()
  await buildEngine({ sourceDir, buildDir, tests: false, target: 'penstock-engine', signal })
  folder = mkdtempSync(join(tmpdir(), 'handoff-e2e-'))
  const modelPath = join(folder, 'tiny.gguf')
  writeFileSync(modelPath, tinyModel())
  const config = {
    modelPath,
    enginePath: join(buildDir, 'penstock-engine'),
    threads: 1,
    kvMib: 64,
    contextTokens: 8192,
  }
  // One after the other: their engines measure the machine while they start.
  alone = await startHarness({ config: { ...config, engines: ['both'] } })
  apart = await startHarness({ config: { ...config, engines: ['prefill', 'decode'] } })
})
afterAll(async () => {
  await Promise.all([alone?.stop(), apart?.stop()])
  rmSync(folder, { recursive: true, force: true })
})

const metric = async (harness: Harness, name: string) => {
  const text = await (await fetch(`${harness.url}/metrics`)).text()
  return [...text.matchAll(new RegExp(`^${name}\\{.*\\} ([\\d.e+-]+)$`, 'gm'))].map((match) => Number(match[1]))
}
async function nothingHeld(harness: Harness): Promise<void> {
  for (const name of ['vllm:kv_cache_usage_perc', 'vllm:num_requests_running', 'penstock_reservations'])
    await until(async () => (await metric(harness, name)).every((value) => value === 0))
}
const told = (events: readonly DispatchEvent[]) => {
  const tokens = new Map<number, number[]>()
  const logprobs: number[] = []
  for (const event of events) {
    if (event.type === 'tokens') tokens.set(event.choice, [...(tokens.get(event.choice) ?? []), ...event.ids])
    if (event.type === 'delta') logprobs.push(...(event.logprobs ?? []).map(({ logprob }) => logprob))
  }
  return { tokens: [...tokens].sort(([a], [b]) => a - b), logprobs, last: events.at(-1) }
}
const placesOf = (events: readonly DispatchEvent[]) =>
  new Set(events.flatMap((event) => (event.type === 'accepted' ? (event.prefill ?? []) : [])))
const { sampling } = dispatchRequest()
const request = (seed: number, changes: Partial<DispatchRequest> = {}): Partial<DispatchRequest> => ({
  input: { kind: 'completion', prompts: [{ text: story(seed) }], echo: false },
  deadlineInMs: 60_000,
  maxOutputTokens: 40,
  tellsTokens: true,
  sampling: { ...sampling, seed: 11 },
  ...changes,
})

describe('two engines say what one says alone', () => {
  it.each<[string, Partial<DispatchRequest>]>([
    ['at temperature 0', {}],
    ['sampled', { sampling: { ...sampling, temperature: 1.3, topP: 0.95, topK: 40, minP: 0.01, seed: 7 } }],
    [
      'with penalties and probabilities',
      {
        sampling: { ...sampling, temperature: 0.8, repetitionPenalty: 1.2, presencePenalty: 0.5, seed: 8 },
        logprobs: { top: 3 },
      },
    ],
    ['in several choices', { n: 3, sampling: { ...sampling, temperature: 1, seed: 9 } }],
    [
      'in a format',
      {
        sampling: { ...sampling, temperature: 1, seed: 10 },
        grammar: { kind: 'regex', text: '[a-f]{24}', param: 'x' },
      },
    ],
    [
      'of several prompts',
      { input: { kind: 'completion', prompts: [1, 2, 3].map((at) => ({ text: story(90 + at) })), echo: false } },
    ],
  ])('%s', async (name, changes) => {
    const seed = name.length
    const [first, second] = [
      await eventsOf(await alone.dispatch(request(seed, changes))),
      await eventsOf(await apart.dispatch(request(seed, changes))),
    ]
    expect(told(first).last).toMatchObject({ type: 'usage' })
    expect(told(first).tokens.length).toBeGreaterThan(0)
    expect(told(second)).toEqual(told(first))
    expect(placesOf(second)).toContain('handed_over')
    // From the cache, the same once more.
    const again = told(await eventsOf(await apart.dispatch(request(seed, changes))))
    expect(again.tokens).toEqual(told(first).tokens)
  })

  it('with many prompts beside each other, some cancelled on the way', async () => {
    const seeds = Array.from({ length: 12 }, (_, at) => 1000 + at)
    const expected = await Promise.all(
      seeds.map(async (seed) => told(await eventsOf(await alone.dispatch(request(seed))))),
    )
    const cancelled = seeds.map(async (seed, at) => {
      const abort = new AbortController()
      const response = await apart.dispatch(request(5000 + seed), abort.signal)
      setTimeout(() => abort.abort(), 15 * at)
      await response.text().catch(() => {})
    })
    const answers = await Promise.all(
      seeds.map(async (seed) => told(await eventsOf(await apart.dispatch(request(seed))))),
    )
    await Promise.all(cancelled)
    expect(answers.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens))
    await nothingHeld(apart)
  })
})

it('a gateway that asks is told beside the answer what the caches hold since, of prompts that were handed over too', async () => {
  const asked = request(31_337)
  const newsOf = async (kvSeen: KvSeen) => {
    const events = await eventsOf(await apart.dispatch({ ...asked, kvSeen }))
    expect(placesOf(events).size).toBeGreaterThan(0)
    return events.flatMap((event) => (event.type === 'capacity' ? (event.kv ?? []) : []))
  }
  const { input, tenant, model } = dispatchRequest(asked)
  const chunks = chunkHashes(promptPieces({ input }), tenant, model)
  let [epoch, version] = ['', 0]
  const stored = new Set<number>()
  // What an engine says of its cache after the answer has ended comes beside the next one.
  await until(async () => {
    for (const news of await newsOf({ epoch, version })) {
      for (const chunk of news.stored) stored.add(chunk)
      epoch = news.epoch
      version = news.version
    }
    return chunks.every((chunk) => stored.has(chunk))
  })
  // The same prompt once more: its chunks are there, and nothing of them is told again.
  const again = (await newsOf({ epoch, version })).flatMap((news) => [...news.stored, ...news.removed])
  expect(again.filter((chunk) => chunks.includes(chunk))).toEqual([])
})

it('the engines have measured what a step and a hand-over take, and say so', async () => {
  // A report may be of the moment before.
  const last = () => apart.gateway.reports.at(-1)?.frames ?? []
  await until(() => last().every(({ stepModel, transfer }) => stepModel !== undefined && transfer?.reservations === 0))
  const frames = last()
  const decode = frames.find(({ role }) => role === 'decode')
  expect(decode?.transfer).toMatchObject({ remote: false })
  expect(decode?.transfer?.bytesPerToken).toBe(2 * 2 * 2 * 32 * 2)
  expect(decode?.transfer?.measuredBytesPerSecond).toBeGreaterThan(0)
  const { baseMs = 0, prefillTokenMs = 0 } = frames.find(({ role }) => role === 'prefill')?.stepModel ?? {}
  // Of so small a model a token can cost less than what is told of a step.
  expect(baseMs + prefillTokenMs).toBeGreaterThan(0)
})

it('either engine may be killed in the middle of prompts: every answer is right or lost, and nothing stays held', async () => {
  for (const [round, name] of ['prefill-0', 'decode-0', 'prefill-0'].entries()) {
    const seeds = [0, 1, 2, 3, 4, 5].map((at) => 20_000 + 100 * round + at)
    const answers = seeds.map(async (seed) => {
      const response = await apart.dispatch(request(seed))
      const events: DispatchEvent[] = []
      if (response.status === 200) for await (const event of eventStream(response)) events.push(event)
      return events
    })
    await new Promise((resolve) => setTimeout(resolve, 20 + 20 * round))
    const pid = apart.agent.enginePids()[name]
    if (pid !== undefined) process.kill(pid, 'SIGKILL')
    for (const [at, events] of (await Promise.all(answers)).entries()) {
      const { tokens, last } = told(events)
      if (last?.type !== 'usage') {
        expect(name).toBe('decode-0')
        continue
      }
      expect(tokens).toEqual(told(await eventsOf(await alone.dispatch(request(seeds[at] ?? 0)))).tokens)
    }
    await until(async () => (await fetch(`${apart.url}/health`)).status === 200)
    await until(() => Object.values(apart.agent.enginePids()).every((one) => one !== undefined))
    await nothingHeld(apart)
  }
})
