// A gateway in front of three providers of which each fails three requests in ten, before their first content and in every
// way there is: whatever one of them would have served is served, and every answer is charged once and exactly.
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { GatewayStack } from '../../bench/gateway/stack.ts'
import { FAULTS, FlakyUpstream } from './support/flaky-upstream.ts'

const REQUESTS = 400
const CLIENTS = 16
const FAULT_SHARE = 0.3
const MODEL = 'chaos'
const NAMES = ['first-vendor', 'second-vendor', 'third-vendor']
/** Stalls end by it; an upstream on the same machine answers in milliseconds, a busy machine in some hundred. */
const FIRST_TOKEN_TIMEOUT_MS = 1_500
const ROWS_WAIT_MS = 60_000

const Identified = z.object({ id: z.string() })
const NewKey = z.object({ id: z.string(), key: z.string() })

type Outcome = { requestId: string; status: number; whole: boolean; words: number; stream: boolean }

let stack: GatewayStack
const upstreams: FlakyUpstream[] = []
let orgId: string
let key: string
const outcomes: Outcome[] = []

beforeAll(async () => {
  for (const name of NAMES) upstreams.push(await FlakyUpstream.start(name, FAULT_SHARE))
  stack = await GatewayStack.start()
  const { admin } = stack
  for (const [index, name] of NAMES.entries()) {
    await admin.call('PUT', `/providers/${name}`, z.unknown(), {
      kind: 'openai_compatible',
      base_url: upstreams[index]?.baseUrl,
      allow_private: true,
      secret: 'chaos',
    })
    await admin.call('POST', '/prices', z.unknown(), {
      provider: name,
      model: MODEL,
      usd_per_million: { input_uncached: '1', input_cache_read: '1', output_text: '2', output_reasoning: '2' },
    })
  }
  await admin.call('PUT', `/models/${MODEL}`, z.unknown(), {
    targets: NAMES.map((provider) => ({ provider, model: MODEL, context_tokens: 8192 })),
    policy: { strategy: 'weighted', first_token_timeout_ms: FIRST_TOKEN_TIMEOUT_MS, attempts_max: 6 },
  })
  const org = await admin.call('POST', '/organisations', Identified, { slug: 'chaos', name: 'Chaos' })
  orgId = org.id
  const project = await admin.call('POST', `/organisations/${orgId}/projects`, Identified, { slug: 'p', name: 'P' })
  const made = await admin.call('POST', `/organisations/${orgId}/keys`, NewKey, { project_id: project.id, name: 'k' })
  key = made.key
})
afterAll(async () => {
  await stack?.stop()
  for (const upstream of upstreams) await upstream.stop()
})

async function ask(index: number): Promise<Outcome> {
  const stream = index % 2 === 0
  const response = await fetch(`${stack.baseUrl}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: MODEL, stream, messages: [{ role: 'user', content: 'x'.repeat(1 + (index % 7)) }] }),
  })
  const requestId = response.headers.get('x-request-id') ?? ''
  const text = await response.text()
  const whole = stream ? text.endsWith('data: [DONE]\n\n') : text.includes('"finish_reason":"stop"')
  return { requestId, status: response.status, whole, words: text.split('word ').length - 1, stream }
}

const couldBeServed = (requestId: string) => upstreams.some((upstream) => upstream.faultOf(requestId) === undefined)

describe(`${REQUESTS} requests to three providers that each fail ${FAULT_SHARE * 100} % of them`, () => {
  it('are all answered where any of the three would have', async () => {
    let next = 0
    const client = async () => {
      while (next < REQUESTS) outcomes.push(await ask(next++))
    }
    await Promise.all(Array.from({ length: CLIENTS }, client))
    const servable = outcomes.filter(({ requestId }) => couldBeServed(requestId))
    expect(servable.length).toBeGreaterThan(REQUESTS * 0.9)
    expect(servable.filter(({ status, whole }) => status !== 200 || !whole)).toEqual([])
    // Otherwise the run has shown nothing.
    const met = new Set(upstreams.flatMap((upstream) => [...upstream.faults.keys()]))
    expect([...met].sort()).toEqual([...FAULTS].sort())
  }, 240_000)

  it('never see a broken answer that looks whole, nor an honest end as a success', () => {
    const unservable = outcomes.filter(({ requestId }) => !couldBeServed(requestId))
    expect(unservable.filter(({ whole }) => whole)).toEqual([])
    // Before the first content a failure is an honest status, unless keep-alive comments had begun the stream.
    expect(unservable.filter(({ status, stream }) => status === 200 && !stream)).toEqual([])
  })

  it('are charged once each, with what the provider that answered has counted, and failed attempts cost the caller nothing', async () => {
    const answered = new Map(upstreams.flatMap((upstream) => upstream.answered).map((one) => [one.requestId, one]))
    const whole = outcomes.filter(({ whole }) => whole)
    for (const untilMs = performance.now() + ROWS_WAIT_MS; performance.now() < untilMs; await sleep(250)) {
      const [row] = await stack.sql`SELECT count(*)::int AS count FROM usage_requests WHERE org_id = ${orgId}`
      if (row?.count >= REQUESTS) break
    }
    const rows = await stack.sql`SELECT request_id, status, charge, usage_source, input_uncached::int AS input,
      output_text::int AS output, cost_nanousd::text AS cost FROM usage_attempts WHERE org_id = ${orgId}`
    const paid = rows.filter(({ charge, status }) => charge === 'customer' && status === 'ok')
    expect(paid.map((row) => row.request_id).sort()).toEqual(whole.map(({ requestId }) => requestId).sort())
    for (const row of paid) {
      const served = answered.get(row.request_id)
      expect({ input: row.input, output: row.output, source: row.usage_source }).toEqual({
        input: served?.promptTokens,
        output: served?.outputTokens,
        source: 'provider',
      })
      expect(row.cost).toBe(String(1000 * row.input + 2000 * row.output))
    }
    expect(rows.filter(({ charge, status }) => charge === 'customer' && status !== 'ok')).toEqual([])
    const [requests] = await stack.sql`SELECT count(*)::int AS count FROM usage_requests WHERE org_id = ${orgId}`
    expect(requests?.count).toBe(REQUESTS)
    const [ledger] =
      await stack.sql`SELECT coalesce(sum(amount_nanousd), 0)::text AS sum FROM ledger_entries WHERE org_id = ${orgId}`
    expect(ledger?.sum).toBe('0')
  }, 120_000)
})
