import { expect, test } from 'vitest'
import { Admission, type Ask, type Ticket } from '../../../backends/admission.ts'
import type { Failure } from '../../../protocol/errors.ts'

type Setup = { slots?: number; queue?: number }
function setup({ slots = 1, queue = 100 }: Setup = {}) {
  const clock = { nowMs: 0 }
  const admission = new Admission(queue, () => clock.nowMs)
  admission.setSlotsMax(slots)
  const order: string[] = []
  const tickets: Ticket[] = []
  const enter = (name: string, ask: Partial<Ask> = {}, signal = new AbortController().signal) => {
    const done = admission.enter(
      { slots: 1, tenant: name[0] ?? '', priority: 0, deadlineAtMs: 1_000_000, ...ask },
      signal,
    )
    return done.then((result) => {
      if (result.ok) {
        order.push(name)
        tickets.push(result.value)
      }
      return result
    })
  }
  /** Serves whoever is admitted, one after the other, until nobody is. */
  const serveAll = async () => {
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve))
      const ticket = tickets.shift()
      if (ticket === undefined) return
      ticket.release()
    }
  }
  return { admission, clock, order, tickets, enter, serveAll }
}

test('one tenant with a long line does not hold up the others', async () => {
  const { enter, order, serveAll } = setup()
  await enter('x0')
  for (const name of ['a1', 'a2', 'a3', 'a4', 'b1', 'c1', 'b2']) void enter(name)
  await serveAll()
  expect(order).toEqual(['x0', 'a1', 'b1', 'c1', 'a2', 'b2', 'a3', 'a4'])
})

test('a higher priority goes first', async () => {
  const { enter, order, serveAll } = setup()
  await enter('x0')
  void enter('low', { priority: -1 })
  void enter('mid')
  void enter('top', { priority: 5 })
  await serveAll()
  expect(order).toEqual(['x0', 'top', 'mid', 'low'])
})

test('slots are sequences, and a wide request is not passed by narrow ones', async () => {
  const { enter, order, tickets, admission, serveAll } = setup({ slots: 4 })
  await enter('a', { slots: 3 })
  void enter('wide', { slots: 4 })
  void enter('narrow', { slots: 1 })
  await new Promise((resolve) => setImmediate(resolve))
  expect(order).toEqual(['a'])
  expect(admission.queued).toBe(2)
  tickets.shift()?.release()
  await serveAll()
  expect(order).toEqual(['a', 'wide', 'narrow'])
  expect(admission.slotsUsed).toBe(0)
})

test('a full queue refuses with a time to come back', async () => {
  const { enter } = setup({ queue: 1 })
  await enter('a')
  void enter('b')
  const refused = await enter('c')
  expect(refused).toMatchObject({ ok: false, error: { code: 'overloaded' } })
  if (!refused.ok) expect(refused.error.retryAfterMs).toBeGreaterThan(0)
})

test('work that cannot begin before its deadline is refused at the door', async () => {
  const { enter, clock, tickets } = setup()
  await enter('a')
  clock.nowMs = 1000
  tickets.shift()?.release()
  await enter('b')
  void enter('c')
  expect(await enter('d', { deadlineAtMs: clock.nowMs + 500 })).toMatchObject({
    ok: false,
    error: { code: 'overloaded' },
  })
})

test('more sequences than the engine has at all is the caller’s fault', async () => {
  const { enter } = setup({ slots: 2 })
  expect(await enter('a', { slots: 3 })).toMatchObject({ ok: false, error: { code: 'invalid_request', param: 'n' } })
})

test('leaving the queue frees the place and lets the next one in', async () => {
  const { enter, admission, order, serveAll } = setup({ slots: 2 })
  await enter('a')
  const leaving = new AbortController()
  const left = enter('wide', { slots: 2 }, leaving.signal)
  void enter('narrow')
  const failure: Failure = { code: 'deadline_exceeded', message: 'late' }
  leaving.abort(failure)
  expect(await left).toEqual({ ok: false, error: failure })
  await serveAll()
  expect(order).toEqual(['a', 'narrow'])
  expect(admission.queued).toBe(0)
})

test('waiting requests outlast an engine restart', async () => {
  const { enter, admission, order, tickets, serveAll } = setup()
  await enter('a')
  admission.setSlotsMax(0)
  tickets.shift()?.release()
  void enter('b')
  await new Promise((resolve) => setImmediate(resolve))
  expect(order).toEqual(['a'])
  admission.setSlotsMax(1)
  await serveAll()
  expect(order).toEqual(['a', 'b'])
})

test('closing refuses those who wait and those who come', async () => {
  const { enter, admission } = setup()
  await enter('a')
  const waiting = enter('b')
  admission.close({ code: 'overloaded', message: 'shutting down' })
  expect(await waiting).toMatchObject({ ok: false, error: { code: 'overloaded' } })
  expect(await enter('c')).toMatchObject({ ok: false })
  expect(admission.queued).toBe(0)
})

test('releasing twice frees once', async () => {
  const { enter, admission, tickets } = setup({ slots: 2 })
  await enter('a')
  await enter('b')
  tickets[0]?.release()
  tickets[0]?.release()
  expect(admission.slotsUsed).toBe(1)
})

test('a request that only fits when every engine is up waits for that, and is not called too wide', async () => {
  const { admission, enter, order } = setup()
  admission.setSlotsMax(4, 8)
  const wide = enter('a', { slots: 6 })
  expect(await enter('b', { slots: 9 })).toMatchObject({ ok: false, error: { code: 'invalid_request' } })
  admission.setSlotsMax(8, 8)
  await wide
  expect(order).toEqual(['a'])
})

test('what was closed can be opened again', async () => {
  const { admission, enter, order } = setup()
  admission.close({ code: 'overloaded', message: 'no work' })
  expect(await enter('a')).toMatchObject({ ok: false })
  admission.open()
  await enter('b')
  expect(order).toEqual(['b'])
})
