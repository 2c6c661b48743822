// Background responses whose object dies in the middle of their work, at each step of it: what an own backend had told goes on, with the
// next event number, and is paid for once; what a vendor had told has failed and says so.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { RunStore } from '../../gateway/runs/run-store.ts'
import type { DispatchRequest } from '../../protocol/dispatch.ts'
import { admin } from './support/admin.ts'
import { type AgentScript, answer, toldAnswer, usage } from './support/fake-agent.ts'
import { gate, type World } from './support/path.ts'
import { ask, create, kill, storedAt, until, untilStored, worldOf } from './support/responses.ts'
import { ending, late, never, piece, target } from './support/vendor.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const WORDS = ['The ', 'quick ', 'brown ', 'fox ', 'jumps ', '😀.']
const TEXT = WORDS.join('')
const textOf = (response: { output: { content: { text: string }[] }[] }) => response.output[0]?.content[0]?.text

/** Events by their numbers, none missing and none twice. */
async function eventsOf(world: World, id: string) {
  const { events } = await ask(world, 'GET', `/v1/responses/${id}?stream=true`)
  expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, at) => at))
  return events
}

async function expectPaidOnce(world: World, output: number): Promise<void> {
  await vi.waitFor(async () => {
    const { attempts, requests, holds } = await world.recorded()
    expect(attempts).toMatchObject([{ status: 'ok', charge: 'customer', input: 7, output, source: 'provider' }])
    expect(requests).toEqual([{ status: 'ok', attempts: 1 }])
    expect(holds).toBe(0)
  })
}

/** The first dispatch says what comes before `at` lines and falls silent; those after it are whole. */
function stuckAfter(at: number): { script: AgentScript; dispatches: DispatchRequest[] } {
  const dispatches: DispatchRequest[] = []
  const script: AgentScript = (dispatch) => {
    dispatches.push(dispatch)
    const lines = toldAnswer(dispatch, WORDS)
    return dispatches.length === 1 ? [...lines.slice(0, at), { wait: never }] : lines
  }
  return { script, dispatches }
}

/** `accepted`, tokens and text of each word, the end, the count. */
const LINES = 1 + 2 * WORDS.length + 2

describe('a response on own backends whose object dies', () => {
  test.each(Array.from({ length: LINES - 1 }, (_, at) => at + 1))(
    'after %i lines of its answer goes on, and nobody can tell',
    async (at) => {
      const { script, dispatches } = stuckAfter(at)
      const world = await worldOf(script)
      const { body } = await create(world, { background: true })
      const last = at === 1 ? 'accepted' : JSON.stringify(toldAnswer({} as DispatchRequest, WORDS)[at - 1])
      await untilStored(world, body.id, (_, journal) => journal.includes(last))
      const before = await runsEvents(world, body.id)
      await kill(world, body.id)
      expect(textOf(await until(world, body.id, 'completed'))).toBe(TEXT)
      const events = await eventsOf(world, body.id)
      expect(events.slice(0, before.length)).toEqual(before)
      expect(events.filter(({ type }) => type === 'response.in_progress')).toHaveLength(1)
      const deltas = events.flatMap(({ type, delta }) => (type === 'response.output_text.delta' ? [delta] : []))
      expect(deltas.join('')).toBe(TEXT)
      const told = Math.floor(at / 2)
      // Where each choice has told its end only the count is missing, and nobody is asked.
      expect(dispatches).toHaveLength(at > 1 + 2 * WORDS.length ? 1 : 2)
      const tokenIds = Array.from({ length: told }, (_, index) => 100 + index)
      if (dispatches.length === 2) {
        expect(dispatches[1]?.resume?.choices ?? []).toEqual(told === 0 ? [] : [{ choice: 0, tokenIds }])
        if (told > 0) expect(dispatches[1]?.sampling.seed).toBe(dispatches[0]?.sampling.seed)
      }
      await expectPaidOnce(world, WORDS.length)
    },
  )

  test('when it is paid and not yet kept as ended is ended, and not paid again', async () => {
    let dispatches = 0
    const world = await worldOf((dispatch) => {
      dispatches++
      return toldAnswer(dispatch, WORDS)
    })
    const crash = vi.spyOn(RunStore.prototype, 'dropWork').mockImplementationOnce(() => {
      throw new Error('the process dies here')
    })
    const { body } = await create(world, { background: true })
    await vi.waitFor(async () => expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok' }]))
    await vi.waitFor(() => expect(crash).toHaveBeenCalled())
    await kill(world, body.id)
    expect(textOf(await until(world, body.id, 'completed'))).toBe(TEXT)
    expect(dispatches).toBe(1)
    await eventsOf(world, body.id)
    await expectPaidOnce(world, WORDS.length)
  })

  test('again and again goes on each time that it has come further', async () => {
    let dispatches = 0
    const world = await worldOf((dispatch) => {
      dispatches++
      const told = dispatch.resume?.choices[0]?.tokenIds.length ?? 0
      return toldAnswer(dispatch, WORDS, { cut: Math.min(WORDS.length, told + 2), end: [{ wait: never }] })
    })
    const { body } = await create(world, { background: true })
    for (const words of [2, 4]) {
      const last = `"delta":${JSON.stringify(WORDS[words - 1])}`
      await untilStored(world, body.id, (text) => text.includes(last))
      await kill(world, body.id)
      await ask(world, 'GET', `/v1/responses/${body.id}`)
    }
    expect(textOf(await until(world, body.id, 'completed'))).toBe(TEXT)
    expect(dispatches).toBe(3)
    await eventsOf(world, body.id)
    await expectPaidOnce(world, WORDS.length)
  })

  test('without coming further is not taken on for ever', async () => {
    const world = await worldOf(() => [{ type: 'accepted', usage: usage(7, 0), queueMs: 0 }, { wait: never }])
    const { body } = await create(world, { background: true })
    for (let life = 0; life < 3; life++) {
      await untilStored(world, body.id, (_, journal) => journal.includes('accepted'))
      await kill(world, body.id)
      await ask(world, 'GET', `/v1/responses/${body.id}`)
    }
    expect(await until(world, body.id, 'failed')).toMatchObject({
      error: { code: 'server_error', message: expect.stringContaining('each try to go on') },
    })
    expect((await eventsOf(world, body.id)).at(-1)).toMatchObject({ type: 'response.failed' })
  })

  test('goes on without anybody asking', async () => {
    const { script, dispatches } = stuckAfter(5)
    const world = await worldOf(script)
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('quick'))
    await kill(world, body.id)
    const { runs } = await storedAt(world, body.id)
    // The alarm that stands while it runs; the runtime fires it, and makes the object for it.
    expect(await runDurableObjectAlarm(runs)).toBe(true)
    await vi.waitFor(() => expect(dispatches).toHaveLength(2))
    expect(textOf(await until(world, body.id, 'completed'))).toBe(TEXT)
  })

  test('with content rules on its answer goes on behind them', async () => {
    const { script } = stuckAfter(9)
    const world = await worldOf(script)
    const { orgId } = await world.ownTenant()
    const hook = { name: 'rule', kind: 'regex', stages: ['output'], patterns: ['brown'], action: 'mask' }
    expect((await admin('PUT', `/organisations/${orgId}/guard-hooks`, { hooks: [hook] })).status).toBe(200)
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text, journal) => journal.includes('fox') && text.includes('quick'))
    await kill(world, body.id)
    const done = await until(world, body.id, 'completed')
    expect(textOf(done)).not.toContain('brown')
    expect(textOf(done)).toContain('fox jumps 😀.')
    await eventsOf(world, body.id)
    await expectPaidOnce(world, WORDS.length)
  })

  test('and is cancelled afterwards stays so', async () => {
    const { script } = stuckAfter(5)
    const world = await worldOf(script)
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('quick'))
    const { body: cancelled } = await ask(world, 'POST', `/v1/responses/${body.id}/cancel`)
    expect(cancelled.status).toBe('cancelled')
    await kill(world, body.id)
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`)).body).toEqual(cancelled)
    await vi.waitFor(async () => {
      const { attempts, holds } = await world.recorded()
      expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', input: 7, output: 2 }])
      expect(holds).toBe(0)
    })
  })
})

describe('a response whose next life', () => {
  test('is ended by its caller before it has come as far as the last one is cancelled, and paid as far as it was told', async () => {
    const { script, dispatches } = stuckAfter(5)
    const world = await worldOf(script)
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('quick'))
    await kill(world, body.id)
    const { body: cancelled } = await ask(world, 'POST', `/v1/responses/${body.id}/cancel`)
    expect(cancelled).toMatchObject({ status: 'cancelled', error: null })
    expect((await ask(world, 'GET', `/v1/responses/${body.id}`)).body).toEqual(cancelled)
    const events = await eventsOf(world, body.id)
    expect(events.at(-1)).toMatchObject({ type: 'response.incomplete', response: { status: 'cancelled' } })
    await vi.waitFor(async () => {
      const { attempts, holds } = await world.recorded()
      expect(attempts).toMatchObject([{ status: 'client_cancelled', charge: 'customer', input: 7, output: 2 }])
      expect(holds).toBe(0)
    })
    expect(dispatches).toHaveLength(1)
  })

  test('says something else than its last one fails, and nothing garbled is added', async () => {
    let dispatches = 0
    const world = await worldOf((dispatch) => {
      dispatches++
      const lines = toldAnswer(dispatch, dispatches === 1 ? WORDS : ['A ', 'slow ', 'red ', 'hen ', 'sits ', '!'])
      return dispatches === 1 ? [...lines.slice(0, 5), { wait: never }] : lines
    })
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('quick'))
    await kill(world, body.id)
    expect(await until(world, body.id, 'failed')).toMatchObject({ error: { code: 'server_error' } })
    const events = await eventsOf(world, body.id)
    const deltas = events.flatMap(({ type, delta }) => (type === 'response.output_text.delta' ? [delta] : []))
    expect(deltas.join('')).toBe('The quick ')
  })

  test('finds its events changed fails, and its followers keep theirs', async () => {
    const { script } = stuckAfter(5)
    const world = await worldOf(script)
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('quick'))
    const { name, runs } = await storedAt(world, body.id)
    await runInDurableObject(runs, (_, state) => {
      state.storage.sql.exec(`UPDATE events SET piece = replace(piece, 'quick', 'queer') WHERE run = ?`, name)
    })
    await kill(world, body.id)
    expect(await until(world, body.id, 'failed')).toMatchObject({ error: { code: 'server_error' } })
    const text = JSON.stringify(await eventsOf(world, body.id))
    expect(text).toContain('queer')
    expect(text).not.toContain('fox')
    await vi.waitFor(async () => expect((await world.recorded()).holds).toBe(0))
  })
})

describe('a response whose first events are not what its next life says', () => {
  test('fails, and its followers are told so', async () => {
    const { script } = stuckAfter(1)
    const world = await worldOf(script)
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text, journal) => text.includes('in_progress') && journal.includes('accepted'))
    const { name, runs } = await storedAt(world, body.id)
    await runInDurableObject(runs, (_, state) => {
      state.storage.sql.exec('DELETE FROM events WHERE run = ? AND first > 0', name)
      state.storage.sql.exec(`UPDATE events SET piece = replace(piece, '"queued"', '"qeuued"') WHERE run = ?`, name)
    })
    await kill(world, body.id)
    expect(await until(world, body.id, 'failed')).toMatchObject({ error: { code: 'server_error' } })
    expect((await eventsOf(world, body.id)).at(-1)).toMatchObject({ type: 'response.failed' })
    await vi.waitFor(async () => expect((await world.recorded()).holds).toBe(0))
  })
})

describe('a response that nobody can go on with', () => {
  test('has failed where a vendor had told some of it, and says which', async () => {
    const world = await worldOf(['unused'])
    const vendor = await world.provider(late(never, piece('Hel'), ''))
    await world.catalog([target(vendor)])
    const { body } = await create(world, { background: true })
    await untilStored(world, body.id, (text) => text.includes('Hel'))
    await kill(world, body.id)
    expect(await until(world, body.id, 'failed')).toMatchObject({
      error: { code: 'server_error', message: expect.stringContaining(vendor) },
    })
    const events = await eventsOf(world, body.id)
    expect(events.at(-2)).toMatchObject({ type: 'response.output_text.delta', delta: 'Hel' })
    expect(events.at(-1)).toMatchObject({ type: 'response.failed' })
  })

  test('is begun again at the same vendor, once, where nothing was told', async () => {
    const world = await worldOf(['unused'])
    let asked = 0
    const stuck = gate()
    const vendor = await world.provider((request) => {
      asked++
      return asked === 1
        ? late(stuck.opened, '', '')(request)
        : late(Promise.resolve(), piece('Hel'), piece('lo') + ending())(request)
    })
    const other = await world.provider(late(Promise.resolve(), piece('Other'), ending()))
    await world.catalog([target(vendor), target(other)])
    const { body } = await create(world, { background: true })
    await vi.waitFor(() => expect(asked).toBe(1))
    await kill(world, body.id)
    expect(textOf(await until(world, body.id, 'completed'))).toBe('Hello')
    expect(asked).toBe(2)
    const { attempts } = await world.recorded()
    expect(attempts).toMatchObject([{ attempt: 1, status: 'ok', charge: 'customer' }])
    stuck.open()
  })

  test('before it was held is begun as if for the first time', async () => {
    const world = await worldOf(['Hello', '.'])
    const { body } = await create(world, { background: true })
    await until(world, body.id, 'completed')
    await kill(world, body.id)
    expect(textOf((await ask(world, 'GET', `/v1/responses/${body.id}`)).body)).toBe('Hello.')
    await expectPaidOnce(world, answer(['Hello', '.']).length - 3)
  })
})

/** Those that are stored, without following it to its end. */
async function runsEvents(world: World, id: string) {
  const { name, owner, runs } = await storedAt(world, id)
  const followed = await runs.follow(name, owner, -1, 0)
  if (!followed.ok) throw new Error(followed.error.message)
  return followed.value.text
    .split('\n\n')
    .filter((block) => block !== '')
    .map((block) => JSON.parse(block.slice(block.indexOf('\ndata: ') + 7)))
}
