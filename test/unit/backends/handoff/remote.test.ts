// A decode backend and a prefill backend of two hosts: the request between them, who may make it, and what a refusal costs.
import { randomUUID } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { PrefillLoad } from '../../../../protocol/dispatch.ts'
import { chunkHashes, promptPieces } from '../../../../protocol/prefix.ts'
import { bodyDigest } from '../../../../protocol/signing.ts'
import { freePort } from '../../../../scripts/postgres.ts'
import {
  eventsOf,
  type FakeGateway,
  type Harness,
  type HarnessOptions,
  startFakeGateway,
  startHarness,
  until,
} from '../support/harness.ts'

const ANYWHERE = { host: '127.0.0.1', port: 0 }
const WAITS = { reserveWaitMs: 60_000, settleWaitMs: 60_000, patienceMinMs: 60_000 }
const MODEL = 'test-model'
const PROMPT = Array.from({ length: 200 }, (_, at) => at % 256)

let gateway: FakeGateway
const started: Harness[] = []
beforeEach(async () => {
  gateway = await startFakeGateway()
})
afterEach(async () => {
  await Promise.all(started.splice(0).map((harness) => harness.stop()))
  await gateway.close()
})

async function start(role: 'prefill' | 'decode', options: HarnessOptions = {}): Promise<Harness> {
  const harness = await startHarness({
    gateway,
    handoff: WAITS,
    ...options,
    engine: { contextTokens: 2048, ...options.engine },
    config: { engines: [role], kvListen: ANYWHERE, ...options.config },
  })
  started.push(harness)
  await until(() => gateway.joins.some(({ backendId }) => backendId === harness.agent.backendId))
  return harness
}

type GrantChanges = {
  aud?: string
  jkt?: string
  model?: string
  requestId?: string
  tenant?: string
  jti?: string
  expiresInS?: number
}

async function grantFor(worker: Harness, asker: Harness | undefined, changes: GrantChanges = {}): Promise<string> {
  const key = gateway.joins.find(({ backendId }) => backendId === asker?.agent.backendId)?.publicKey
  const jkt =
    changes.jkt ??
    (key === undefined ? 'x'.repeat(43) : await calculateJwkThumbprint({ kty: key.kty, crv: key.crv, x: key.x }))
  const nowS = Math.floor(Date.now() / 1000)
  const { model = MODEL, requestId = 'req-1', tenant = 'tenant-a' } = changes
  return await new SignJWT({ model, request_id: requestId, tenant, cnf: { jkt } })
    .setProtectedHeader({ alg: 'EdDSA', kid: 'k1' })
    .setIssuer('penstock-gateway')
    .setAudience(changes.aud ?? `backend:${worker.agent.backendId}`)
    .setIssuedAt(nowS)
    .setExpirationTime(nowS + (changes.expiresInS ?? 60))
    .setJti(changes.jti ?? randomUUID())
    .sign(gateway.privateKey)
}

const worker = async (of: Harness, asker: Harness, changes: GrantChanges = {}) => ({
  backendId: of.agent.backendId,
  url: of.url,
  grant: await grantFor(of, asker, changes),
})
const dispatch = async (harness: Harness, prefill: Awaited<ReturnType<typeof worker>>[], maxOutputTokens?: number) =>
  await eventsOf(
    await harness.dispatch({
      input: { kind: 'completion', prompts: [{ tokenIds: PROMPT }], echo: false },
      deadlineInMs: 120_000,
      prefill,
      ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    }),
  )
const placeOf = (events: Awaited<ReturnType<typeof dispatch>>) =>
  events.flatMap((event) => (event.type === 'accepted' ? (event.prefill ?? []) : [])).at(-1)
const metric = async (harness: Harness, name: string) => {
  const text = await (await fetch(`${harness.url}/metrics`)).text()
  return Number(new RegExp(`^${name}\\{.*\\} ([\\d.e+-]+)$`, 'm').exec(text)?.[1])
}
const nothingHeld = async () => {
  for (const harness of started)
    await until(
      async () =>
        (await metric(harness, 'vllm:kv_cache_usage_perc')) === 0 &&
        (await metric(harness, 'vllm:num_requests_running')) === 0 &&
        (await metric(harness, 'penstock_reservations')) === 0,
    )
}

test('a prompt is computed by the backend that the gateway names, over the network', async () => {
  const [prefill, decode] = await Promise.all([start('prefill'), start('decode')])
  const events = await dispatch(decode, [await worker(prefill, decode)])
  expect(placeOf(events)).toBe('handed_over')
  expect(events.at(-1)).toMatchObject({ usage: { inputTokens: 200, cachedInputTokens: 0, outputTokens: 6 } })
  expect(await metric(prefill, 'penstock_prompts_pushed_total')).toBe(1)
  await nothingHeld()
})

test('the backend that computed a prompt for another one tells that it has it', async () => {
  const [prefill, decode] = await Promise.all([start('prefill'), start('decode')])
  const told = (of: Harness) =>
    gateway.reports
      .filter(({ backendId }) => backendId === of.agent.backendId)
      .flatMap(({ kv }) => kv?.stored ?? [])
      .toSorted((one, other) => one - other)
  const input = { kind: 'completion' as const, prompts: [{ tokenIds: PROMPT }], echo: false }
  const chunks = chunkHashes(promptPieces({ input }), 'tenant-a', MODEL)
  expect(chunks).toHaveLength(1)
  expect(placeOf(await dispatch(decode, [await worker(prefill, decode)]))).toBe('handed_over')
  await until(() => told(prefill).length > 0 && told(decode).length > 0)
  expect([told(prefill), told(decode)]).toEqual([chunks, chunks])
  // What another decode backend asks for, it finds there.
  const second = await start('decode')
  const events = await dispatch(second, [await worker(prefill, second)])
  expect(events.at(-1)).toMatchObject({ usage: { inputTokens: 8, cachedInputTokens: 192 } })
  expect(told(prefill)).toEqual(chunks)
})

test('an answer of one token waits until the other host has said what it had, and not for ever', async () => {
  const usage = async (noticedMs: number, countWaitMs: number) => {
    const prefill = await start('prefill', { engine: { handoff: { noticedMs } } })
    const [first, second] = await Promise.all([
      start('decode'),
      start('decode', { handoff: { ...WAITS, countWaitMs } }),
    ])
    await dispatch(first, [await worker(prefill, first)])
    const events = await dispatch(second, [await worker(prefill, second)], 1)
    expect(placeOf(events)).toBe('handed_over')
    return events.at(-1)
  }
  expect(await usage(500, 60_000)).toMatchObject({ usage: { inputTokens: 8, cachedInputTokens: 192, outputTokens: 1 } })
  expect(await usage(60_000, 1)).toMatchObject({ usage: { inputTokens: 200, cachedInputTokens: 0, outputTokens: 1 } })
})

test('frames say whose K and V can go where', async () => {
  const prefill = await start('prefill', { config: { kvPublic: { host: '10.1.2.3', port: 7900 } } })
  const local = await start('decode', { config: { engines: ['decode', 'decode'] } })
  await until(() => gateway.reports.length > 2)
  const framesOf = (of: Harness) =>
    gateway.joins.filter(({ backendId }) => backendId === of.agent.backendId).flatMap(({ frames }) => frames)
  expect(framesOf(prefill)[0]).toMatchObject({
    role: 'prefill',
    draining: false,
    transfer: { remote: true, bytesPerToken: 512 },
  })
  expect(framesOf(prefill)[0]).not.toHaveProperty('engine')
  const [transfer, other] = [framesOf(prefill)[0]?.transfer, framesOf(local)[0]?.transfer]
  expect(other).toMatchObject({ fingerprint: transfer?.fingerprint, host: transfer?.host, reservations: 0 })
})

test('of several hosts the one is asked that is free by what the gateway knows, and none where all are busy', async () => {
  const [first, second, decode] = await Promise.all([start('prefill'), start('prefill'), start('decode')])
  const step = { baseMs: 1, prefillTokenMs: 1, decodeSequenceMs: 1, kvTokenMs: 0 }
  const named = async (of: Harness, load: PrefillLoad) => ({ ...(await worker(of, decode)), load })
  const load = (prefillTokensQueued: number): PrefillLoad => ({ prefillTokensQueued, stepModel: step })
  const ask = async (loads: [number, number], seen: number) => {
    // Each prompt is another one, so that nobody's cache has it.
    const input = {
      kind: 'completion' as const,
      prompts: [{ tokenIds: PROMPT.map((id) => (id + seen) % 256) }],
      echo: false,
    }
    const prefill = [await named(first, load(loads[0])), await named(second, load(loads[1]))]
    return placeOf(await eventsOf(await decode.dispatch({ input, deadlineInMs: 120_000, prefill })))
  }
  const pushed = async () => [
    await metric(first, 'penstock_prompts_pushed_total'),
    await metric(second, 'penstock_prompts_pushed_total'),
  ]
  // The first hand-over is slower than any later one: it is no measure of the way.
  expect(await ask([5000, 0], 1)).toBe('handed_over')
  expect(await pushed()).toEqual([0, 1])
  expect(await ask([5000, 5000], 2)).toBe('local')
  expect(await pushed()).toEqual([0, 1])
  await nothingHeld()
})

test('where one refuses the next is asked, and where nobody can the decode engine computes it', async () => {
  const [full, prefill, decode] = await Promise.all([
    start('prefill', { engine: { handoff: { push: 'reject' } } }),
    start('prefill'),
    start('decode'),
  ])
  const gone = {
    backendId: randomUUID(),
    url: `http://127.0.0.1:${await freePort()}`,
    grant: await grantFor(full, decode),
  }
  const events = await dispatch(decode, [gone, await worker(full, decode), await worker(prefill, decode)])
  expect(placeOf(events)).toBe('handed_over')
  const alone = await dispatch(decode, [])
  expect(placeOf(alone)).toBe('local')
  const { engine, ...rest } = { engine: { handoff: { push: 'fail' as const } }, decode: await start('decode') }
  const failing = await start('prefill', { engine })
  expect(placeOf(await dispatch(rest.decode, [await worker(failing, rest.decode)]))).toBe('degraded')
  expect(placeOf(await dispatch(await start('decode'), [gone]))).toBe('degraded')
  await nothingHeld()
})

test('a prefill backend that dies in the middle costs a computation, and one that stalls no more', async () => {
  const [dying, stalling, decode] = await Promise.all([
    start('prefill', { engine: { handoff: { push: 'crash' } } }),
    start('prefill', { engine: { handoff: { push: 'never' } } }),
    start('decode', { handoff: { ...WAITS, patienceMinMs: 500 } }),
  ])
  for (const one of [dying, stalling]) {
    const events = await dispatch(decode, [await worker(one, decode)])
    expect(events.at(-1)).toMatchObject({ type: 'usage', usage: { outputTokens: 6 } })
    // What the decode engine had to compute itself, it has from then on.
    expect(placeOf(events)).toBe(one === dying ? 'degraded' : 'local')
  }
  await nothingHeld()
})

test('a caller that goes away closes the request to the other host, and both let go', async () => {
  const [prefill, decode] = await Promise.all([
    start('prefill', { engine: { handoff: { pushMs: 60_000 } } }),
    start('decode'),
  ])
  const abort = new AbortController()
  const input = { kind: 'completion' as const, prompts: [{ tokenIds: PROMPT }], echo: false }
  await decode.dispatch({ input, deadlineInMs: 120_000, prefill: [await worker(prefill, decode)] }, abort.signal)
  await until(async () => (await metric(prefill, 'vllm:num_requests_running')) === 1)
  abort.abort()
  await nothingHeld()
})

test('a backend that only computes prompts refuses dispatches so that another one is tried', async () => {
  const prefill = await start('prefill')
  const response = await prefill.dispatch()
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ code: 'overloaded' })
  expect((await fetch(`${prefill.url}/health`)).status).toBe(200)
})

describe('a request for a prompt is refused', () => {
  type Changes = GrantChanges & {
    proofAud?: string
    proofBody?: string
    body?: object
    otherKey?: boolean
    noProof?: boolean
    noGrant?: boolean
  }
  async function ask(prefill: Harness, changes: Changes = {}): Promise<{ status: number; text: string }> {
    const pair = await generateKeyPair('EdDSA', { extractable: true })
    const { kty, crv, x } = await exportJWK(pair.publicKey)
    const jwk = { kty, crv, x } as { kty: string; crv: string; x: string }
    const signer = changes.otherKey === true ? (await generateKeyPair('EdDSA')).privateKey : pair.privateKey
    const body = JSON.stringify({
      version: 1,
      requestId: 'req-1',
      model: MODEL,
      fingerprint: 'fake;layers=2;kv_heads=2;head_dim=32;type=f16',
      tokens: PROMPT.slice(0, 192),
      firstBlock: 0,
      address: 'tcp:127.0.0.1:9',
      transfer: { id: '1', generation: '1', secret: Buffer.alloc(16).toString('base64') },
      priority: 0,
      deadlineInMs: 5000,
      tenant: 'tenant-a',
      ...changes.body,
    })
    const grant = await grantFor(prefill, undefined, { jkt: await calculateJwkThumbprint(jwk), ...changes })
    const nowS = Math.floor(Date.now() / 1000)
    const proof = await new SignJWT({ body_sha256: await bodyDigest(Buffer.from(changes.proofBody ?? body)) })
      .setProtectedHeader({ alg: 'EdDSA', jwk })
      .setIssuer('backend:somebody')
      .setAudience(changes.proofAud ?? `backend:${prefill.agent.backendId}`)
      .setIssuedAt(nowS)
      .setExpirationTime(nowS + 30)
      .setJti(randomUUID())
      .sign(signer)
    const response = await fetch(`${prefill.url}/prefill`, {
      method: 'POST',
      headers: {
        ...(changes.noGrant === true ? {} : { authorization: `Bearer ${grant}` }),
        ...(changes.noProof === true ? {} : { 'x-penstock-proof': proof }),
      },
      body,
    })
    return { status: response.status, text: await response.text() }
  }

  test('unless the gateway has granted it to whoever proves to be the one who asks, for exactly this', async () => {
    const prefill = await start('prefill')
    const table: [Changes, number, string][] = [
      // Good in everything but that nobody listens at the address.
      [{}, 503, 'could not be handed over'],
      [{ noGrant: true }, 401, 'a grant is required'],
      [{ noProof: true }, 401, 'a proof is required'],
      [{ aud: 'backend:another' }, 401, 'aud'],
      [{ expiresInS: -60 }, 401, 'expired'],
      [{ expiresInS: 100_000 }, 401, 'for too long'],
      [{ jkt: 'x'.repeat(43) }, 401, 'another backend'],
      [{ otherKey: true }, 401, 'the proof is not good'],
      [{ proofAud: 'backend:another' }, 401, 'aud'],
      [{ proofBody: '{}' }, 401, 'another body'],
      [{ model: 'other' }, 400, 'another prompt'],
      [{ requestId: 'req-2' }, 400, 'another prompt'],
      [{ body: { tenant: 'tenant-b' } }, 400, 'another prompt'],
      [{ model: 'other', body: { model: 'other' } }, 404, 'not served here'],
      [{ body: { fingerprint: 'another layout' } }, 400, 'another layout'],
      [{ body: { address: 'unix:/run/secret.sock' } }, 400, 'not one of a network'],
      [{ body: { tokens: [] } }, 400, 'tokens'],
      [{ body: { transfer: { id: 'z', generation: '1', secret: '' } } }, 400, 'transfer'],
      [
        { body: { transfer: { id: '1', generation: '1', secret: Buffer.alloc(18).toString('base64') } } },
        400,
        'secret',
      ],
      [{ body: { tokens: [2 ** 32] } }, 400, 'tokens'],
      [{ body: { chunks: [{ chunk: -1, tokens: 128 }] } }, 400, 'chunks'],
      [{ body: { chunks: Array(513).fill({ chunk: 1, tokens: 128 }) } }, 400, 'chunks'],
    ]
    for (const [changes, status, text] of table) {
      const answer = await ask(prefill, changes)
      expect({ changes, ...answer }).toMatchObject({ changes, status })
      expect(answer.text).toContain(text)
    }
    expect(prefill.agent.openDispatches).toBe(0)
    await nothingHeld()
    const jti = randomUUID()
    expect((await ask(prefill, { jti })).status).toBe(503)
    expect(await ask(prefill, { jti })).toMatchObject({ status: 401, text: expect.stringContaining('used before') })
    expect(prefill.logs.join('')).not.toContain(Buffer.alloc(16).toString('base64'))
  })
})
