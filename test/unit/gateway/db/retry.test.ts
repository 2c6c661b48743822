// Repeating what a serialisable database asks to be repeated: which errors, how often, how long between.
import { expect, test } from 'vitest'
import { delayCeilingMs, type RetryTools, TRIES_MAX, withRetry } from '../../../../gateway/db/retry.ts'

class State extends Error {
  readonly state: string | undefined
  constructor(state: string | undefined) {
    super(state)
    this.state = state
  }
}

function tools(random = 0.5): { tools: RetryTools; sleptMs: number[] } {
  const sleptMs: number[] = []
  return {
    sleptMs,
    tools: {
      stateOf: (error) => (error instanceof State ? error.state : undefined),
      random: () => random,
      sleep: async (delayMs) => {
        sleptMs.push(delayMs)
      },
    },
  }
}

/** Fails with each of the states in turn, then answers. */
function failing(states: (string | undefined)[]) {
  let calls = 0
  const work = async () => {
    const state = states[calls++]
    if (calls <= states.length) throw new State(state)
    return calls
  }
  return { work, calls: () => calls }
}

test.each(['40001', '40P01'])('the whole closure runs again after %s', async (state) => {
  const { work } = failing([state, state])
  expect(await withRetry(work, tools().tools)).toBe(3)
})

test('it gives up after five tries with the last error', async () => {
  const { work, calls } = failing(Array(20).fill('40001'))
  await expect(withRetry(work, tools().tools)).rejects.toThrow('40001')
  expect(calls()).toBe(TRIES_MAX)
})

test.each(['23505', '08006', '57P01', '40002', undefined])('%s is not repeated', async (state) => {
  const { work, calls } = failing([state])
  const { tools: t, sleptMs } = tools()
  await expect(withRetry(work, t)).rejects.toBeInstanceOf(State)
  expect(calls()).toBe(1)
  expect(sleptMs).toEqual([])
})

test('waits are uniform between 10 ms and a ceiling that doubles, never above 500 ms', async () => {
  const waits = async (random: number) => {
    const { tools: t, sleptMs } = tools(random)
    await withRetry(failing(Array(20).fill('40001')).work, t).catch(() => {})
    return sleptMs
  }
  expect(await waits(0)).toEqual([10, 10, 10, 10])
  expect(await waits(1)).toEqual([20, 40, 80, 160])
  expect([5, 6, 50].map(delayCeilingMs)).toEqual([320, 500, 500])
})
