import { describe, expect, test, vi } from 'vitest'
import { Stop, Stopped } from '../../../../gateway/stream/stop.ts'

describe('a stop', () => {
  test('keeps its first reason and tells its children, which can end alone', async () => {
    const parent = new Stop()
    const child = parent.child()
    const lonely = parent.child()
    lonely.stop('idle')
    expect(parent.reason).toBeUndefined()
    parent.stop('deadline')
    parent.stop('client_gone')
    expect([parent.reason, child.reason, lonely.reason]).toEqual(['deadline', 'deadline', 'idle'])
    expect(child.signal.aborted).toBe(true)
    expect(parent.child().reason).toBe('deadline')
  })

  test('ends a wait with its reason, also where the wait fails of the same abort', async () => {
    const stop = new Stop()
    const failing = new Promise<never>((_, reject) => {
      stop.signal.addEventListener('abort', () => reject(new Error('aborted')))
    })
    const waiting = stop.race(failing)
    stop.stop('client_gone')
    await expect(waiting).rejects.toEqual(new Stopped('client_gone'))
    await expect(stop.race(Promise.resolve(1))).rejects.toThrow(Stopped)
  })

  test('lets values and other errors through', async () => {
    const stop = new Stop()
    await expect(stop.race(Promise.resolve(5))).resolves.toBe(5)
    await expect(stop.race(Promise.reject(new Error('x')))).rejects.toThrow('x')
  })

  test('has one timer, which arming again replaces and disarming ends', () => {
    vi.useFakeTimers()
    try {
      const stop = new Stop()
      stop.arm(100, 'first_content')
      vi.advanceTimersByTime(90)
      stop.arm(100, 'idle')
      vi.advanceTimersByTime(90)
      expect(stop.reason).toBeUndefined()
      stop.disarm()
      vi.advanceTimersByTime(1000)
      expect(stop.reason).toBeUndefined()
      stop.arm(10, 'idle')
      vi.advanceTimersByTime(10)
      expect(stop.reason).toBe('idle')
      stop.arm(10, 'deadline')
      expect(vi.getTimerCount()).toBe(0)
    } finally {
      vi.useRealTimers()
    }
  })
})
