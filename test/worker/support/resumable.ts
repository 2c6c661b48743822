// Streams that their clients can come back to, for tests: begun, called, read to their end, and what became of their money.
import { createExecutionContext, env } from 'cloudflare:test'
import { expect, vi } from 'vitest'
import type { DispatchRequest } from '../../../protocol/dispatch.ts'
import { type AgentScript, toldAnswer } from './fake-agent.ts'
import type { World } from './path.ts'
import { never } from './vendor.ts'

export const WORDS = ['The ', 'quick ', 'brown ', 'fox ', 'jumps ', '😀.']
const CHAT = { messages: [{ role: 'user', content: 'hi' }], stream: true }

export async function open(world: World, over: Record<string, unknown> = {}, headers: Record<string, string> = {}) {
  const client = new AbortController()
  const { response } = await world.send(
    '/v1/chat/completions',
    { model: world.model, ...CHAT, ...over },
    { headers: { 'x-penstock-resumable': 'true', ...headers }, signal: client.signal },
  )
  return { response, id: response.headers.get('x-penstock-stream-id') ?? '', leave: () => client.abort() }
}

export async function call(world: World, method: string, path: string, headers: Record<string, string> = {}) {
  const authorization = `Bearer ${(await world.ownTenant()).key}`
  const request = new Request(`http://gateway.test${path}`, { method, headers: { authorization, ...headers } })
  return await world.app.fetch(request, env, createExecutionContext())
}

/** All of a stream, by its numbers. */
export async function followed(world: World, id: string): Promise<string[]> {
  const text = await (await call(world, 'GET', `/v1/streams/${id}`)).text()
  const blocks = text.split('\n\n').filter((block) => block.startsWith('id: '))
  expect(blocks.map((block) => Number(/^id: (\d+)/.exec(block)?.[1]))).toEqual(blocks.map((_, at) => at))
  return blocks.map((block) => block.slice(block.indexOf('data: ') + 6))
}
export const textOf = (events: string[]) =>
  events.map((data) => (data === '[DONE]' ? '' : (JSON.parse(data).choices?.[0]?.delta?.content ?? ''))).join('')
export const errorOf = (events: string[]) => JSON.parse(events.at(-1) ?? '{}').error

/** Stops after the second word, in its first life or in all of them. */
export function stuck(always = false): { script: AgentScript; dispatches: DispatchRequest[] } {
  const dispatches: DispatchRequest[] = []
  const script: AgentScript = (dispatch) => {
    dispatches.push(dispatch)
    const isStuck = always || dispatches.length === 1
    return toldAnswer(dispatch, WORDS, isStuck ? { cut: 2, end: [{ wait: never }] } : {})
  }
  return { script, dispatches }
}

export async function expectEnded(world: World, attempts: object[], requests: object[]): Promise<void> {
  await vi.waitFor(async () => expect(await world.recorded()).toMatchObject({ attempts, requests, holds: 0 }))
}
