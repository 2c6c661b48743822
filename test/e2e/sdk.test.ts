// The SDK over the whole system: the gateway is killed between calls and in mid-stream, answers go on coming, and the books say
// afterwards what happened.
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  answeredBy,
  type CallOptions,
  Penstock,
  PenstockError,
  StreamInterruptedError,
  type UsageEvent,
} from '../../sdk/src/index.ts'
import { System, TINY_MODEL } from './support/system.ts'
import { ANSWER, chatVendor, VendorUpstream } from './support/vendor-upstreams.ts'

let system: System
let spare: VendorUpstream
const usage: UsageEvent[] = []

beforeAll(async () => {
  system = await System.start({ model: TINY_MODEL })
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
  await system?.discard()
  await spare?.stop()
})

const clientWith = (direct: boolean) =>
  new Penstock({
    gateway: { baseUrl: system.baseUrl, apiKey: system.apiKey },
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

/** The launcher starts a new one each time, so it is looked for by what it was started with. */
function killGateway(): void {
  const isGateway = (pid: string) => {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      return line.includes('workerd') && line.includes(system.dataDir)
    } catch {
      return false
    }
  }
  const pid = readdirSync('/proc').find((name) => /^\d+$/.test(name) && isGateway(name))
  process.kill(Number(pid), 'SIGKILL')
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
    killGateway()
    const during = await penstock.chat.completions.create(short)
    expect(answeredBy(during)).toMatchObject({ target: 'spare' })
    expect(during.choices[0]?.message.content).toBe(ANSWER)
    expect(usage.at(-1)).toMatchObject({ target: 'spare', isMetered: false })
    await untilUp()
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
    killGateway()
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
      killGateway()
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
      killGateway()
    })
    expect(text).toBe(ANSWER)
    await untilUp()
  })
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
