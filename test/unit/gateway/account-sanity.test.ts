// The assertions at the account's door: what the catalog and the dialect allow together must pass them.
import { expect, test } from 'vitest'
import { assertAsk } from '../../../gateway/account/sanity.ts'
import { TOKENS_MAX } from '../../../gateway/policy/targets.ts'
import { MAX_CHOICES } from '../../../protocol/request.ts'

const ID = '00000000-0000-4000-8000-000000000001'
const ask = (tokens: number) => ({
  requestId: ID,
  attempt: 1,
  orgId: ID,
  projectId: ID,
  keyId: ID,
  modelRequested: 'm',
  provider: 'fleet',
  modelServed: 'm',
  estimate: { inputTokens: tokens, outputTokens: tokens, calls: 0 },
  price: undefined,
  startedAtMs: Date.UTC(2026, 0, 1),
  deadlineAtMs: Date.UTC(2026, 0, 2),
  stream: false,
})

test('the widest request for the longest window an administrator can register is no bug', () => {
  expect(() => assertAsk(ask(TOKENS_MAX * MAX_CHOICES))).not.toThrow()
})

test('an estimate beyond every request is one', () => {
  expect(() => assertAsk(ask(TOKENS_MAX * MAX_CHOICES + 1))).toThrow(RangeError)
})
