// The bounded queue in front of the connections.
import { expect, test, vi } from 'vitest'
import { Slots } from '../../../../gateway/db/slots.ts'

test('as many run as there are slots; the rest start in the order they came', async () => {
  const slots = new Slots({ slots: 2, waitersMax: 10, waitMaxMs: 1_000 })
  const started: number[] = []
  const tasks = [0, 1, 2, 3, 4].map((index) => slots.acquire().then(() => started.push(index)))
  await Promise.all(tasks.slice(0, 2))
  expect(started).toEqual([0, 1])
  slots.release()
  await tasks[2]
  expect(started).toEqual([0, 1, 2])
  slots.release()
  slots.release()
  await Promise.all(tasks)
  expect(started).toEqual([0, 1, 2, 3, 4])
})

test('one more than may wait is refused at once', async () => {
  const slots = new Slots({ slots: 1, waitersMax: 1, waitMaxMs: 1_000 })
  expect(await slots.acquire()).toBeUndefined()
  const waiting = slots.acquire()
  expect(await slots.acquire()).toBe('queue_full')
  slots.release()
  expect(await waiting).toBeUndefined()
})

test('who waits too long is refused and takes no slot later', async () => {
  vi.useFakeTimers()
  try {
    const slots = new Slots({ slots: 1, waitersMax: 5, waitMaxMs: 100 })
    await slots.acquire()
    const waiting = slots.acquire()
    await vi.advanceTimersByTimeAsync(100)
    expect(await waiting).toBe('waited_too_long')
    slots.release()
    expect(await slots.acquire()).toBeUndefined()
    expect(vi.getTimerCount()).toBe(0)
  } finally {
    vi.useRealTimers()
  }
})
