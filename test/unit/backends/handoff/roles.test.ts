// What an administrator wants of a running agent: other roles, no work, work again.
import { afterEach, describe, expect, test } from 'vitest'
import { engineNames, threadsOf } from '../../../../backends/engines.ts'
import type { CapacityFrame } from '../../../../protocol/capacity.ts'
import type { DesiredState } from '../../../../protocol/report.ts'
import { rolesFor } from '../../../../scripts/engine-roles.ts'
import { eventsOf, type Harness, type HarnessOptions, startHarness, until } from '../support/harness.ts'

let running: Harness | undefined
const start = async (options: HarnessOptions): Promise<Harness> => {
  running = await startHarness({ ...options, engine: { contextTokens: 2048, tokenIntervalMs: 5, ...options.engine } })
  return running
}
afterEach(async () => {
  await running?.stop()
  running = undefined
})

let revision = 0
const desire = ({ gateway }: Harness, desired: Partial<DesiredState>) => {
  gateway.status.desired = { revision: ++revision, draining: false, roles: {}, ...desired }
}
const frames = ({ gateway }: Harness): CapacityFrame[] => gateway.reports.at(-1)?.frames ?? []
const rolesOf = (harness: Harness) => Object.fromEntries(frames(harness).map(({ engine, role }) => [engine, role]))
const endless = { maxOutputTokens: 1900, deadlineInMs: 60_000, tellsTokens: true }

test('each engine has a frame of its own, by its name and role', async () => {
  const harness = await start({ config: { engines: ['prefill', 'decode', 'decode'] } })
  await until(() => frames(harness).length === 3)
  expect(rolesOf(harness)).toEqual({ 'prefill-0': 'prefill', 'decode-0': 'decode', 'decode-1': 'decode' })
  expect(new Set(frames(harness).map(({ epoch }) => epoch)).size).toBe(3)
  for (const frame of frames(harness)) expect(frame).toMatchObject({ draining: false, transfer: { remote: false } })
})

test('a prefill engine becomes one that decodes at once, and takes requests', async () => {
  const harness = await start({ config: { engines: ['prefill'] } })
  expect((await harness.dispatch()).status).toBe(503)
  desire(harness, { roles: { 'prefill-0': 'decode' } })
  await until(() => frames(harness)[0]?.role === 'decode')
  expect((await eventsOf(await harness.dispatch())).at(-1)?.type).toBe('usage')
})

test('a decode engine ends what it has before it is a prefill engine, and takes nothing new meanwhile', async () => {
  const harness = await start({ config: { engines: ['decode', 'decode'], drainGraceMs: 60_000 } })
  const open = await harness.dispatch({ maxOutputTokens: 300, deadlineInMs: 60_000 })
  await until(() => frames(harness).some(({ sequencesRunning }) => sequencesRunning > 0))
  desire(harness, { roles: { 'decode-0': 'prefill' } })
  await until(() => frames(harness).some(({ engine, draining }) => engine === 'decode-0' && draining))
  expect(rolesOf(harness)['decode-0']).toBe('decode')
  expect((await eventsOf(await harness.dispatch())).at(-1)?.type).toBe('usage')
  expect((await eventsOf(open)).at(-1)).toMatchObject({ type: 'usage', usage: { outputTokens: 300 } })
  await until(() => rolesOf(harness)['decode-0'] === 'prefill')
  expect(frames(harness).every(({ draining }) => !draining)).toBe(true)
})

test('what does not end within the grace is told to move, and then the role changes', async () => {
  const harness = await start({ config: { engines: ['decode'], drainGraceMs: 300 } })
  const open = await harness.dispatch(endless)
  await until(() => frames(harness)[0]?.sequencesRunning === 1)
  desire(harness, { roles: { 'decode-0': 'prefill' } })
  const seeded = eventsOf(open)
  expect((await seeded).at(-1)).toMatchObject({ type: 'moved', reason: 'draining' })
  await until(() => frames(harness)[0]?.role === 'prefill')
  expect((await harness.dispatch()).status).toBe(503)
})

test('who waits for an engine that will only compute prompts is told to go elsewhere', async () => {
  const harness = await start({ config: { engines: ['decode'], drainGraceMs: 60_000 }, engine: { sequencesMax: 1 } })
  const open = await harness.dispatch({ maxOutputTokens: 300, deadlineInMs: 60_000 })
  await until(() => frames(harness)[0]?.sequencesRunning === 1)
  const waiting = harness.dispatch({ deadlineInMs: 60_000 })
  await until(() => frames(harness)[0]?.requestsQueued === 1)
  desire(harness, { roles: { 'decode-0': 'prefill' } })
  const refused = await waiting
  expect(refused.status).toBe(429)
  expect(await refused.json()).toMatchObject({ code: 'overloaded', retryAfterMs: 1000 })
  expect((await eventsOf(open)).at(-1)).toMatchObject({ type: 'usage', usage: { outputTokens: 300 } })
})

test('a change of mind in the middle of a change of roles ends it', async () => {
  const harness = await start({ config: { engines: ['decode'], drainGraceMs: 60_000 } })
  const open = await harness.dispatch({ maxOutputTokens: 400, deadlineInMs: 60_000 })
  await until(() => frames(harness)[0]?.sequencesRunning === 1)
  desire(harness, { roles: { 'decode-0': 'prefill' } })
  await until(() => frames(harness)[0]?.draining === true)
  desire(harness, {})
  await until(() => frames(harness)[0]?.draining === false)
  expect(frames(harness)[0]?.role).toBe('decode')
  expect((await eventsOf(open)).at(-1)?.type).toBe('usage')
  expect((await eventsOf(await harness.dispatch())).at(-1)?.type).toBe('usage')
})

test('a backend that is drained takes no work, moves what does not end, and takes work again when it may', async () => {
  const harness = await start({ config: { engines: ['prefill', 'decode'], drainGraceMs: 500 } })
  const open = await harness.dispatch(endless)
  await until(() => frames(harness).some(({ sequencesRunning }) => sequencesRunning === 1))
  desire(harness, { draining: true })
  await until(() => frames(harness).length > 0 && frames(harness).every(({ draining }) => draining))
  expect((await harness.dispatch()).status).toBe(503)
  expect((await fetch(`${harness.url}/health`)).status).toBe(503)
  expect((await eventsOf(open)).at(-1)).toMatchObject({ type: 'moved', reason: 'draining' })
  desire(harness, { draining: false })
  await until(() => frames(harness).every(({ draining }) => !draining))
  expect((await eventsOf(await harness.dispatch())).at(-1)?.type).toBe('usage')
})

test('SIGTERM moves what does not end within the grace', async () => {
  const harness = await start({ config: { engines: ['both'] } })
  const open = await harness.dispatch(endless)
  await until(() => frames(harness)[0]?.sequencesRunning === 1)
  const [events] = await Promise.all([eventsOf(open), harness.agent.drain(200)])
  expect(events.at(-1)).toMatchObject({ type: 'moved', reason: 'draining' })
})

describe('engines of one machine', () => {
  test('have names by role', () => {
    expect(engineNames(['prefill', 'decode', 'decode'])).toEqual(['prefill-0', 'decode-0', 'decode-1'])
  })

  test.each([
    [['both'], 8, {}, [undefined]],
    [['both'], 8, { threads: 3 }, [3]],
    [['prefill', 'decode'], 2, {}, [2, 2]],
    [['prefill', 'decode'], 1, {}, [1, 1]],
    [['decode', 'prefill'], 7, {}, [7, 7]],
    [['prefill', 'decode', 'decode'], 8, {}, [8, 4, 4]],
    [['prefill', 'decode'], 8, { threads: 2, prefillThreads: 6 }, [6, 2]],
  ] as const)('%j share %i cores, given %j', (engines, cores, given, expected) => {
    expect(threadsOf({ engines: [...engines], ...given }, cores)).toEqual(expected)
  })

  const MIB = 1024 * 1024
  test.each([
    [
      'two where there is room for them',
      { cores: 2, freeBytes: 8192 * MIB, weightBytes: 150 * MIB, kvBytes: 512 * MIB },
      'prefill,decode',
    ],
    [
      'one where they would share a core',
      { cores: 1, freeBytes: 8192 * MIB, weightBytes: 150 * MIB, kvBytes: 512 * MIB },
      'both',
    ],
    [
      'one where the weights do not fit twice',
      { cores: 8, freeBytes: 8192 * MIB, weightBytes: 4000 * MIB, kvBytes: 512 * MIB },
      'both',
    ],
  ])('are %s', (_, room, expected) => {
    expect(rolesFor(room)).toBe(expected)
  })
})
