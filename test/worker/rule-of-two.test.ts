// The two-of-three rule for agents on the whole path, in every dialect and over the steps of a run.
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { admin, type Json } from './support/admin.ts'
import { Guarded } from './support/guarded.ts'

const guarded = new Guarded()

beforeAll(() => guarded.open())
beforeEach(() => guarded.begin())

describe('the two-of-three rule', () => {
  const tool = (name: string) => ({ type: 'function', function: { name, parameters: { type: 'object' } } })
  const offer = (...names: string[]) => ({ tools: names.map(tool) })
  const TOOLS = {
    tools: [
      { pattern: 'read_*', capabilities: ['files'] },
      { pattern: 'fetch', capabilities: ['network'] },
      { pattern: 'python', capabilities: ['code'] },
    ],
  }

  test('two capabilities pass, a third is refused before anything is sent, with what to take away', async () => {
    expect((await guarded.put('tool-capabilities', TOOLS)).status).toBe(200)
    expect((await guarded.ask(offer('read_file', 'fetch', 'other'))).status).toBe(200)
    const { status, error } = await guarded.ask(offer('read_file', 'fetch', 'python'))
    expect([status, error.code, error.param]).toEqual([403, 'permission_denied', 'tools'])
    for (const word of ['files (read_file)', 'network (fetch)', 'code (python)']) expect(error.message).toContain(word)
    expect(guarded.upstream()).toHaveLength(1)
    expect((await guarded.world.recorded()).attempts).toHaveLength(1)
  })

  test('what was called earlier in the conversation counts', async () => {
    await guarded.put('tool-capabilities', TOOLS)
    const called = { id: 'c1', type: 'function', function: { name: 'python', arguments: '{}' } }
    const messages = [
      { role: 'user', content: 'x' },
      { role: 'assistant', tool_calls: [called] },
      { role: 'tool', tool_call_id: 'c1', content: '4' },
    ]
    expect((await guarded.ask({ messages, ...offer('read_file') })).status).toBe(200)
    expect((await guarded.ask({ messages, ...offer('read_file', 'fetch') })).status).toBe(403)
  })

  test('holds in every dialect, each with its own words, and over a chain of responses', async () => {
    await guarded.put('tool-capabilities', TOOLS)
    const input_schema = { type: 'object' }
    const { response } = await guarded.world.send('/v1/messages', {
      model: guarded.world.model,
      max_tokens: 10,
      messages: [{ role: 'user', content: 'x' }],
      tools: ['read_file', 'fetch', 'python'].map((name) => ({ name, input_schema })),
    })
    expect(response.status).toBe(403)
    expect(await response.json<Json>()).toMatchObject({ type: 'error', error: { type: 'permission_error' } })

    const respond = async (body: object) => {
      const sent = await guarded.world.send('/v1/responses', { model: guarded.world.model, ...body })
      const json = await sent.response.json<Json>()
      await sent.settled()
      return { status: sent.response.status, json }
    }
    const called = { type: 'function_call', call_id: 'c1', name: 'python', arguments: '{}' }
    const output = { type: 'function_call_output', call_id: 'c1', output: '4' }
    const first = await respond({ input: [{ role: 'user', content: 'x' }, called, output] })
    expect(first.status).toBe(200)
    const next = (...names: string[]) => ({
      input: 'Go on.',
      previous_response_id: first.json.id,
      tools: names.map((name) => ({ type: 'function', name, parameters: input_schema })),
    })
    expect((await respond(next('read_file'))).status).toBe(200)
    const refused = await respond(next('read_file', 'fetch'))
    expect([refused.status, refused.json.error.message]).toEqual([403, expect.stringContaining('code (python)')])
  })

  test('a key may hold two at most, and its requests stay within them', async () => {
    await guarded.put('tool-capabilities', TOOLS)
    const { projectId } = await guarded.world.ownTenant()
    const keys = `/organisations/${guarded.orgId}/keys`
    const three = await admin('POST', keys, {
      project_id: projectId,
      name: 'k',
      capabilities: ['files', 'network', 'code'],
    })
    expect([three.status, three.body.error.param]).toEqual([400, 'capabilities'])
    const made = await admin('POST', keys, { project_id: projectId, name: 'k', capabilities: ['files'] })
    expect(made.body.capabilities).toEqual(['files'])
    const key = made.body.key
    expect((await guarded.ask(offer('read_file'), { key })).status).toBe(200)
    const refused = await guarded.ask(offer('fetch'), { key })
    expect([refused.status, refused.error.message]).toEqual([403, expect.stringContaining('network (fetch)')])
  })

  test('where untagged tools count as everything, every tool has to have its tag', async () => {
    await guarded.put('tool-capabilities', { ...TOOLS, untagged: 'all' })
    expect((await guarded.ask(offer('read_file'))).status).toBe(200)
    expect((await guarded.ask(offer('unheard_of'))).status).toBe(403)
    const { body } = await admin('GET', `/organisations/${guarded.orgId}/tool-capabilities`)
    expect(body).toMatchObject({ untagged: 'all', tools: { length: 3 } })
  })
})
