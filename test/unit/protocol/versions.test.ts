// Gateways and agents of two releases speak with each other while a fleet is being changed: what one side does not know yet is left out,
// and what it does not say is not missed.
import { expect, test } from 'vitest'
import type { z } from 'zod'
import { PrefillLoad, PrefillWorker } from '../../../protocol/dispatch.ts'
import { PrefillReply, PrefillRequest } from '../../../protocol/prefill.ts'

const worker = { backendId: '00000000-0000-4000-8000-000000000000', url: 'http://p:1', grant: 'a.b.c' }
const load: PrefillLoad = {
  prefillTokensQueued: 1000,
  stepModel: { baseMs: 1, prefillTokenMs: 0.1, decodeSequenceMs: 0.1, kvTokenMs: 0 },
  prefillTokensPerSecond: 1000,
  heldChunk: Number.MAX_SAFE_INTEGER,
}
const request = {
  version: 1,
  requestId: 'r',
  model: 'm',
  fingerprint: 'f',
  tokens: [1, 2, 3],
  firstBlock: 0,
  address: 'tcp:10.0.0.1:1',
  transfer: { id: '1', generation: '1', secret: Buffer.alloc(16).toString('base64') },
  priority: 0,
  deadlineInMs: 1000,
  tenant: 't',
}

/** What each release says, and how one reads it that knows neither. */
test.each([
  ['the load of a prefill backend', PrefillWorker, worker, { load }],
  ['what is held there', PrefillLoad, { prefillTokensQueued: 0 }, { heldChunk: 1, prefillTokensPerSecond: 1 }],
  ['the chunks of a prompt', PrefillRequest, request, { chunks: [{ chunk: 1, tokens: 2 }] }],
  ['what moving took', PrefillReply, { computedTokens: 1, cachedTokens: 0 }, { leftOverMs: null }],
])('%s', (_, schema: z.ZodObject, before, added) => {
  const older = schema.omit(Object.fromEntries(Object.keys(added).map((name) => [name, true])) as never)
  expect(older.parse({ ...before, ...added })).toEqual(before)
  expect(schema.parse(before)).toEqual(before)
  expect(schema.parse({ ...before, ...added })).toEqual({ ...before, ...added })
})

test('figures that are none are left out before anything is decided by them, and end no request', () => {
  for (const wrong of [
    { prefillTokensQueued: -1 },
    { prefillTokensQueued: Number.NaN },
    { prefillTokensPerSecond: 0 },
    { heldChunk: 2 ** 53 },
    { stepModel: { ...load.stepModel, baseMs: -1 } },
    // A sum that is beyond all numbers, as JSON says it.
    { stepModel: { ...load.stepModel, baseMs: null } },
  ])
    expect(PrefillWorker.parse({ ...worker, load: { ...load, ...wrong } })).toEqual(worker)
})
