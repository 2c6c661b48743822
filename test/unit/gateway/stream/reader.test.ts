// Reading an upstream where the wait is stopped: nothing that came is lost, and what is let go of is let go of once.
import { describe, expect, test } from 'vitest'
import { NO_USAGE } from '../../../../gateway/meter/usage.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import type { Upstream } from '../../../../gateway/providers/provider.ts'
import { upstreamStop } from '../../../../gateway/stream/cutoff.ts'
import { EventReader } from '../../../../gateway/stream/reader.ts'
import { Stop, Stopped } from '../../../../gateway/stream/stop.ts'
import { Tally } from '../../../../gateway/stream/tally.ts'

const delta = (outputTokens: number): ProviderEvent => ({ type: 'delta', choice: 0, text: 'x', outputTokens })
const last: ProviderEvent = { type: 'usage', usage: { ...NO_USAGE, inputUncached: 5, outputText: 9 } }

/** An upstream that gives each batch when it is told to. */
function upstreamOf(batches: (ProviderEvent[] | Error)[]) {
  const waiting: (() => void)[] = []
  const state = { closed: 0, give: () => waiting.shift()?.() }
  async function* events(): AsyncGenerator<ProviderEvent[]> {
    for (const batch of batches) {
      await new Promise<void>((resolve) => waiting.push(resolve))
      if (batch instanceof Error) throw batch
      yield batch
    }
  }
  const upstream: Upstream = { label: 'vendor', events: events(), close: () => void state.closed++ }
  return { state, upstream }
}

/** Lets every promise that can go on do so. */
const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('an upstream that is read on without a client', () => {
  test('loses nothing that was on its way when the wait was stopped', async () => {
    const { state, upstream } = upstreamOf([[delta(1)], [delta(2)], [last]])
    const [stop, tally] = [new Stop(), new Tally()]
    const call = upstreamStop(stop, 'drain')
    const reader = new EventReader(upstream, stop, tally, call)
    const first = reader.next()
    state.give()
    expect(await first).toEqual([delta(1)])
    const second = reader.next()
    stop.stop('client_gone')
    await expect(second).rejects.toThrow(Stopped)
    expect(call.reason).toBeUndefined()

    const draining = reader.drain(60_000)
    for (let batch = 0; batch < 2; batch++) {
      state.give()
      await turn()
    }
    await draining
    expect(tally.counted()).toEqual({ usage: { ...NO_USAGE, inputUncached: 5, outputText: 9 }, source: 'provider' })
    expect(call.reason).toBe('done')
    expect(state.closed).toBe(1)
  })

  test('is let go of when its time is over, and what was counted stands', async () => {
    const { state, upstream } = upstreamOf([[delta(3)], [last]])
    const [stop, tally] = [new Stop(), new Tally()]
    const call = upstreamStop(stop, 'drain')
    const reader = new EventReader(upstream, stop, tally, call)
    stop.stop('deadline')
    const draining = reader.drain(1)
    state.give()
    await draining
    expect(call.reason).toBe('done')
    expect(state.closed).toBe(1)
    expect(tally.counted().source).toBe('stream_partial')
  })

  test('may break off: draining never throws', async () => {
    const { state, upstream } = upstreamOf([[delta(3)], new Error('reset')])
    const [stop, tally] = [new Stop(), new Tally()]
    const reader = new EventReader(upstream, stop, tally, upstreamStop(stop, 'drain'))
    const draining = reader.drain(60_000)
    state.give()
    await turn()
    state.give()
    await draining
    expect(tally.counted()).toEqual({ usage: { ...NO_USAGE, outputText: 3 }, source: 'stream_partial' })
    reader.close()
    expect(state.closed).toBe(1)
  })
})

test.each(['cancel', 'cancel_free'] as const)('under %s the call ends with the attempt', (policy) => {
  const stop = new Stop()
  expect(upstreamStop(stop, policy)).toBe(stop)
})

test.each(['idle', 'first_content', 'done'] as const)(
  'under drain the call ends with an attempt that ends as %s',
  (reason) => {
    const stop = new Stop()
    const call = upstreamStop(stop, 'drain')
    stop.stop(reason)
    expect(call.reason).toBe(reason)
    expect(call.signal.aborted).toBe(true)
  },
)
