// Background responses: nobody waits for them, everybody of the project can follow, and each is paid for once.
import { env, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Runner } from '../../gateway/runs/runner.ts'
import { FOLLOWERS_MAX } from '../../gateway/runs/stored-run.ts'
import { admin } from './support/admin.ts'
import { answer, type Line, usage } from './support/fake-agent.ts'
import { gate, type World } from './support/path.ts'
import { ask, create, eventsOf, official, storedAt, until, worldOf } from './support/responses.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const HOUR_MS = 3_600_000
const accepted: Line = { type: 'accepted', usage: usage(7, 0), queueMs: 0 }
const delta = (text: string, outputTokens: number): Line => ({ type: 'delta', choice: 0, text, outputTokens })
const textOf = (response: { output: { content: { text: string }[] }[] }) => response.output[0]?.content[0]?.text

/** The follower's stream, and how to leave it. */
async function follow(world: World, path: string, init: { method?: 'GET' | 'POST'; body?: unknown } = {}) {
  const client = new AbortController()
  if (init.body !== undefined) {
    const { response, settled } = await world.send(path, init.body, { signal: client.signal })
    return { response, settled, leave: () => client.abort() }
  }
  const { createExecutionContext, waitOnExecutionContext } = await import('cloudflare:test')
  const context = createExecutionContext()
  const { key } = await world.ownTenant()
  const request = new Request(`http://gateway.test${path}`, {
    headers: { authorization: `Bearer ${key}` },
    signal: client.signal,
  })
  const response = await world.app.fetch(request, env, context)
  return { response, settled: () => waitOnExecutionContext(context), leave: () => client.abort() }
}

/** Reads until `text` has come, and goes on holding the stream. */
async function readUntil(response: Response, text: string): Promise<string> {
  if (response.body === null) throw new Error('no body')
  const reader = response.body.getReader()
  const decoder = new TextDecoder()
  let seen = ''
  while (!seen.includes(text)) {
    const { done, value } = await reader.read()
    if (done) throw new Error(`the stream ended before ${text}: ${seen}`)
    seen += decoder.decode(value, { stream: true })
  }
  reader.releaseLock()
  return seen
}

async function readToEnd(response: Response): Promise<string> {
  if (response.body === null) throw new Error('no body')
  let seen = ''
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) seen += text
  return seen
}

describe('a background response', () => {
  test('is queued at once, completes without its client and is billed once', async () => {
    const world = await worldOf(['Hello', ' there'])
    const queued = await create(world, { background: true })
    expect(queued).toMatchObject({ status: 200, body: { status: 'queued', background: true, output: [], usage: null } })
    const done = await until(world, queued.body.id, 'completed')
    expect(textOf(done)).toBe('Hello there')
    expect(done).toMatchObject({ id: queued.body.id, usage: { input_tokens: 7, output_tokens: 2 } })
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'ok', charge: 'customer', input: 7, output: 2, source: 'provider' }])
    expect(requests).toEqual([{ status: 'ok', attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('is in progress meanwhile, and cannot be continued before its end', async () => {
    const release = gate()
    const world = await worldOf(() => [
      accepted,
      delta('Hel', 1),
      { wait: release.opened },
      ...answer(['Hello']).slice(2),
    ])
    const { body } = await create(world, { background: true })
    await until(world, body.id, 'in_progress')
    const early = await create(world, { previous_response_id: body.id })
    expect(early).toMatchObject({ status: 409, body: { error: { param: 'previous_response_id' } } })
    release.open()
    await until(world, body.id, 'completed')
    expect((await create(world, { previous_response_id: body.id })).status).toBe(200)
  })

  test('whose model does not exist is refused at once', async () => {
    const world = await worldOf(['Hello'])
    expect(await create(world, { background: true, model: 'nothing' })).toMatchObject({
      status: 404,
      body: { error: { code: 'model_not_found' } },
    })
  })

  test('that no target serves has failed, and says why', async () => {
    const world = await worldOf(() => Response.json({ code: 'invalid_request', message: 'no' }, { status: 400 }))
    const { body } = await create(world, { background: true })
    const failed = await until(world, body.id, 'failed')
    expect(failed.error).toMatchObject({ code: 'invalid_prompt', message: expect.any(String) })
    const { events } = await ask(world, 'GET', `/v1/responses/${body.id}?stream=true`)
    expect(events.map(({ type }) => type)).toEqual([
      'response.created',
      'response.queued',
      'response.in_progress',
      'response.failed',
    ])
    expect((await world.recorded()).holds).toBe(0)
  })

  test('under an idempotency key is made once, and another body under it is refused', async () => {
    const world = await worldOf(['Hello'])
    const headers = { 'idempotency-key': 'the same' }
    const first = await create(world, { background: true }, headers)
    const second = await create(world, { background: true }, headers)
    expect(second.body.id).toBe(first.body.id)
    const other = await create(world, { background: true, input: 'Another thing.' }, headers)
    expect(other).toMatchObject({ status: 409, body: { error: { code: 'conflict' } } })
    await until(world, first.body.id, 'completed')
    expect((await world.recorded()).attempts).toHaveLength(1)
  })

  test('beyond a limit is refused as such, and nothing of it is kept', async () => {
    const world = await worldOf(['Hello'])
    const { orgId } = await world.ownTenant()
    const limits = [{ meter: 'requests', window: 'day', max: 1 }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBeLessThan(300)
    const first = await create(world, { background: true })
    expect(first).toMatchObject({ status: 200, body: { status: 'queued' } })
    await until(world, first.body.id, 'completed')
    const headers = { 'idempotency-key': 'again' }
    for (const stream of [false, true]) {
      const refused = await Promise.all([
        create(world, { background: true, stream, input: 'A secret.' }, headers),
        create(world, { background: true, stream, input: 'A secret.' }, headers),
      ])
      for (const { status, body } of refused) {
        expect([status, body.error.code]).toEqual([429, 'rate_limit_exceeded'])
      }
    }
    const unnamed = await create(world, { background: true, input: 'A secret.' })
    expect(unnamed.status).toBe(429)
    const id = `resp_${unnamed.requestId?.replaceAll('-', '')}`
    expect((await ask(world, 'GET', `/v1/responses/${id}/input_items`)).status).toBe(404)
    const { runs } = await storedAt(world, id)
    await runInDurableObject(runs, (_, state) => {
      const count = (table: string) => state.storage.sql.exec(`SELECT count(*) AS rows FROM ${table}`).one().rows
      expect(['runs', 'texts', 'events'].map(count)).toEqual([0, 0, 0])
    })
    expect((await world.recorded()).holds).toBe(0)
  })

  test('that is refused late leaves its refusal for an hour, and nothing of what was asked', async () => {
    const world = await worldOf(['Hello'])
    const { orgId } = await world.ownTenant()
    const limits = [{ meter: 'requests', window: 'day', max: 1 }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBeLessThan(300)
    await until(world, (await create(world, { background: true })).body.id, 'completed')
    // The verdict comes after the caller was told `queued`.
    const spy = vi.spyOn(Runner.prototype, 'verdict', 'get').mockReturnValue(Promise.resolve(undefined))
    const { status, body } = await create(world, { background: true, input: 'A secret.' })
    expect([status, body.status]).toEqual([200, 'queued'])
    expect(await until(world, body.id, 'failed')).toMatchObject({ error: { code: 'rate_limit_exceeded' } })
    spy.mockRestore()
    expect((await ask(world, 'GET', `/v1/responses/${body.id}/input_items`)).body.data).toEqual([])
    const { runs } = await storedAt(world, body.id)
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + HOUR_MS
    })
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`)).status).toBe(404)
  })
})

describe('content rules', () => {
  const rules = async (world: World, hook: Record<string, unknown>) => {
    const { orgId } = await world.ownTenant()
    const made = await admin('PUT', `/organisations/${orgId}/guard-hooks`, { hooks: [{ name: 'rule', ...hook }] })
    expect(made.status, made.text).toBe(200)
  }

  test('refuse a background response at the door, and nothing is kept', async () => {
    const world = await worldOf(['Hello'])
    await rules(world, { kind: 'regex', stages: ['input'], patterns: ['secret'], action: 'block' })
    const refused = await create(world, { background: true, input: 'The secret plan.' })
    expect(refused).toMatchObject({ status: 400, body: { error: { code: 'content_filter' } } })
  })

  test('mask what is kept as they mask what is sent, also in the background, and once', async () => {
    const world = await worldOf(['Hello'])
    await rules(world, { kind: 'pii', stages: ['input'], entities: ['email'], action: 'mask' })
    for (const background of [false, true]) {
      const { body } = await create(world, {
        background,
        input: 'I am bob@example.com.',
        instructions: 'Help bob@example.com.',
      })
      const done = await until(world, body.id, 'completed')
      expect(done.instructions).toBe('Help [EMAIL].')
      const { text } = await ask(world, 'GET', `/v1/responses/${body.id}/input_items`)
      expect(text).toContain('I am [EMAIL].')
      expect(text).not.toContain('bob')
    }
  })

  test('that block an answer end its response as failed, without what was blocked', async () => {
    const world = await worldOf(['The secret', ' plan'])
    await rules(world, { kind: 'regex', stages: ['output'], patterns: ['secret plan'], action: 'block' })
    const { body } = await create(world, { background: true })
    expect(await until(world, body.id, 'failed')).toMatchObject({ error: { code: 'invalid_prompt' } })
    const { text } = await ask(world, 'GET', `/v1/responses/${body.id}?stream=true`)
    expect(text).not.toContain('secret')
    expect((await world.recorded()).holds).toBe(0)
  })
})

describe('its events', () => {
  test('can be read while they come, by the client that asked', async () => {
    const release = gate()
    const world = await worldOf(() => [
      accepted,
      delta('Hel', 1),
      { wait: release.opened },
      delta('lo', 2),
      { type: 'finish', choice: 0, reason: 'stop', outputTokens: 2 },
      { type: 'usage', usage: usage(7, 2) },
    ])
    const body = { model: world.model, input: 'hi', background: true, stream: true }
    const { response, settled } = await follow(world, '/v1/responses', { body })
    const start = await readUntil(response, '"delta":"Hel"')
    release.open()
    const rest = await readToEnd(response)
    await settled()
    const events = eventsOf(start + rest)
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, at) => at))
    expect(events[0]).toMatchObject({ type: 'response.created', response: { status: 'queued' } })
    expect(events.at(-1)).toMatchObject({ type: 'response.completed' })
    expect(textOf(events.at(-1)?.response)).toBe('Hello')
  })

  test('go on after its client has left, and whoever comes back gets exactly those that are missing', async () => {
    const release = gate()
    const world = await worldOf(() => [
      accepted,
      delta('Hel', 1),
      { wait: release.opened },
      delta('lo', 2),
      delta(' 🦆', 3),
      { type: 'finish', choice: 0, reason: 'stop', outputTokens: 3 },
      { type: 'usage', usage: usage(7, 3) },
    ])
    const body = { model: world.model, input: 'hi', background: true, stream: true }
    const first = await follow(world, '/v1/responses', { body })
    const seen = eventsOf(await readUntil(first.response, '"delta":"Hel"'))
    first.leave()
    await first.settled()
    release.open()
    const id = seen[0]?.response.id
    await until(world, id, 'completed')
    const all = await ask(world, 'GET', `/v1/responses/${id}?stream=true`)
    expect(all.events.slice(0, seen.length)).toEqual(seen)
    for (const [at] of all.events.entries()) {
      const rest = await ask(world, 'GET', `/v1/responses/${id}?stream=true&starting_after=${at}`)
      expect(rest.events).toEqual(all.events.slice(at + 1))
    }
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'ok', input: 7, output: 3, source: 'provider' }])
    expect(holds).toBe(0)
  })

  test('are put together by the official client, from the start and from the middle', async () => {
    const world = await worldOf(['Hello', ' there'])
    const openai = await official(world)
    const made = await openai.responses.create({ model: world.model, input: 'hi', background: true })
    await until(world, made.id, 'completed')
    expect((await openai.responses.stream({ response_id: made.id }).finalResponse()).output_text).toBe('Hello there')
    const resumed = await openai.responses.stream({ response_id: made.id, starting_after: 4 }).finalResponse()
    expect(resumed.output_text).toBe('Hello there')
    const late = await openai.responses.retrieve(made.id, { stream: true, starting_after: 6 })
    const numbers: number[] = []
    for await (const event of late) numbers.push(event.sequence_number)
    expect(numbers[0]).toBe(7)
  })

  test('cannot be asked for wrongly', async () => {
    const world = await worldOf(['Hello'])
    const { body } = await create(world, { background: true })
    await until(world, body.id, 'completed')
    for (const query of ['starting_after=2', 'stream=yes', 'stream=true&starting_after=-1']) {
      expect((await ask(world, 'GET', `/v1/responses/${body.id}?${query}`)).status, query).toBe(400)
    }
  })

  test('are kept for an hour after the end, the response itself for longer', async () => {
    const world = await worldOf(['Hello'])
    const { body } = await create(world, { background: true })
    await until(world, body.id, 'completed')
    const { name, runs } = await storedAt(world, body.id)
    await runInDurableObject(runs, (instance) => {
      instance.now = () => Date.now() + HOUR_MS
    })
    expect(await runDurableObjectAlarm(runs)).toBe(true)
    expect(await ask(world, 'GET', `/v1/responses/${body.id}?stream=true`)).toMatchObject({
      status: 400,
      body: { error: { param: 'stream' } },
    })
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`)).body.status).toBe('completed')
    await runInDurableObject(runs, (_, state) => {
      expect(state.storage.sql.exec('SELECT count(*) AS rows FROM events WHERE run = ?', name).one().rows).toBe(0)
    })
  })

  test('may be followed by a bounded number of clients at a time', async () => {
    const release = gate()
    const world = await worldOf(() => [accepted, delta('Hel', 1), { wait: release.opened }, ...answer(['x']).slice(2)])
    const { body } = await create(world, { background: true })
    const { name, owner, runs } = await storedAt(world, body.id)
    const waiting = Array.from({ length: FOLLOWERS_MAX }, () => runs.follow(name, owner, 1_000, 10_000))
    await vi.waitFor(async () => {
      const refused = await runs.follow(name, owner, 1_000, 1)
      expect(refused).toMatchObject({ ok: false, error: { code: 'concurrency_limited' } })
    })
    release.open()
    for (const one of await Promise.all(waiting)) expect(one.ok).toBe(true)
    await until(world, body.id, 'completed')
  })
})

describe('its caller', () => {
  test('can cancel it: the target is let go, what was computed is charged once, and it stays cancelled', async () => {
    const started = gate()
    let cancelledAt = 0
    const world = await worldOf(() => [
      accepted,
      delta('Hel', 1),
      { run: started.open },
      { wait: new Promise(() => {}) },
      { run: () => cancelledAt++ },
    ])
    const { body } = await create(world, { background: true })
    await started.opened
    const path = `/v1/responses/${body.id}`
    const { body: cancelled } = await ask(world, 'POST', `${path}/cancel`)
    expect(cancelled).toMatchObject({ id: body.id, status: 'cancelled' })
    expect((await ask(world, 'POST', `${path}/cancel`)).body).toEqual(cancelled)
    expect((await ask(world, 'GET', path)).body).toEqual(cancelled)
    const { events } = await ask(world, 'GET', `${path}?stream=true`)
    expect(events.at(-1)).toMatchObject({ type: 'response.incomplete', response: { status: 'cancelled' } })
    await vi.waitFor(async () => {
      const { attempts, requests, holds } = await world.recorded()
      expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', input: 7, output: 1 }])
      expect(requests).toEqual([{ status: 'client_cancelled', attempts: 1 }])
      expect(holds).toBe(0)
    })
    expect(cancelledAt).toBe(0)
  })

  test('can delete it while it runs', async () => {
    const started = gate()
    const world = await worldOf(() => [accepted, { run: started.open }, { wait: new Promise(() => {}) }])
    const { body } = await create(world, { background: true })
    await started.opened
    expect((await ask(world, 'DELETE', `/v1/responses/${body.id}`)).body.deleted).toBe(true)
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`)).status).toBe(404)
    await vi.waitFor(async () => {
      const { requests, holds } = await world.recorded()
      expect(requests).toMatchObject([{ status: 'client_cancelled' }])
      expect(holds).toBe(0)
    })
  })
})
