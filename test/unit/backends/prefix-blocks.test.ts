import { expect, test } from 'vitest'
import { PrefixBlocks } from '../../../backends/engine/prefix-blocks.ts'
import { type BlockEvent, FrameError } from '../../../protocol/engine-frames.ts'
import { eventsOf, startHarness, until } from './support/harness.ts'

const stored = (hash: bigint): BlockEvent => ({ kind: 'stored', hash, parent: 0n })
const removed = (hash: bigint): BlockEvent => ({ kind: 'removed', hash, parent: 0n })
const frame = (sequence: bigint, ...events: BlockEvent[]) => ({ type: 'blocks' as const, sequence, events })

test('the count follows what is stored, removed and cleared', () => {
  const blocks = new PrefixBlocks(8)
  blocks.apply(frame(1n, { kind: 'cleared', hash: 0n, parent: 0n }, stored(5n), stored(6n), stored(5n)))
  expect(blocks.count).toBe(2)
  blocks.apply(frame(2n, removed(5n), removed(99n)))
  expect(blocks.count).toBe(1)
  blocks.apply(frame(3n, { kind: 'cleared', hash: 0n, parent: 0n }))
  expect(blocks.count).toBe(0)
})

test.each([
  ['a frame that is missing', [frame(1n), frame(3n)]],
  ['a frame that comes twice', [frame(1n), frame(1n)]],
  ['a first frame with another number', [frame(2n)]],
  ['more blocks than there are', [frame(1n, stored(1n), stored(2n), stored(3n))]],
])('%s ends the connection', (_, frames) => {
  const blocks = new PrefixBlocks(2)
  expect(() => {
    for (const one of frames) blocks.apply(one)
  }).toThrow(FrameError)
})

const PROMPT = { tokenIds: Array.from({ length: 40 }, (_, at) => at) }
const asked = { input: { kind: 'completion' as const, prompts: [PROMPT], echo: false }, maxOutputTokens: 2 }

test('a prompt that came before is counted as cached, at once and at the end, and the cache shows in the capacity', async () => {
  const harness = await startHarness()
  try {
    const first = await eventsOf(await harness.dispatch(asked))
    expect(first.filter((event) => event.type === 'accepted')).toHaveLength(1)
    expect(first.at(-1)).toMatchObject({ usage: { inputTokens: 40, cachedInputTokens: 0 } })
    const again = await eventsOf(await harness.dispatch({ ...asked, n: 2 }))
    const early = again.findIndex((event) => event.type === 'accepted' && event.usage.cachedInputTokens === 32)
    expect(early).toBeGreaterThan(0)
    expect(again.slice(0, early).some((event) => event.type === 'finish')).toBe(false)
    // Once for both choices.
    expect(again.at(-1)).toEqual({ type: 'usage', usage: { inputTokens: 8, cachedInputTokens: 32, outputTokens: 4 } })
    const frames = again.flatMap((event) => (event.type === 'capacity' ? [event.frame.kvBlocksCached] : []))
    expect(frames.at(-1)).toBe(2)
    const other = await eventsOf(await harness.dispatch({ ...asked, tenant: 'tenant-b' }))
    expect(other.at(-1)).toMatchObject({ usage: { inputTokens: 40, cachedInputTokens: 0 } })
  } finally {
    await harness.stop()
  }
})

test('an engine that loses count of its block events is replaced', async () => {
  const harness = await startHarness({ engine: { skipBlocks: true } })
  try {
    await until(() => harness.logs.some((line) => line.includes('engine_down') && line.includes('block events')))
  } finally {
    await harness.stop()
  }
})
