// Goal: a tenant sees how its request came to its answer, and nothing of the operator's house.
import { expect, test } from 'vitest'
import { attemptJson } from '../../../../gateway/admin/usage-json.ts'
import { mapParts } from '../../../../gateway/meter/usage.ts'

const route = { role: 'primary', reason: 'least_busy', turn: 1, standing: 'closed', figure: 17, key: 'spare-account' }

const row = (text: string | null): Parameters<typeof attemptJson>[0] => ({
  ...mapParts(() => 1n),
  orgId: 'o',
  requestId: 'r',
  attempt: 1,
  kind: 'attempt',
  projectId: 'p',
  keyId: 'k',
  keyLineId: null,
  userId: null,
  teamId: null,
  endUser: null,
  provider: 'vendor',
  modelRequested: 'm',
  modelServed: 'm',
  stream: false,
  status: 'ok',
  httpStatus: 200,
  charge: 'customer',
  usageSource: 'provider',
  costNanoUsd: 1n,
  pricing: 'priced',
  priceVersionId: null,
  unitPrices: null,
  providerCostNanoUsd: null,
  rawUsage: null,
  inconsistent: false,
  usageDay: '2026-11-22',
  startedAt: '2026-11-22T12:00:00Z',
  firstTokenAt: null,
  endedAt: '2026-11-22T12:00:01Z',
  recordedAt: '2026-11-22T12:00:02Z',
  payloadHash: '',
  route: text,
  backendId: null,
  tags: 'env=prod,feature=search',
  cacheSavingsNanoUsd: null,
})
/** Begun a second before the attempt. */
const request = { startedAt: '2026-11-22T11:59:59Z' }

test('the key’s name and the load over all tenants are shown to operators alone', () => {
  const stored = JSON.stringify(route)
  expect(attemptJson(row(stored), request, true).route).toEqual(route)
  const { key: _key, figure: _figure, ...shown } = route
  expect(attemptJson(row(stored), request, false).route).toEqual(shown)
  expect(attemptJson(row(null), request, false).route).toBeNull()
})

test('an attempt lies in its request by milliseconds, and its tags are told by name', () => {
  const shown = attemptJson(row(null), request, false)
  expect(shown.offset_ms).toEqual({ start: 1_000, first_token: null, end: 2_000 })
  expect(shown.tags).toEqual({ env: 'prod', feature: 'search' })
  expect(shown).toMatchObject({ status_class: 'ok', cache_savings_nanousd: '0' })
})
