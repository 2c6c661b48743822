// What a dispatch to a backend that only decodes says of those that may compute its prompt: who they are, the right to ask them, and
// what is known of their queues, their speed and their caches.
import { decodeJwt } from 'jose'
import { expect, test, vi } from 'vitest'
import { chunkHashes, promptPieces } from '../../protocol/prefix.ts'
import { answer, frame } from './support/fake-agent.ts'
import { FLEET_TARGET, World } from './support/path.ts'
import { textOf } from './support/vendor.ts'

const KV = { transfer: { fingerprint: 'f', host: 'h', remote: true, bytesPerToken: 100, reservations: 0 } }
const LARGE = { contextTokensMax: 100_000, kvBlocksTotal: 10_000 }
const STEP = { baseMs: 1, prefillTokenMs: 0.5, decodeSequenceMs: 0.1, kvTokenMs: 0 }

test('a decode backend is told of prefill backends, best first, with their queues, speeds and caches', async () => {
  const world = new World()
  const [decode, busy, free] = [
    await world.agent(() => answer(['said'])),
    await world.agent(() => answer(['never'])),
    await world.agent(() => answer(['never'])),
  ]
  const prefill = { role: 'prefill' as const, ...KV, ...LARGE, sequence: 2 }
  const slow = { measuredPrefillTokensPerSecond: 500 }
  await decode.report([frame(world.model, { role: 'decode', ...KV, ...LARGE, sequence: 2, ...slow })])
  await free.report([frame(world.model, { ...prefill, ...slow, stepModel: STEP })])
  await busy.report([frame(world.model, { ...prefill, ...slow })])
  await world.catalog([FLEET_TARGET(world.model)])
  await (await world.chat()).settled()
  const [short] = decode.dispatches
  if (short === undefined) throw new Error('nothing was dispatched')
  expect(short.prefill).toBeUndefined()

  // What one of them reports that it holds, it is named with.
  const content = 'word '.repeat(1600)
  const input = { kind: 'chat' as const, messages: [{ role: 'user' as const, content }] }
  const chunks = chunkHashes(promptPieces({ ...short, input }), short.tenant, world.model)
  const kv = { reset: true, stored: chunks.slice(0, 2), removed: [] }
  await busy.report([frame(world.model, { ...prefill, ...slow, sequence: 3, prefillTokensQueued: 900 })], undefined, kv)
  // Until this isolate's copy of the fleet is an old one.
  await new Promise((resolve) => setTimeout(resolve, 1100))
  // A fleet that answers late is not waited for: the request goes by the old copy.
  const dispatch = await vi.waitFor(
    async () => {
      const { response, settled } = await world.chat({ messages: [{ role: 'user', content }] })
      expect(await textOf(response)).toBe('said')
      await settled()
      const last = decode.dispatches.at(-1)
      expect(last?.prefill).toMatchObject([
        {
          backendId: free.backendId,
          url: free.url,
          load: { prefillTokensQueued: 0, prefillTokensPerSecond: 500, stepModel: STEP },
        },
        {
          backendId: busy.backendId,
          url: busy.url,
          load: { prefillTokensQueued: 900, prefillTokensPerSecond: 500, heldChunk: chunks[1] },
        },
      ])
      return last
    },
    { interval: 300 },
  )
  expect(dispatch?.prefill?.[0]?.load).not.toHaveProperty('heldChunk')
  for (const { grant, backendId } of dispatch?.prefill ?? [])
    expect(decodeJwt(grant)).toMatchObject({ aud: `backend:${backendId}`, request_id: dispatch?.requestId })
})
