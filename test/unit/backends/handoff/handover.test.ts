// Prompts on their way between the engines of one agent: whatever goes wrong, the answer is the same and nothing stays held.
import { afterEach, expect, test } from 'vitest'
import type { DispatchEvent, PrefillPlace } from '../../../../protocol/dispatch.ts'
import {
  begun,
  eventStream,
  eventsOf,
  type Harness,
  type HarnessOptions,
  startHarness,
  textOf,
  until,
} from '../support/harness.ts'

let running: Harness | undefined
const start = async ({ config, ...options }: HarnessOptions = {}): Promise<Harness> => {
  // A loaded machine is no stalled engine.
  const handoff = { reserveWaitMs: 60_000, settleWaitMs: 60_000, patienceMinMs: 60_000, ...options.handoff }
  running = await startHarness({
    ...options,
    handoff,
    config: { engines: ['prefill', 'decode'], ...config },
    engine: { contextTokens: 2048, ...options.engine },
  })
  return running
}
afterEach(async () => {
  await running?.stop()
  running = undefined
})

/** Twelve whole blocks of 16 and a rest of 8. */
const PROMPT = Array.from({ length: 200 }, (_, at) => at % 256)
const WHOLE = 192
const prompt = (ids: readonly number[] = PROMPT) => ({
  input: { kind: 'completion' as const, prompts: [{ tokenIds: [...ids] }], echo: false },
  deadlineInMs: 120_000,
})

const placesOf = (events: readonly DispatchEvent[]) => [
  ...new Set(events.flatMap((event) => (event.type === 'accepted' ? (event.prefill ?? []) : []))),
]
const usageOf = (events: readonly DispatchEvent[]) => {
  const last = events.at(-1)
  return last?.type === 'usage' ? last.usage : last
}

async function metric(harness: Harness, name: string): Promise<number[]> {
  const text = await (await fetch(`${harness.url}/metrics`)).text()
  return [...text.matchAll(new RegExp(`^${name.replace(/[{}"]/g, '\\$&')}.*? ([\\d.e+-]+)$`, 'gm'))].map((match) =>
    Number(match[1]),
  )
}
const outcomes = async (harness: Harness, outcome: string) => {
  const text = await (await fetch(`${harness.url}/metrics`)).text()
  return Number(new RegExp(`^penstock_handoffs_total\\{.*outcome="${outcome}"\\} (\\d+)$`, 'm').exec(text)?.[1])
}

/** No block is held in any engine, by a sequence or a reservation, and nothing runs. */
async function nothingHeld(harness: Harness): Promise<void> {
  const zero = async (name: string) => (await metric(harness, name)).every((value) => value === 0)
  await until(async () => harness.agent.openDispatches === 0 && (await zero('vllm:kv_cache_usage_perc')))
  await until(async () => (await zero('vllm:num_requests_running')) && (await zero('penstock_reservations')))
}

test('a prompt that pays its way is computed by the prefill engine, counts as computed and gives the same answer', async () => {
  const harness = await start()
  const events = await eventsOf(await harness.dispatch(prompt()))
  expect(placesOf(events)).toEqual(['handed_over'])
  expect(usageOf(events)).toEqual({ inputTokens: 200, cachedInputTokens: 0, outputTokens: 6 })
  const { inputTokens, outputTokens } = { inputTokens: 200, outputTokens: 6 }
  const alone = await eventsOf(await harness.dispatch({ ...prompt(), tenant: 'tenant-b', n: 1 }))
  expect(textOf(alone)).toBe(textOf(events))
  // The second time it is all there: nothing moves, and it is cheaper.
  const again = await eventsOf(await harness.dispatch(prompt()))
  expect(usageOf(again)).toEqual({ inputTokens: inputTokens - WHOLE, cachedInputTokens: WHOLE, outputTokens })
  expect(placesOf(again)).toEqual(['local'])
  expect(await metric(harness, 'penstock_handoff_tokens_total')).toEqual([2 * PROMPT.length])
  expect(await metric(harness, 'penstock_handoff_bytes_total')).toEqual([2 * PROMPT.length * 512])
  expect(await metric(harness, 'penstock_prompts_pushed_total')).toEqual([2])
  await nothingHeld(harness)
})

test('a prompt of a few tokens stays where it is decoded', async () => {
  const harness = await start()
  const events = await eventsOf(await harness.dispatch())
  expect(placesOf(events)).toEqual(['local'])
  expect(await outcomes(harness, 'short')).toBe(1)
})

/** Two decode engines of one place each: the one that has the prompt is taken, the other one lacks it. */
async function startTaken(engine: HarnessOptions['engine'] = {}) {
  const harness = await start({
    config: { engines: ['prefill', 'decode', 'decode'] },
    engine: { sequencesMax: 1, tokenIntervalMs: 20, ...engine },
  })
  await eventsOf(await harness.dispatch(prompt()))
  const close = await begun(await harness.dispatch({ ...prompt(), maxOutputTokens: 1000 }))
  return { harness, close }
}

test('what only the prefill engine had is no computation either', async () => {
  const { harness, close } = await startTaken()
  const events = await eventsOf(await harness.dispatch(prompt()))
  expect(placesOf(events)).toEqual(['handed_over'])
  expect(usageOf(events)).toEqual({ inputTokens: 200 - WHOLE, cachedInputTokens: WHOLE, outputTokens: 6 })
  await close()
  await nothingHeld(harness)
})

test('what the prefill engine had counts also where an answer of one token is over before that engine says it is done', async () => {
  const { harness, close } = await startTaken({ handoff: { noticedMs: 60_000 } })
  const events = await eventsOf(await harness.dispatch({ ...prompt(), maxOutputTokens: 1 }))
  expect(placesOf(events)).toEqual(['handed_over'])
  expect(usageOf(events)).toEqual({ inputTokens: 200 - WHOLE, cachedInputTokens: WHOLE, outputTokens: 1 })
  await close()
})

test('a rest that was not reserved is not pushed, and nothing is drawn behind it', async () => {
  const harness = await start({ engine: { handoff: { wholeOnly: true } } })
  const events = await eventsOf(await harness.dispatch({ ...prompt(), logprobs: { top: 0 } }))
  expect(placesOf(events)).toEqual(['handed_over'])
  expect(usageOf(events)).toEqual({ inputTokens: 200, cachedInputTokens: 0, outputTokens: 6 })
  const told = events.flatMap((event) => (event.type === 'delta' ? (event.logprobs ?? []) : []))
  expect(told.map(({ logprob }) => logprob)).toEqual(Array(6).fill(-0.5))
  expect(await metric(harness, 'penstock_handoff_tokens_total')).toEqual([WHOLE])
  await nothingHeld(harness)
})

test('the choices of one prompt are handed over once', async () => {
  const harness = await start()
  const events = await eventsOf(await harness.dispatch({ ...prompt(), n: 4 }))
  expect(usageOf(events)).toEqual({ inputTokens: 200, cachedInputTokens: 0, outputTokens: 24 })
  expect(new Set([0, 1, 2, 3].map((choice) => textOf(events, choice))).size).toBe(1)
  expect(await outcomes(harness, 'arrived')).toBe(1)
  await nothingHeld(harness)
})

test('each choice begins with the token that the prefill engine drew for it', async () => {
  const harness = await start()
  const events = await eventsOf(await harness.dispatch({ ...prompt(), n: 3, logprobs: { top: 0 } }))
  for (const choice of [0, 1, 2]) {
    const told = events.flatMap((event) =>
      event.type === 'delta' && event.choice === choice ? (event.logprobs ?? []) : [],
    )
    expect(told.map(({ logprob }) => logprob)).toEqual([-0.25, ...Array(5).fill(-0.5)])
  }
  // One token is all: the decode engine has nothing to compute.
  const single = await eventsOf(await harness.dispatch({ ...prompt(PROMPT.toReversed()), maxOutputTokens: 1 }))
  expect(usageOf(single)).toMatchObject({ inputTokens: 200, cachedInputTokens: 0, outputTokens: 1 })
  await nothingHeld(harness)
})

test('an embedding stays with the engine that gives it', async () => {
  const harness = await start()
  const input = { kind: 'embedding' as const, prompts: [{ tokenIds: [...PROMPT] }] }
  const events = await eventsOf(await harness.dispatch({ input, deadlineInMs: 120_000 }))
  expect(events.some(({ type }) => type === 'embedding')).toBe(true)
  expect(await metric(harness, 'penstock_prompts_pushed_total')).toEqual([0])
})

test('an engine alone that does both says nothing of places, and hands nothing over', async () => {
  const harness = await start({ config: { engines: ['both'] } })
  const events = await eventsOf(await harness.dispatch(prompt()))
  expect(placesOf(events)).toEqual([])
})

type Fault = [string, HarnessOptions['engine'], HarnessOptions['handoff'], PrefillPlace, string]
const FAULTS: Fault[] = [
  ['the decode engine has no room', { handoff: { reserve: 'no_room' } }, {}, 'local', 'no_room'],
  ['the decode engine is leaving', { handoff: { reserve: 'draining' } }, {}, 'local', 'no_room'],
  ['the decode engine refuses it', { handoff: { reserve: 'invalid' } }, {}, 'degraded', 'refused'],
  ['nothing is said about the blocks', { handoff: { reserve: 'never' } }, { reserveWaitMs: 50 }, 'degraded', 'late'],
  ['the prefill engine refuses it', { handoff: { push: 'reject' } }, {}, 'degraded', 'refused'],
  ['the transfer breaks off', { handoff: { push: 'fail' } }, {}, 'degraded', 'failed'],
  ['the blocks come in damaged', { handoff: { receive: 'damage' } }, {}, 'degraded', 'failed'],
  ['the prefill engine dies of it', { handoff: { push: 'crash' } }, {}, 'degraded', 'failed'],
  ['the prefill engine stalls', { handoff: { push: 'never' } }, { patienceMinMs: 300 }, 'degraded', 'late'],
]
for (const [what, engine, handoff, place, outcome] of FAULTS)
  test(`where ${what} the decode engine computes the prompt, and says so`, async () => {
    const harness = await start({ engine: { ...engine }, handoff: { ...handoff } })
    const events = await eventsOf(await harness.dispatch({ ...prompt(), n: 2 }))
    expect(placesOf(events)).toEqual([place])
    expect(usageOf(events)).toEqual({ inputTokens: 200, cachedInputTokens: 0, outputTokens: 12 })
    expect(await outcomes(harness, outcome)).toBe(1)
    expect(await metric(harness, 'penstock_prefill_degraded_total')).toEqual([place === 'degraded' ? 1 : 0])
    await nothingHeld(harness)
  })

test('a prefill engine that is killed in the middle of a push costs a computation and nothing else', async () => {
  const harness = await start({ engine: { handoff: { pushMs: 60_000 } } })
  const answer = harness.dispatch(prompt())
  await until(async () => (await metric(harness, 'vllm:num_requests_running')).includes(1))
  process.kill(harness.agent.enginePids()['prefill-0'] ?? 0, 'SIGKILL')
  const events = await eventsOf(await answer)
  expect(placesOf(events)).toEqual(['degraded'])
  expect(usageOf(events)).toMatchObject({ inputTokens: 200, outputTokens: 6 })
  await nothingHeld(harness)
})

for (const phase of ['reserve', 'receive'] as const)
  test(`a decode engine that dies during ${phase} loses the request, and the prefill engine lets go`, async () => {
    const harness = await start({ engine: { handoff: { [phase]: 'crash' } } })
    const events = await eventsOf(await harness.dispatch(prompt()))
    expect(events.at(-1)).toMatchObject({ type: 'error', code: 'engine_lost', usage: { outputTokens: 0 } })
    await nothingHeld(harness)
  })

test('where a second decode engine is up, it takes over what the first one lost before it began', async () => {
  const harness = await start({
    config: { engines: ['prefill', 'decode', 'decode'] },
    engine: { handoff: { pushMs: 60_000 } },
  })
  const answer = harness.dispatch(prompt())
  await until(async () => (await metric(harness, 'penstock_reservations')).includes(1))
  process.kill(harness.agent.enginePids()['decode-0'] ?? 0, 'SIGKILL')
  const events = await eventsOf(await answer)
  expect(usageOf(events)).toMatchObject({ inputTokens: 200, outputTokens: 6 })
  // Whoever notices first says what it was.
  expect((await outcomes(harness, 'lost')) + (await outcomes(harness, 'failed'))).toBe(1)
  await nothingHeld(harness)
})

const CANCELLED: [string, HarnessOptions['engine'], string][] = [
  ['its blocks are being set aside', { handoff: { reserve: 'never' } }, 'penstock_reservations'],
  ['it is being computed elsewhere', { handoff: { pushMs: 60_000 } }, 'vllm:num_requests_running'],
  ['it waits for a place in the decode engine', { tokenIntervalMs: 3000 }, 'penstock_handoff_tokens_total'],
  ['it is answered', { tokenIntervalMs: 20 }, 'penstock_handoff_tokens_total'],
]
for (const [when, engine, sign] of CANCELLED)
  test(`a caller that goes away while ${when} frees everything on both sides`, async () => {
    const harness = await start({ engine: { ...engine } })
    const abort = new AbortController()
    const ids = [...PROMPT.slice(0, 160), 7, 8, 9]
    const response = await harness.dispatch({ ...prompt(ids), n: 3, maxOutputTokens: 500 }, abort.signal)
    await until(async () => (await metric(harness, sign)).some((value) => value > 0))
    if (when === 'it is answered') for await (const event of eventStream(response)) if (event.type === 'delta') break
    abort.abort()
    await nothingHeld(harness)
    expect(harness.logs.join('')).not.toContain('uncaught')
  })

test('the deadline ends a request whose prompt is still on its way', async () => {
  const harness = await start({ engine: { handoff: { push: 'never' } } })
  const events = await eventsOf(await harness.dispatch({ ...prompt(), deadlineInMs: 1500 }))
  expect(events.at(-1)?.type).toMatch(/usage|error/)
  await nothingHeld(harness)
})

test('a reservation is renewed for as long as the prompt takes', async () => {
  const harness = await start({ engine: { handoff: { pushMs: 1500 } }, handoff: { leaseMs: 600 } })
  const events = await eventsOf(await harness.dispatch(prompt()))
  expect(placesOf(events)).toEqual(['handed_over'])
  await nothingHeld(harness)
})

test('a decode engine without a prefill engine says that one is missing, unless its cache has the prompt or that is a short one', async () => {
  const harness = await start({ config: { engines: ['decode'] } })
  const long = Array.from({ length: 600 }, (_, at) => at % 256)
  expect(placesOf(await eventsOf(await harness.dispatch(prompt(long))))).toEqual(['degraded'])
  expect(placesOf(await eventsOf(await harness.dispatch(prompt(long))))).toEqual(['local'])
  expect(await outcomes(harness, 'nobody')).toBe(2)
  // For so few tokens the gateway names nobody on another host.
  expect(placesOf(await eventsOf(await harness.dispatch(prompt(PROMPT.toReversed()))))).toEqual(['local'])
  expect(await outcomes(harness, 'cheaper')).toBe(1)
  expect(await metric(harness, 'penstock_prefill_degraded_total')).toEqual([1])
})

test('many prompts at once are all answered, each prefill engine with no more at once than it may have', async () => {
  const harness = await start({ engine: { handoff: { pushMs: 20 } }, config: { queueRequestsMax: 64 } })
  const answers = await Promise.all(
    Array.from({ length: 24 }, async (_, at) => {
      const ids = [at, ...PROMPT]
      return await eventsOf(await harness.dispatch({ ...prompt(ids), tenant: `tenant-${at % 3}` }))
    }),
  )
  for (const events of answers) expect(usageOf(events)).toMatchObject({ outputTokens: 6 })
  expect(await outcomes(harness, 'arrived')).toBeGreaterThan(0)
  await nothingHeld(harness)
})
