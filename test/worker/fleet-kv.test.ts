// Who holds which beginnings of prompts, from agents' signed reports to the answer that routing gets.
import { createExecutionContext, env, evictDurableObject } from 'cloudflare:test'
import { describe, expect, test, vi } from 'vitest'
import { createApp } from '../../gateway/app.ts'
import { FleetView } from '../../gateway/routing/snapshot.ts'
import type { DispatchEvent } from '../../protocol/dispatch.ts'
import { chunkHashes, promptPieces } from '../../protocol/prefix.ts'
import { KV_CHUNKS_PER_REPORT_MAX } from '../../protocol/report.ts'
import { admin } from './support/admin.ts'
import { answer, encode, FakeAgent, fleet, frame } from './support/fake-agent.ts'
import { FLEET_TARGET, World } from './support/path.ts'

const said = (text: string) => promptPieces({ input: { kind: 'chat', messages: [{ role: 'user', content: text }] } })
/** Chunks of a prompt that no other test has. */
const prompt = (chars = 4000): number[] => chunkHashes(said('word '.repeat(chars / 5)), crypto.randomUUID(), 'm')
const matches = async (chunks: number[]) => (await fleet().view({ chunks, wantsSnapshot: false })).matches

async function joined(): Promise<FakeAgent> {
  const agent = new FakeAgent(() => [])
  await agent.join([frame('m')])
  return agent
}
const told = (agent: FakeAgent, sequence: number, stored: number[], removed: number[] = [], reset = false) =>
  agent.report([frame('m')], sequence, { reset, stored, removed })
const rejoin = async (agent: FakeAgent) => {
  const body = encode(await agent.joinBody([frame('m')]))
  expect(await fleet().join({ body, token: await agent.sign(body) })).toMatchObject({ ok: true })
}
const listed = async (agent: FakeAgent) =>
  (await admin('GET', '/backends')).body.data.find((one: { id: string }) => one.id === agent.backendId)

describe('what agents report', () => {
  test('is found by the beginnings that prompts share', async () => {
    const [one, two] = [await joined(), await joined()]
    const tenant = crypto.randomUUID()
    const system = 'You are an expert on pumps. '.repeat(100)
    const a = chunkHashes(said(`${system}What is a pump?${'a'.repeat(2000)}`), tenant, 'm')
    const b = chunkHashes(said(`${system}Why does it leak?${'b'.repeat(2000)}`), tenant, 'm')
    await told(one, 0, a, [], true)
    await told(two, 0, b.slice(0, 2), [], true)
    const shared = a.findIndex((chunk, at) => chunk !== b[at])
    expect(shared).toBeGreaterThan(3)
    expect(await matches(b)).toEqual(
      new Map([
        [two.backendId, 2],
        [one.backendId, shared],
      ]),
    )
    expect(await matches(chunkHashes(said(system), crypto.randomUUID(), 'm'))).toEqual(new Map())
    expect(await listed(one)).toMatchObject({ kv_chunks: a.length, kv_chunks_left_out: 0 })
  })

  test('goes on in portions, and what is removed is no longer found', async () => {
    const agent = await joined()
    const chunks = prompt()
    await told(agent, 0, chunks.slice(0, 3), [], true)
    await told(agent, 1, chunks.slice(3))
    expect((await matches(chunks)).get(agent.backendId)).toBe(chunks.length)
    await told(agent, 2, [], chunks.slice(2, 4))
    expect((await matches(chunks)).get(agent.backendId)).toBe(2)
    await agent.report([frame('m')], 3)
    expect((await matches(chunks)).get(agent.backendId)).toBe(2)
  })

  test('is not believed without a beginning', async () => {
    const agent = await joined()
    const chunks = prompt()
    expect(await told(agent, 0, chunks)).toEqual({ ok: true, value: { next: 'resync' } })
    expect(await matches(chunks)).toEqual(new Map())
    // An agent that tells nothing of it is left in peace.
    expect(await agent.report([frame('m')], 1)).toEqual({ ok: true, value: { next: 'continue' } })
  })

  test('of too many chunks at once is refused as a whole', async () => {
    const agent = await joined()
    const chunks = Array.from({ length: KV_CHUNKS_PER_REPORT_MAX + 1 }, (_, at) => at)
    expect(await told(agent, 0, chunks, [], true)).toMatchObject({ ok: false, error: { code: 'invalid_request' } })
  })
})

describe('nothing is known of a backend', () => {
  const holds = async () => {
    const agent = await joined()
    const chunks = prompt()
    await told(agent, 0, chunks, [], true)
    expect((await matches(chunks)).get(agent.backendId)).toBe(chunks.length)
    return { agent, chunks }
  }

  test('after a gap, until it has joined and told everything again', async () => {
    const { agent, chunks } = await holds()
    expect(await told(agent, 2, [], [])).toMatchObject({ value: { next: 'resync' } })
    expect(await matches(chunks)).toEqual(new Map())
    // What would have been in order has no ground to stand on.
    expect(await told(agent, 3, chunks.slice(0, 1))).toMatchObject({ value: { next: 'resync' } })
    expect(await matches(chunks)).toEqual(new Map())
    await rejoin(agent)
    expect(await told(agent, 4, chunks.slice(0, 3), [], true)).toMatchObject({ value: { next: 'continue' } })
    expect((await matches(chunks)).get(agent.backendId)).toBe(3)
  })

  test('after it joined anew, also when a report of before arrives late', async () => {
    const { agent, chunks } = await holds()
    await rejoin(agent)
    expect(await matches(chunks)).toEqual(new Map())
    expect(await told(agent, 5, chunks)).toMatchObject({ value: { next: 'resync' } })
    expect(await told(agent, 6, chunks.slice(0, 2), [], true)).toMatchObject({ value: { next: 'continue' } })
    expect(await told(agent, 4, [], chunks)).toMatchObject({ value: { next: 'continue' } })
    expect((await matches(chunks)).get(agent.backendId)).toBe(2)
  })

  test('as soon as another life of it has joined', async () => {
    const { agent, chunks } = await holds()
    agent.epoch = 'life-2'
    await rejoin(agent)
    expect(await matches(chunks)).toEqual(new Map())
    agent.epoch = 'life-1'
    expect(await told(agent, 1, chunks, [], true)).toMatchObject({ value: { next: 'resync' } })
    expect(await matches(chunks)).toEqual(new Map())
  })

  test('that has left, and of one that was removed', async () => {
    const first = await holds()
    const body = encode({ version: 1, backendId: first.agent.backendId, epoch: first.agent.epoch })
    await fleet().leave({ body, token: await first.agent.sign(body) })
    expect(await matches(first.chunks)).toEqual(new Map())
    const second = await holds()
    expect((await admin('DELETE', `/backends/${second.agent.backendId}`)).status).toBe(200)
    expect(await matches(second.chunks)).toEqual(new Map())
  })

  test('that has been silent for a minute, and it tells everything again when it is back', async () => {
    const { agent, chunks } = await holds()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 61_000 })
    try {
      expect(await matches(chunks)).toEqual(new Map())
      expect(await told(agent, 1, chunks)).toMatchObject({ value: { next: 'resync' } })
      expect(await matches(chunks)).toEqual(new Map())
      await rejoin(agent)
      await told(agent, 2, chunks, [], true)
      expect((await matches(chunks)).get(agent.backendId)).toBe(chunks.length)
    } finally {
      vi.useRealTimers()
    }
  })

  test('when the object has lost its memory', async () => {
    const { agent, chunks } = await holds()
    await evictDurableObject(fleet())
    expect(await matches(chunks)).toEqual(new Map())
    expect(await told(agent, 1, chunks)).toMatchObject({ value: { next: 'resync' } })
    await rejoin(agent)
    await told(agent, 2, chunks, [], true)
    expect((await matches(chunks)).get(agent.backendId)).toBe(chunks.length)
  })
})

describe("an isolate's view", () => {
  test('gets the snapshot and the matches of a prompt in one', async () => {
    const agent = await joined()
    const chunks = prompt()
    await told(agent, 0, chunks, [], true)
    const view = new FleetView()
    for (let turn = 0; turn < 2; turn++) {
      const seen = await view.readFor(env, () => Date.now(), chunks)
      expect(seen.matches).toEqual(new Map([[agent.backendId, chunks.length]]))
      expect(seen.snapshot.backends).toContainEqual(
        expect.objectContaining({ backendId: agent.backendId, keyThumbprint: expect.stringMatching(/^[\w-]{43}$/) }),
      )
    }
  })

  test('of a fleet that answers late is old, and is renewed before anybody is refused by it', async () => {
    let backends: { backendId: string }[] = []
    let delayMs = 0
    const view = async () => {
      const snapshot = { backends: [...backends] }
      if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs))
      return { snapshot, matches: new Map<string, number>() }
    }
    const late = { ...env, FLEET: { getByName: () => ({ view }) } } as unknown as typeof env
    const fleet = new FleetView()
    let nowMs = 1_000_000
    const seen = async () => (await fleet.readFor(late, () => nowMs, [1])).snapshot.backends
    expect(await seen()).toEqual([])
    expect(fleet.renew(nowMs)).toBe(false)
    backends = [{ backendId: 'joined' }]
    delayMs = 300
    nowMs += 500
    // Late: the old copy goes on, which does not know who has joined.
    expect(await seen()).toEqual([])
    expect(fleet.renew(nowMs)).toBe(true)
    expect(await seen()).toEqual(backends)
    expect(fleet.renew(nowMs)).toBe(false)
  })
})

test('what a backend says of its cache beside one answer draws the next request, before any report', async () => {
  const world = new World()
  const content = 'What do you know of the pumps of this house? '.repeat(200)
  const agents: FakeAgent[] = []
  for (let index = 0; index < 5; index++) {
    const agent = await world.agent((dispatch) => {
      const { tenant, model, kvSeen } = dispatch
      if (index > 0) return answer(['nothing'])
      const stored = chunkHashes(said(content), tenant, model)
      const kv = { epoch: agent.epoch, version: 7, reset: kvSeen?.version !== 7, stored, removed: [] }
      const [last, ...before] = answer(['something']).reverse()
      return [...before.reverse(), { type: 'capacity', frame: frame(model), kv }, last as DispatchEvent]
    })
    await agent.report([frame(world.model, { sequence: 2, measuredPrefillTokensPerSecond: 1000 })])
    agents.push(agent)
  }
  const [holder] = agents
  await world.catalog([FLEET_TARGET(world.model)])
  const ask = async (text: string) => {
    const { response, settled } = await world.chat({ messages: [{ role: 'user', content: text }] })
    await response.text()
    await settled()
    return response.headers.get('x-penstock-route') ?? ''
  }
  for (let turn = 0; turn < 100 && holder?.dispatches.length === 0; turn++) await ask('hello')
  expect(holder?.dispatches.at(-1)?.kvSeen).toEqual({ epoch: '', version: 0 })
  const before = holder?.dispatches.length ?? 0
  const route = await ask(content)
  expect(Number(/;(\d+)%\)/.exec(route)?.[1])).toBeGreaterThan(90)
  expect(holder?.dispatches.slice(before).map(({ kvSeen }) => kvSeen)).toEqual([{ epoch: 'life-1', version: 7 }])
  expect(await listed(holder as FakeAgent)).toMatchObject({ kv_chunks: 0 })
})

test('a signed report over HTTP carries as many chunks as one may', async () => {
  const agent = await joined()
  const stored = Array.from({ length: KV_CHUNKS_PER_REPORT_MAX }, () =>
    Math.floor(Math.random() * Number.MAX_SAFE_INTEGER),
  )
  const kv = { reset: true, stored, removed: [] }
  const { backendId, epoch } = agent
  const bytes = encode({ version: 1, backendId, epoch, sequence: 0, frames: [frame('m')], kv })
  const request = new Request('http://gateway.test/fleet/report', {
    method: 'POST',
    headers: { authorization: `Bearer ${await agent.sign(bytes)}` },
    body: bytes,
  })
  const response = await createApp().fetch(request, env, createExecutionContext())
  expect([response.status, await response.json()]).toEqual([200, { next: 'continue' }])
  expect(await listed(agent)).toMatchObject({ kv_chunks: new Set(stored).size })
})
