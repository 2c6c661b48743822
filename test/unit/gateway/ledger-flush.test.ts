// An entry is the same fact whether it comes from memory or from its stored text: else one that is written twice would look
// like two facts under one identity.
import { expect, test } from 'vitest'
import type { Database, Statement } from '../../../gateway/db/port.ts'
import { derivedUuid, writeEntries } from '../../../gateway/ledger/flush.ts'
import { type AttemptRow, decodeEntry, encodeText, type OutboxEntry } from '../../../gateway/ledger/outbox.ts'
import { transfersOf } from '../../../gateway/ledger/postings.ts'
import { NO_USAGE } from '../../../gateway/meter/usage.ts'

const facts = {
  orgId: '10000000-0000-4000-8000-000000000001',
  requestId: '20000000-0000-4000-8000-000000000001',
  projectId: '30000000-0000-4000-8000-000000000001',
  keyId: '40000000-0000-4000-8000-000000000001',
  userId: undefined,
  provider: 'vendor',
  modelRequested: 'small',
  modelServed: 'small-1',
  stream: true,
  status: 'ok',
  httpStatus: 200,
  usage: { ...NO_USAGE, inputUncached: 3, outputText: 2 },
  costNanoUsd: 7_000n,
  startedAtMs: 1_700_000_000_000,
  endedAtMs: 1_700_000_001_000,
  recordedAtMs: 1_700_000_001_001,
}

async function statementsOf(entry: OutboxEntry): Promise<Statement[]> {
  const sent: Statement[] = []
  const database: Database = {
    run: async () => ({ rows: [], count: 0 }),
    batch: async (statements) => {
      sent.push(...statements)
      return statements.map(() => ({ rows: [], count: 1 }))
    },
  }
  await writeEntries(database, [entry])
  return sent
}

test('what is written of an entry does not depend on the way it was kept', async () => {
  const attempt: AttemptRow = {
    ...facts,
    attempt: 1,
    kind: 'attempt',
    charge: 'customer',
    usageSource: 'provider',
    pricing: 'priced',
    // Not in the order of the schema.
    price: {
      basisPoints: 12_000,
      contextTiers: [{ perMillion: { outputText: 9n, inputUncached: 8n }, aboveInputTokens: 5 }],
      perMillion: { outputText: 2n, inputUncached: 1n },
      priceVersionId: '50000000-0000-4000-8000-000000000001',
    },
    providerCostNanoUsd: 5_000n,
    rawUsage: '{"a":1}',
    inconsistent: undefined,
    route: '{}',
  }
  const entry: OutboxEntry = {
    attempts: [attempt],
    transfers: transfersOf(attempt),
    request: { ...facts, attempts: 1 },
  }
  const statements = await statementsOf(entry)
  expect(statements.length).toBeGreaterThan(3)
  expect(await statementsOf(decodeEntry(encodeText(entry)))).toEqual(statements)
})

test('a derived id is a version 8 UUID of the first half of the hash', () => {
  // echo -n a/b | sha256sum: c14cddc033f64b9dea80ea675cf280a015e672516090a5626781153dc68fea11
  expect(derivedUuid(['a', 'b'])).toBe('c14cddc0-33f6-8b9d-aa80-ea675cf280a0')
})
