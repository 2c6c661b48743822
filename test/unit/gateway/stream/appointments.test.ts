// What a request waits for by the clock: each in its time, all of them by one timer.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Appointment, Appointments } from '../../../../gateway/stream/appointments.ts'
import { within } from '../../../../gateway/stream/within.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

describe('appointments', () => {
  test('are each kept in their time, in whatever order they were made', () => {
    const kept: string[] = []
    const appointments = new Appointments()
    const at = (ms: number) => appointments.set(new Appointment(() => kept.push(`${ms}`)), ms)
    for (const ms of [60_000, 20, 5_000, 1_500]) at(ms)
    vi.advanceTimersByTime(19)
    expect(kept).toEqual([])
    vi.advanceTimersByTime(1)
    expect(kept).toEqual(['20'])
    vi.advanceTimersByTime(1_479)
    expect(kept).toEqual(['20'])
    vi.advanceTimersByTime(1)
    expect(kept).toEqual(['20', '1500'])
    vi.advanceTimersByTime(60_000)
    expect(kept).toEqual(['20', '1500', '5000', '60000'])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('are kept in their time beside one that sets itself again for later', () => {
    const kept: string[] = []
    const appointments = new Appointments()
    const again = new Appointment(() => appointments.set(again, 15_000))
    appointments.set(again, 15_000)
    vi.advanceTimersByTime(14_950)
    appointments.set(new Appointment(() => kept.push('soon')), 100)
    vi.advanceTimersByTime(100)
    expect(kept).toEqual(['soon'])
    appointments.drop(again)
  })

  test('have one timer, which those that come and go within its time leave alone', () => {
    const started = vi.spyOn(globalThis, 'setTimeout')
    const appointments = new Appointments()
    for (let round = 0; round < 100; round++) {
      const one = new Appointment(() => {
        throw new Error('was dropped')
      })
      appointments.set(one, 10_000)
      vi.advanceTimersByTime(1)
      appointments.drop(one)
    }
    expect(started).toHaveBeenCalledTimes(1)
    vi.advanceTimersByTime(20_000)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('may be moved, made and dropped by one that is kept', () => {
    const kept: string[] = []
    const appointments = new Appointments()
    const dropped = new Appointment(() => kept.push('dropped'))
    const again = new Appointment(() => {
      kept.push('again')
      if (kept.length < 3) appointments.set(again, 10)
    })
    const first = new Appointment(() => {
      kept.push('first')
      appointments.drop(dropped)
      appointments.set(again, 10)
    })
    appointments.set(first, 50)
    appointments.set(dropped, 50)
    appointments.set(again, 40)
    appointments.set(again, 400)
    vi.advanceTimersByTime(1_000)
    expect(kept).toEqual(['first', 'again', 'again'])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('wait no hour where the clock is set back by one, and come at most a look too early', () => {
    const kept: number[] = []
    const appointments = new Appointments()
    const startMs = Date.now()
    const at = (ms: number) => appointments.set(new Appointment(() => kept.push(ms)), ms)
    at(5_000)
    vi.advanceTimersByTime(500)
    vi.setSystemTime(startMs - 3_600_000)
    at(2_000)
    vi.advanceTimersByTime(1_499)
    expect(kept).toEqual([])
    vi.advanceTimersByTime(501)
    expect(kept).toEqual([2_000])
    vi.advanceTimersByTime(2_500)
    expect(kept).toEqual([2_000, 5_000])
  })

  test('leave no long timer behind when the last of them is dropped', () => {
    const appointments = new Appointments()
    const one = new Appointment(() => {})
    appointments.set(one, 600_000)
    vi.advanceTimersByTime(2_000)
    expect(vi.getTimerCount()).toBe(1)
    appointments.drop(one)
    expect(vi.getTimerCount()).toBe(0)
  })
})

test('a wait ends with the value, the error, or the time', async () => {
  await expect(within(Promise.resolve(1), 50)).resolves.toBe(1)
  await expect(within(Promise.reject(new Error('broken')), 50)).rejects.toThrow('broken')
  const late = within(new Promise(() => {}), 50)
  await vi.advanceTimersByTimeAsync(50)
  await expect(late).resolves.toBeUndefined()
})
