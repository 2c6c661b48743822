// /v1/responses through the real path: whole, streamed, kept, continued, read, deleted; and whose they are.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Runs } from '../../gateway/runs/runs.ts'
import { admin, type Json, newTenant } from './support/admin.ts'
import { answer, frame } from './support/fake-agent.ts'
import { World } from './support/path.ts'
import { ask, create, official, storedAt, VIEW_MS, worldOf } from './support/responses.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const MONTH_MS = 30 * 24 * 3_600_000

const rowsOf = (state: DurableObjectState, name: string) =>
  state.storage.sql
    .exec<{ rows: number }>(
      `SELECT (SELECT count(*) FROM runs WHERE name = ?1) + (SELECT count(*) FROM texts WHERE run = ?1)
         + (SELECT count(*) FROM events WHERE run = ?1) AS rows`,
      name,
    )
    .one().rows

describe('an answer', () => {
  test('in one piece is a response object, and is kept as it was given', async () => {
    const world = await worldOf(['Hello', ' there'])
    const { status, body } = await create(world, { metadata: { a: 'b' } })
    expect(status).toBe(200)
    expect(body).toMatchObject({
      object: 'response',
      status: 'completed',
      model: world.model,
      metadata: { a: 'b' },
      error: null,
      output: [{ type: 'message', status: 'completed', content: [{ type: 'output_text', text: 'Hello there' }] }],
      usage: { input_tokens: 7, output_tokens: 2, total_tokens: 9 },
    })
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`)).body).toEqual(body)
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'ok', input: 7, output: 2 }])
    expect(holds).toBe(0)
  })

  test('as a stream has numbered events, and is kept when the last one comes', async () => {
    const world = await worldOf(['Hello', ' there'])
    const { events } = await create(world, { stream: true })
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, at) => at))
    expect(events.map(({ type }) => type)).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ])
    const last = events.at(-1)?.response
    expect((await ask(world, 'GET', `/v1/responses/${last.id}`)).body).toEqual(last)
  })

  test('that its caller does not want kept is not', async () => {
    const world = await worldOf(['Hello'])
    for (const stream of [false, true]) {
      const { body, events } = await create(world, { store: false, stream })
      const id = body?.id ?? events.at(-1)?.response.id
      expect(await ask(world, 'GET', `/v1/responses/${id}`)).toMatchObject({
        status: 404,
        body: { error: { code: 'not_found', param: 'id' } },
      })
    }
  })

  test('for which there is no room says so, and is given all the same', async () => {
    const world = await worldOf(['Hello'])
    vi.spyOn(Runs.prototype, 'keep').mockRejectedValue(new Error('the storage of responses is full'))
    const asked = { model: world.model, input: 'hi' }
    const { response, settled } = await world.send('/v1/responses', asked)
    expect([response.status, response.headers.get('x-penstock-not-stored')]).toEqual([200, 'true'])
    expect((await response.json<Json>()).output[0].content[0].text).toBe('Hello')
    await settled()
    const unasked = await world.send('/v1/responses', { ...asked, store: false })
    expect(unasked.response.headers.get('x-penstock-not-stored')).toBeNull()
    await unasked.settled()
    vi.mocked(Runs.prototype.keep).mockRestore()
    const kept = await world.send('/v1/responses', asked)
    expect(kept.response.headers.get('x-penstock-not-stored')).toBeNull()
    await kept.settled()
  })

  test('that breaks off is told as failed, and kept as that', async () => {
    const world = await worldOf(() => [...answer(['Hel']).slice(0, 2), 'cut'])
    const { events } = await create(world, { stream: true })
    const last = events.at(-1)
    expect(last).toMatchObject({
      type: 'response.failed',
      response: { status: 'failed', error: { code: 'server_error' }, output: [{ status: 'incomplete' }] },
    })
    await vi.waitFor(async () => {
      expect((await ask(world, 'GET', `/v1/responses/${last?.response.id}`)).body.status).toBe('failed')
    })
  })

  test('that nothing came of is an error with a status, in one piece and as a stream', async () => {
    const world = new World()
    for (const stream of [false, true]) {
      const { status, body } = await create(world, { stream })
      expect(status).toBe(404)
      expect(body).toMatchObject({ error: { code: 'model_not_found', type: 'invalid_request_error', param: 'model' } })
    }
    const { status, body } = await create(world, { tools: [{ type: 'web_search' }] })
    expect(status).toBe(400)
    expect(body).toMatchObject({ error: { code: 'invalid_request', param: 'tools[0].type' } })
  })
})

describe('the official client, unchanged', () => {
  test('creates, streams, reads, lists, continues and deletes', async () => {
    const world = await worldOf(['Hello', ' there'])
    const openai = await official(world)
    const final = await openai.responses.stream({ model: world.model, input: 'hi' }).finalResponse()
    expect(final.output_text).toBe('Hello there')
    const next = await openai.responses.create({
      model: world.model,
      input: 'and then?',
      previous_response_id: final.id,
    })
    expect(next.output_text).toBe('Hello there')
    const items = []
    for await (const item of openai.responses.inputItems.list(next.id, { limit: 2, order: 'asc' })) items.push(item)
    expect(items).toMatchObject([
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'hi' }] },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Hello there' }] },
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'and then?' }] },
    ])
    expect((await openai.responses.retrieve(final.id)).output_text).toBe('Hello there')
    await openai.responses.delete(final.id)
    await expect(openai.responses.retrieve(final.id)).rejects.toMatchObject({ status: 404 })
    // What continued it has its own copy of the conversation.
    expect((await openai.responses.retrieve(next.id)).status).toBe('completed')
  })
})

describe('a conversation', () => {
  const tools = [{ type: 'function', name: 'weather', parameters: { type: 'object', properties: {} } }]
  const sse = (chunks: unknown[]) =>
    new Response(`${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n`, {
      headers: { 'content-type': 'text/event-stream' },
    })
  const usage = { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 }
  const calling = (id: string) =>
    sse([
      {
        choices: [
          {
            index: 0,
            delta: {
              role: 'assistant',
              tool_calls: [{ index: 0, id, type: 'function', function: { name: 'weather', arguments: '{}' } }],
            },
          },
        ],
      },
      { choices: [{ index: 0, delta: {}, finish_reason: 'tool_calls' }] },
      { choices: [], usage },
    ])
  const saying = (content: string) =>
    sse([
      { choices: [{ index: 0, delta: { role: 'assistant', content } }] },
      { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] },
      { choices: [], usage },
    ])

  test('goes on over a tool call by the id of the response that called', async () => {
    const world = new World()
    const answers = [calling('call_1'), saying('Sunny.')]
    const name = await world.provider(() => answers.shift() ?? saying('?'))
    await world.catalog([{ provider: name, model: 'm', context_tokens: 1000 }])
    const first = await create(world, { input: 'How is it outside?', tools, instructions: 'Be short.', stream: true })
    const called = first.events.at(-1)?.response
    expect(called.output).toMatchObject([
      { type: 'function_call', call_id: 'call_1', name: 'weather', arguments: '{}' },
    ])
    const second = await create(world, {
      input: [{ type: 'function_call_output', call_id: 'call_1', output: 'sun' }],
      previous_response_id: called.id,
      tools,
      stream: true,
    })
    expect(second.events.at(-1)?.response).toMatchObject({
      status: 'completed',
      previous_response_id: called.id,
      output: [{ content: [{ text: 'Sunny.' }] }],
    })
    expect(world.calls[1]?.body.messages).toMatchObject([
      { role: 'user', content: 'How is it outside?' },
      { role: 'assistant', tool_calls: [{ id: 'call_1', function: { name: 'weather', arguments: '{}' } }] },
      { role: 'tool', tool_call_id: 'call_1', content: 'sun' },
    ])
  })

  test('can point at single items of stored responses', async () => {
    const world = await worldOf(['Hello'])
    const first = await create(world)
    const [item] = first.body.output
    const second = await create(world, {
      input: [{ type: 'item_reference', id: item.id }, { id: item.id }, { role: 'user', content: 'Again?' }],
    })
    expect(second.status).toBe(200)
    const { body } = await ask(world, 'GET', `/v1/responses/${second.body.id}/input_items?order=asc`)
    expect(body.data).toMatchObject([
      { id: item.id, role: 'assistant', content: [{ text: 'Hello' }] },
      { id: item.id, role: 'assistant', content: [{ text: 'Hello' }] },
      { role: 'user', content: [{ text: 'Again?' }] },
    ])
    for (const id of ['msg_none', item.id.replace(/_\d+$/, '_9')]) {
      const missing = await create(world, { input: [{ type: 'item_reference', id }] })
      expect(missing).toMatchObject({ status: 404, body: { error: { param: 'input[0].id' } } })
    }
  })

  test('that is not there cannot be continued', async () => {
    const world = await worldOf(['Hello'])
    for (const id of ['resp_x', `resp_${'0'.repeat(32)}`]) {
      expect(await create(world, { previous_response_id: id })).toMatchObject({
        status: 404,
        body: { error: { code: 'not_found', param: 'previous_response_id' } },
      })
    }
  })

  test('has pages of items, in both orders', async () => {
    const world = await worldOf(['Hello'])
    const input = ['a', 'b', 'c'].map((content) => ({ role: 'user', content }))
    const { body } = await create(world, { input })
    const path = `/v1/responses/${body.id}/input_items`
    const text = (page: { data: { content: { text: string }[] }[] }) => page.data.map((item) => item.content[0]?.text)
    const newest = (await ask(world, 'GET', `${path}?limit=2`)).body
    expect(text(newest)).toEqual(['c', 'b'])
    expect(newest).toMatchObject({ has_more: true, first_id: newest.data[0].id, last_id: newest.data[1].id })
    const rest = (await ask(world, 'GET', `${path}?limit=2&after=${newest.last_id}`)).body
    expect(text(rest)).toEqual(['a'])
    expect(rest.has_more).toBe(false)
    for (const query of ['limit=0', 'limit=101', 'order=up', 'after=nobody']) {
      expect((await ask(world, 'GET', `${path}?${query}`)).status).toBe(400)
    }
  })
})

describe('a stored response', () => {
  test("is its project's alone: every other caller is told that there is none", async () => {
    const world = await worldOf(['Hello'])
    const { body } = await create(world)
    const { orgId } = await world.ownTenant()
    const project = (await admin('POST', `/organisations/${orgId}/projects`, { slug: 'other' })).body
    const made = await admin('POST', `/organisations/${orgId}/keys`, { project_id: project.id, name: 'other' })
    const strangers = [(await newTenant()).key, made.body.key]
    const path = `/v1/responses/${body.id}`
    for (const key of strangers) {
      for (const [method, at] of [
        ['GET', path],
        ['GET', `${path}?stream=true`],
        ['GET', `${path}/input_items`],
        ['POST', `${path}/cancel`],
        ['DELETE', path],
      ] as const) {
        expect((await ask(world, method, at, { key })).status, `${method} ${at}`).toBe(404)
      }
      const { response } = await world.send(
        '/v1/responses',
        { model: world.model, input: 'and?', previous_response_id: body.id },
        { key },
      )
      expect(response.status).toBe(404)
    }
    expect((await ask(world, 'GET', path)).status).toBe(200)
  })

  test('may be out of reach of a key by its scope', async () => {
    const world = await worldOf(['Hello'])
    const { body } = await create(world)
    const { orgId, projectId } = await world.ownTenant()
    const made = await admin('POST', `/organisations/${orgId}/keys`, {
      project_id: projectId,
      name: 'chat only',
      routes: ['chat'],
    })
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`, { key: made.body.key })).status).toBe(403)
  })

  test('can be deleted, with all that came with it', async () => {
    const world = await worldOf(['Hello'])
    const { body } = await create(world)
    const path = `/v1/responses/${body.id}`
    expect((await ask(world, 'DELETE', path)).body).toEqual({ id: body.id, object: 'response', deleted: true })
    expect((await ask(world, 'GET', path)).status).toBe(404)
    expect((await ask(world, 'DELETE', path)).status).toBe(404)
    const { name, runs } = await storedAt(world, body.id)
    await runInDurableObject(runs, (_, state) => expect(rowsOf(state, name)).toBe(0))
  })

  test('is gone after thirty days', async () => {
    const world = await worldOf(['Hello'])
    const { body } = await create(world)
    const { name, runs } = await storedAt(world, body.id)
    await runInDurableObject(runs, (instance, state) => {
      expect(rowsOf(state, name)).toBeGreaterThan(2)
      instance.now = () => Date.now() + MONTH_MS
    })
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`)).status).toBe(404)
    expect(await runDurableObjectAlarm(runs)).toBe(true)
    await runInDurableObject(runs, (instance, state) => {
      instance.now = () => Date.now()
      expect(rowsOf(state, name)).toBe(0)
    })
  })

  test('that nobody made leaves nothing behind when it is asked for', async () => {
    const world = new World()
    const id = `resp_${crypto.randomUUID().replaceAll('-', '')}`
    for (const [method, at] of [
      ['GET', ''],
      ['GET', '/input_items'],
      ['DELETE', ''],
      ['POST', '/cancel'],
    ] as const) {
      expect((await ask(world, method, `/v1/responses/${id}${at}`)).status).toBe(404)
    }
    const { name, runs } = await storedAt(world, id)
    await runInDurableObject(runs, (_, state) => expect(rowsOf(state, name)).toBe(0))
  })

  test('of a caller who waited for it can neither be cancelled nor streamed again', async () => {
    const world = await worldOf(['Hello'])
    const { body } = await create(world)
    expect(await ask(world, 'POST', `/v1/responses/${body.id}/cancel`)).toMatchObject({ status: 400 })
    expect(await ask(world, 'GET', `/v1/responses/${body.id}?stream=true`)).toMatchObject({
      status: 400,
      body: { error: { param: 'stream' } },
    })
  })

  test('may be long and of any script', async () => {
    const long = `${'🦆'.repeat(300_000)}x${'🦆'.repeat(300_000)}`
    const world = await worldOf(['Hello'])
    // No window of a usual size could hold it, and the gateway knows.
    await world.agents.at(-1)?.report([frame(world.model, { contextTokensMax: 4_000_000, sequence: 2 })])
    await new Promise((resolve) => setTimeout(resolve, VIEW_MS))
    const { body, status } = await create(world, { input: long })
    expect(status).toBe(200)
    const { body: page } = await ask(world, 'GET', `/v1/responses/${body.id}/input_items`)
    expect(page.data[0].content[0].text === long).toBe(true)
  })
})
