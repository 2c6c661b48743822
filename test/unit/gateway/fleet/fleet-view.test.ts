// An isolate's view of the fleet against an object that answers as each test wants.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Env } from '../../../../gateway/env.ts'
import { type FleetAnswer, type FleetQuestion, FleetView } from '../../../../gateway/routing/snapshot.ts'

const chunks = [1, 2, 3]
const snapshotOf = (url: string) => ({
  staleAfterMs: 3500,
  backends: [{ backendId: 'b', url, keyThumbprint: 't', reportAgeMs: 0, frames: [] }],
})

let asked: FleetQuestion[]
let respond: (question: FleetQuestion) => Promise<FleetAnswer>
let view: FleetView
const nowMs = () => Date.now()
const env = { FLEET: { getByName: () => ({ view: (question: FleetQuestion) => respond(question) }) } } as unknown as Env
const read = (of: readonly number[]) => view.readFor(env, nowMs, of)

beforeEach(() => {
  vi.useFakeTimers({ now: 1_000_000 })
  asked = []
  view = new FleetView()
  respond = async (question) => {
    asked.push(question)
    const matches = new Map(question.chunks.length > 0 ? [['b', question.chunks.length]] : [])
    return question.wantsSnapshot ? { snapshot: snapshotOf('http://b'), matches } : { matches }
  }
})
afterEach(() => void vi.useRealTimers())

test('one call answers snapshot and matches, and none is made for a fresh copy without chunks', async () => {
  expect(await read(chunks)).toEqual({ snapshot: snapshotOf('http://b'), matches: new Map([['b', 3]]) })
  expect(await read([])).toEqual({ snapshot: snapshotOf('http://b'), matches: new Map() })
  expect(asked).toEqual([{ chunks, wantsSnapshot: true }])
  expect((await read(chunks)).matches).toEqual(new Map([['b', 3]]))
  expect(asked).toEqual([
    { chunks, wantsSnapshot: true },
    { chunks, wantsSnapshot: false },
  ])
  vi.advanceTimersByTime(251)
  await read([])
  expect(asked.at(-1)).toEqual({ chunks: [], wantsSnapshot: true })
})

test.each([
  ['fails', () => Promise.reject(new Error('away'))],
  ['does not answer', () => new Promise<FleetAnswer>(() => {})],
])('where the object %s there are no matches, and for a while none are asked for', async (_, fails) => {
  await read([])
  const answers = respond
  respond = fails
  const waiting = read(chunks)
  await vi.advanceTimersByTimeAsync(100)
  expect(await waiting).toEqual({ snapshot: snapshotOf('http://b'), matches: new Map() })
  respond = answers
  asked = []
  expect((await read(chunks)).matches).toEqual(new Map())
  expect(asked).toEqual([])
  vi.advanceTimersByTime(2000)
  expect((await read(chunks)).matches).toEqual(new Map([['b', 3]]))
})

test('what answers have told is known where the object is away, and beside what it says', async () => {
  await read([])
  view.hear('b', { epoch: 'a', version: 5, reset: true, stored: [1, 2], removed: [] }, nowMs())
  expect(view.kvSeen('b')).toEqual({ epoch: 'a', version: 5 })
  const answers = respond
  respond = () => Promise.reject(new Error('away'))
  expect((await read(chunks)).matches).toEqual(new Map([['b', 2]]))
  vi.advanceTimersByTime(1000)
  expect((await read(chunks)).matches).toEqual(new Map([['b', 2]]))
  respond = answers
  vi.advanceTimersByTime(1500)
  view.hear('b', { epoch: 'a', version: 6, reset: false, stored: [], removed: [3] }, nowMs())
  expect((await read(chunks)).matches).toEqual(new Map([['b', 2]]))
})

test('a copy of the last second is not waited for longer than matches are', async () => {
  await read([])
  vi.advanceTimersByTime(600)
  respond = () => new Promise<FleetAnswer>(() => {})
  const waiting = read(chunks)
  await vi.advanceTimersByTimeAsync(100)
  expect(await waiting).toEqual({ snapshot: snapshotOf('http://b'), matches: new Map() })
})

test('without a copy the object is waited for, and an old copy serves where it does not answer', async () => {
  respond = () => new Promise<FleetAnswer>(() => {})
  const first = read(chunks).catch((error: unknown) => String(error))
  await vi.advanceTimersByTimeAsync(2000)
  expect(await first).toContain('did not answer')
  respond = async () => ({ snapshot: snapshotOf('http://old'), matches: new Map() })
  vi.advanceTimersByTime(2000)
  await read(chunks)
  vi.advanceTimersByTime(60_000)
  respond = () => new Promise<FleetAnswer>(() => {})
  const late = read(chunks)
  await vi.advanceTimersByTimeAsync(2000)
  expect((await late).snapshot).toEqual(snapshotOf('http://old'))
})

test('whoever an object that has begun anew awaits stays as it was, and grows stale while it is silent', async () => {
  await read([])
  let awaited: readonly string[] | undefined = ['b', 'never seen here']
  respond = async () => ({ snapshot: { staleAfterMs: 3500, backends: [], awaited }, matches: new Map() })
  vi.advanceTimersByTime(1000)
  expect((await read([])).snapshot.backends).toMatchObject([{ backendId: 'b', url: 'http://b', reportAgeMs: 1000 }])
  vi.advanceTimersByTime(1000)
  expect((await read([])).snapshot.backends).toMatchObject([{ backendId: 'b', reportAgeMs: 2000 }])
  // It has said goodbye, or the object has lived long enough to have heard of it.
  awaited = undefined
  vi.advanceTimersByTime(1000)
  expect((await read([])).snapshot.backends).toEqual([])
})
