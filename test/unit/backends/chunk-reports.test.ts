// From a prompt to the gateway's knowledge of it: a whole agent with a fake engine tells which chunks it holds.
import { afterEach, expect, test } from 'vitest'
import { KvIndex } from '../../../gateway/fleet/kv-index.ts'
import { chunkHashes, promptPieces } from '../../../protocol/prefix.ts'
import type { KvSeen } from '../../../protocol/report.ts'
import { dispatchRequest, eventsOf, type Harness, startHarness, until } from './support/harness.ts'

let harness: Harness | undefined
afterEach(async () => {
  await harness?.stop()
  harness = undefined
})

/** As the Fleet object learns it. */
function known(chunks: readonly number[]): number {
  const index = new KvIndex()
  for (const { kv } of harness?.gateway.reports ?? []) if (kv !== undefined) index.apply('b', kv)
  return index.match(chunks).get('b') ?? 0
}

test('a gateway that says what it has heard is told with the answer, and another one nothing', async () => {
  harness = await startHarness({ engine: { contextTokens: 4096 } })
  const messages = [{ role: 'user' as const, content: 'You know all about the pumps of this house. '.repeat(40) }]
  const asked = { input: { kind: 'chat' as const, messages }, maxOutputTokens: 2 }
  const request = dispatchRequest(asked)
  const chunks = chunkHashes(promptPieces(request), request.tenant, request.model)
  const newsOf = async (kvSeen?: KvSeen) => {
    const events = await eventsOf((await harness?.dispatch({ ...asked, ...(kvSeen && { kvSeen }) })) as Response)
    return events.flatMap((event) => (event.type === 'capacity' && event.kv !== undefined ? [event.kv] : []))
  }
  expect(await newsOf()).toEqual([])
  const told = await newsOf({ epoch: '', version: 0 })
  expect(told[0]).toMatchObject({ reset: true })
  expect(new Set(told.flatMap(({ stored }) => stored))).toEqual(new Set(chunks))
  const { epoch = '', version = 0 } = told.at(-1) ?? {}
  const reports = () => harness?.gateway.reports ?? []
  await until(() => reports().length > 0)
  expect(epoch).toBe(reports().at(-1)?.epoch)
  // Nothing has changed since: the same prompt is held already.
  expect(await newsOf({ epoch, version })).toEqual([])
})

test('the whole chunks of a prompt are told once its blocks are there, and are gone with the engine', async () => {
  harness = await startHarness({ engine: { contextTokens: 4096 } })
  const system = 'You know all about the pumps of this house. '.repeat(40)
  const messages = [
    { role: 'system' as const, content: system },
    { role: 'user' as const, content: 'hello' },
  ]
  const asked = { input: { kind: 'chat' as const, messages }, maxOutputTokens: 2 }
  const request = dispatchRequest(asked)
  const chunks = chunkHashes(promptPieces(request), request.tenant, request.model)
  expect(chunks.length).toBeGreaterThanOrEqual(3)
  await eventsOf(await harness.dispatch(asked))
  await until(() => known(chunks) === chunks.length)
  const resets = () => harness?.gateway.reports.filter(({ kv }) => kv?.reset === true).length ?? 0
  const before = resets()
  process.kill(harness.agent.enginePid ?? 0, 'SIGKILL')
  await until(() => known(chunks) === 0)
  expect(resets()).toBeGreaterThan(before)
})
