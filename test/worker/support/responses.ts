// /v1/responses for tests: a world whose background responses reach its hosts too, any method and path, events as they were
// sent, and the official client over the app.
import { createExecutionContext, env, runInDurableObject, waitOnExecutionContext } from 'cloudflare:test'
import OpenAI from 'openai'
import { vi } from 'vitest'
import { runsOf } from '../../../gateway/runs/reach.ts'
import type { Json } from './admin.ts'
import { type AgentScript, answer } from './fake-agent.ts'
import { FLEET_TARGET, World } from './path.ts'

export type Event = { type: string; sequence_number: number } & Record<string, Json>

export const eventsOf = (text: string): Event[] =>
  text
    .split('\n\n')
    .filter((block) => block.startsWith('event: '))
    .map((block) => JSON.parse(block.slice(block.indexOf('\ndata: ') + 7)))

/** Longer than a view of the fleet is taken as it is (SNAPSHOT_TTL_MS). */
export const VIEW_MS = 300

/** A world with one own backend. What runs in an object has ports of its own, whose network is the world's here. */
export async function worldOf(script: AgentScript | string[]): Promise<World> {
  const world = new World()
  vi.spyOn(globalThis, 'fetch').mockImplementation((input, init) => world.fetch(input as RequestInfo, init))
  await world.catalog([FLEET_TARGET(world.model)])
  await world.ownTenant()
  // Last: a backend that says nothing for a few seconds is not asked any more.
  await world.agent(Array.isArray(script) ? () => answer(script) : script)
  // All runs share one view of the fleet, which the test before may just have read: it does not know this backend yet.
  await new Promise((resolve) => setTimeout(resolve, VIEW_MS))
  return world
}

/** Asks as the tenant, or with another key. All background work is done when it resolves. */
export async function ask(world: World, method: string, path: string, options: { key?: string } = {}) {
  const context = createExecutionContext()
  const authorization = `Bearer ${options.key ?? (await world.ownTenant()).key}`
  const request = new Request(`http://gateway.test${path}`, { method, headers: { authorization } })
  const response = await world.app.fetch(request, env, context)
  const text = await response.text()
  await waitOnExecutionContext(context)
  const body: Json = text.startsWith('{') ? JSON.parse(text) : undefined
  return { status: response.status, body, text, events: eventsOf(text) }
}

/** Creates a response and reads it to its end. */
export async function create(world: World, over: Record<string, unknown> = {}, headers: Record<string, string> = {}) {
  const body = { model: world.model, input: 'Say something.', ...over }
  const { response, settled } = await world.send('/v1/responses', body, { headers })
  const text = await response.text()
  await settled()
  const json: Json = text.startsWith('{') ? JSON.parse(text) : undefined
  const requestId = response.headers.get('x-request-id')
  return { status: response.status, requestId, body: json, text, events: eventsOf(text) }
}

/** Polls until the response has this status. */
export async function until(world: World, id: string, status: string): Promise<Json> {
  return vi.waitFor(
    async () => {
      const { body } = await ask(world, 'GET', `/v1/responses/${id}`)
      if (body.status !== status) throw new Error(`still ${body.status}`)
      return body
    },
    { timeout: 10_000, interval: 20 },
  )
}

/** The official client, unchanged. */
export async function official(world: World): Promise<OpenAI> {
  const { key } = await world.ownTenant()
  const fetch = async (input: RequestInfo | URL, init?: RequestInit) => {
    const context = createExecutionContext()
    return world.app.fetch(new Request(input as RequestInfo, init), env, context)
  }
  return new OpenAI({
    apiKey: key,
    baseURL: 'http://gateway.test/v1',
    fetch: fetch as typeof globalThis.fetch,
    maxRetries: 0,
  })
}

/** The object that has a response of the world's tenant, and the response's name there. */
export async function storedAt(world: World, id: string) {
  const { orgId, projectId } = await world.ownTenant()
  const name = id.replace(/^(resp|stream)_/, '')
  const owner = { orgId, projectId, keyLineId: '' }
  return { name, owner, runs: runsOf(env, owner, name) }
}

/** The runtime throws the object away and makes it anew over what is stored. */
export async function kill(world: World, id: string): Promise<void> {
  const { runs } = await storedAt(world, id)
  await runInDurableObject(runs, (_, state) => state.abort('restart')).catch(() => {})
}

/** What is stored says this much. */
export async function untilStored(
  world: World,
  id: string,
  has: (text: string, journal: string) => boolean,
): Promise<void> {
  const { name, runs } = await storedAt(world, id)
  await vi.waitFor(
    async () => {
      const [text, journal] = await runInDurableObject(runs, (_, state) => {
        const joined = (table: string) =>
          state.storage.sql
            .exec<{ piece: string }>(`SELECT piece FROM ${table} WHERE run = ?`, name)
            .toArray()
            .map(({ piece: one }) => one)
            .join('')
        return [joined('events'), joined('journal')] as const
      })
      if (!has(text, journal)) throw new Error('not yet')
    },
    { timeout: 10_000, interval: 20 },
  )
}
