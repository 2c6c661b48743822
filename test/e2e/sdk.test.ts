// The SDK over the whole system: the gateway is killed between calls and in mid-stream, answers go on coming, and the books say
// afterwards what happened.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  answeredBy,
  type CallOptions,
  Penstock,
  PenstockError,
  StreamInterruptedError,
  type UsageEvent,
} from '../../sdk/src/index.ts'
import { Line } from './support/line.ts'
import { System, TINY_MODEL } from './support/system.ts'
import { ANSWER, chatVendor, VendorUpstream } from './support/vendor-upstreams.ts'

const MAIN = join(import.meta.dirname, '..', '..', 'cli', 'main.ts')

let system: System
let spare: VendorUpstream
let line: Line
const usage: UsageEvent[] = []

beforeAll(async () => {
  system = await System.start({ model: TINY_MODEL })
  line = await Line.to(system.baseUrl)
  spare = await VendorUpstream.start((body, response, path) => {
    // The gateway asks its vendors for streams alone, so the one for its tests knows no other; a client asks for either.
    if (body.stream === true) return chatVendor(body, response, path)
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(
      JSON.stringify({
        id: 'chatcmpl-up',
        object: 'chat.completion',
        created: 1,
        model: body.model,
        choices: [{ index: 0, message: { role: 'assistant', content: ANSWER }, finish_reason: 'stop' }],
        usage: { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 },
      }),
    )
  })
})
afterAll(async () => {
  await line?.cut()
  await system?.discard()
  await spare?.stop()
})

const clientWith = (direct: boolean) =>
  new Penstock({
    gateway: { baseUrl: line.origin, apiKey: system.apiKey },
    ...(direct
      ? {
          direct: [
            { name: 'spare', baseUrl: `${spare.origin}/v1`, apiKey: 'sk-own', models: { [TINY_MODEL]: 'their-model' } },
          ],
        }
      : {}),
    hooks: { onUsage: (event) => usage.push(event) },
  })

const messages = [{ role: 'user' as const, content: 'Rivers' }]
const short = { model: TINY_MODEL, max_tokens: 8, messages }
/** Goes on until it is stopped. */
const long = {
  model: TINY_MODEL,
  max_tokens: 8000,
  temperature: 0,
  messages: [{ role: 'user' as const, content: 'On and on.' }],
}

async function untilUp(): Promise<void> {
  await System.until(async () => {
    const response = await fetch(`${system.baseUrl}/health`).catch(() => undefined)
    await response?.body?.cancel()
    if (response?.ok !== true) return false
    const { data } = (await system.admin<{ data: { state: string }[] }>('GET', '/backends')).body ?? {}
    return data?.some(({ state }) => state === 'live')
  })
}

/** Its host is gone: connections are refused, where those to a gateway that is started anew wait for it. */
async function loseGateway(): Promise<void> {
  await line.cut()
  system.killGateway()
}

async function untilBack(): Promise<void> {
  await untilUp()
  await line.restore()
}

/** Reads a stream; `onChunk` after each piece of text. */
async function read(stream: AsyncIterable<object>, onChunk: (text: string) => void): Promise<string> {
  let text = ''
  for await (const chunk of stream) {
    if ((chunk as { type?: string }).type === 'penstock.restart') text = ''
    text += (chunk as { choices?: { delta: { content?: string | null } }[] }).choices?.[0]?.delta.content ?? ''
    onChunk(text)
  }
  return text
}

describe('a gateway that is killed', () => {
  it('between calls: the answer comes from a direct provider, and from the gateway again when it is back', async () => {
    const penstock = clientWith(true)
    const before = await penstock.chat.completions.create(short)
    expect(answeredBy(before)?.target).toBe('gateway')
    await loseGateway()
    const during = await penstock.chat.completions.create(short)
    expect(answeredBy(during)).toMatchObject({ target: 'spare' })
    expect(during.choices[0]?.message.content).toBe(ANSWER)
    expect(usage.at(-1)).toMatchObject({ target: 'spare', isMetered: false })
    await untilBack()
    const after = await System.until(async () => {
      const answer = await penstock.chat.completions.create(short)
      return answeredBy(answer)?.target === 'gateway' && answer
    })
    // The same request at temperature 1 has another answer; its length is what was asked for.
    expect(after.usage?.completion_tokens).toBe(8)
    const row = await system.usage(answeredBy(before)?.requestId ?? '')
    expect(row).toMatchObject({ status: 'ok', outputTokens: 8 })
  })

  it('between calls, without a direct provider: the call waits for it within its deadline', async () => {
    const penstock = clientWith(false)
    system.killGateway()
    const answer = await penstock.chat.completions.create(short, { deadlineMs: 30_000 })
    expect(answeredBy(answer)?.target).toBe('gateway')
    await untilUp()
  })

  const openLong = (options: CallOptions) =>
    clientWith(true).chat.completions.create({ ...long, stream: true }, options)

  it('in mid-stream: the caller gets what had come and a typed error, never a clean end', async () => {
    const stream = await openLong({})
    let killed = false
    const reading = read(stream, (text) => {
      if (killed || text.length < 20) return
      killed = true
      system.killGateway()
    })
    const error = await reading.then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(error).toBeInstanceOf(StreamInterruptedError)
    const { partial, attempts } = error as StreamInterruptedError
    expect(partial.text.length).toBeGreaterThanOrEqual(20)
    expect(attempts.map(({ target }) => target)).toEqual(['gateway'])
    await untilUp()
  })

  it('in mid-stream, where the caller allows it: the answer begins anew and is whole', async () => {
    const stream = await openLong({ afterContent: 'restart' })
    let killed = false
    const text = await read(stream, (soFar) => {
      if (killed || soFar.length < 20) return
      killed = true
      system.killGateway()
    })
    expect(text).toBe(ANSWER)
    await untilUp()
  })
})

describe('usage of calls past the gateway', () => {
  type Reported = {
    id: string
    key_id: string
    provider: string
    status: string
    input_tokens: number
    output_tokens: number
  }
  type Listed = { total: { calls: number }; data: Reported[] }

  it('reaches the gateway once it is back, exactly once and beside the bill', async () => {
    const { key, id: keyId, org } = await system.newKey()
    const answered: string[] = []
    const options = {
      gateway: { baseUrl: line.origin, apiKey: key },
      direct: [
        { name: 'spare', baseUrl: `${spare.origin}/v1`, apiKey: 'sk-own', models: { [TINY_MODEL]: 'their-model' } },
      ],
      hooks: { onUsage: ({ target, requestId = '' }: UsageEvent) => target === 'gateway' && answered.push(requestId) },
    }
    const penstock = new Penstock(options)
    await penstock.chat.completions.create(short)
    await loseGateway()
    // Whole and streamed, while nobody is there.
    expect(answeredBy(await penstock.chat.completions.create(short))?.target).toBe('spare')
    expect(await read(await penstock.chat.completions.create({ ...short, stream: true }), () => {})).toBe(ANSWER)
    const kept = penstock.pendingUsage
    expect(kept.map(({ status }) => status)).toEqual(['answered', 'answered'])
    expect((await penstock.flushUsage()).pending).toBe(2)
    await untilBack()
    // In the middle of a stream: the rest of it comes from the provider.
    const stream = await System.until(async () => {
      const begun = await penstock.chat.completions.create({ ...long, stream: true }, { afterContent: 'restart' })
      return begun.target === 'gateway' && begun
    })
    let killed = false
    const text = await read(stream, (soFar) => {
      if (killed || soFar.length < 20) return
      killed = true
      system.killGateway()
    })
    expect(text).toBe(ANSWER)
    await untilUp()
    await System.until(async () => answeredBy(await penstock.chat.completions.create(short))?.target === 'gateway')
    await System.until(async () => (await penstock.flushUsage()).pending === 0)
    // As a second client would that had stored them: what is there already is not counted twice.
    const again = new Penstock({ ...options, unreported: kept })
    expect(await again.flushUsage()).toEqual({ pending: 0, dropped: 0, refused: 0 })

    const direct = spare.asked.length
    expect(direct).toBeGreaterThan(0)
    const { body: reported } = await system.admin<Listed>('GET', `/usage/client-reported?org=${org}&key=${keyId}`)
    const whole = reported.data.filter(({ status }) => status === 'answered')
    expect(whole.length).toBeGreaterThanOrEqual(3)
    expect(reported.total.calls).toBe(reported.data.length)
    expect(new Set(reported.data.map(({ id }) => id)).size).toBe(reported.data.length)
    for (const { id } of kept) expect(reported.data.filter((one) => one.id === id)).toHaveLength(1)
    for (const one of whole) expect(one).toMatchObject({ key_id: keyId, provider: 'spare', output_tokens: 5 })
    expect(reported.data.some((one) => one.status === 'answered' && one.input_tokens === 11)).toBe(true)

    // The bill has what went through the gateway, and nothing else.
    for (const requestId of answered) await system.usage(requestId)
    const billed = await system.sql`
      SELECT request_id, provider, status FROM usage_requests WHERE org_id = ${org} AND key_id = ${keyId}`
    expect(billed.every(({ provider }) => provider === 'fleet')).toBe(true)
    expect(
      billed
        .filter(({ status }) => status === 'ok')
        .map(({ request_id: id }) => id)
        .toSorted(),
    ).toEqual(answered.map((id) => id.replace(/^req_/, '')).toSorted())
    const ids = reported.data.map(({ id }) => id)
    const [inBooks] = await system.sql`
      SELECT (SELECT count(*) FROM usage_attempts WHERE request_id = ANY(${ids}::uuid[]))::int
        + (SELECT count(*) FROM ledger_entries WHERE transfer_id = ANY(${ids}::uuid[]))::int AS count`
    expect(inBooks?.count).toBe(0)
    // So says the command line.
    const words = ['usage', 'client-reported', '--key', keyId, '--json']
    const env = { PATH: process.env.PATH, PENSTOCK_URL: system.baseUrl, PENSTOCK_DATA: system.dataDir }
    const { stdout } = await promisify(execFile)(process.execPath, [MAIN, ...words], { env })
    expect(JSON.parse(stdout).data).toMatchObject({ billed: false, total: { calls: reported.total.calls } })
    // Two lives of the gateway, each with a fleet that has to join again.
  }, 120_000)
})

describe('a budget that is spent', () => {
  it('is told as such, and nobody is asked past it', async () => {
    const { key } = await system.newKey({ limits: [{ meter: 'money', window: 'lifetime', max_usd: '0.000000001' }] })
    const asked = spare.asked.length
    const penstock = new Penstock({
      gateway: { baseUrl: system.baseUrl, apiKey: key },
      direct: [{ name: 'spare', baseUrl: `${spare.origin}/v1`, apiKey: 'sk-own', models: { [TINY_MODEL]: 'x' } }],
    })
    const error = await penstock.chat.completions.create(short).then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(error).toBeInstanceOf(PenstockError)
    expect(error).toMatchObject({ code: 'budget_exhausted', retryable: false })
    expect(spare.asked.length).toBe(asked)
  })
})
