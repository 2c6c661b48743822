// The gateway's process is killed in the middle of answers by real engines, without a word: whoever can come back gets the rest, token by
// token what an undisturbed system says, each event once, and one bill.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Penstock } from '../../sdk/src/index.ts'
import { System, TINY_MODEL } from './support/system.ts'

const TOKENS = 4000
/** Text events that every answer has before the gateway is killed. */
const BEGUN = 12
/** On a machine that does other things as well, a gateway takes long to come up. */
const TEST_MS = 120_000

let system: System
beforeAll(async () => {
  system = await System.start({ model: TINY_MODEL })
})
afterAll(async () => {
  await system?.discard()
})

type SseEvent = { id: string | undefined; type: string; data: string }

/** Events until the stream ends or breaks off, or `enough` says so. */
async function read(response: Response, enough: (events: SseEvent[]) => boolean = () => false): Promise<SseEvent[]> {
  const events: SseEvent[] = []
  const decoder = new TextDecoder()
  let pending = ''
  try {
    for await (const chunk of response.body ?? []) {
      pending += decoder.decode(chunk as Uint8Array, { stream: true })
      const blocks = pending.split('\n\n')
      pending = blocks.pop() ?? ''
      for (const block of blocks) {
        const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1]
        const data = field('data')
        if (data !== undefined) events.push({ id: field('id'), type: field('event') ?? '', data })
      }
      if (enough(events)) break
    }
  } catch {
    // It broke off.
  }
  return events
}

const get = (path: string, headers: Record<string, string> = {}) =>
  fetch(`${system.baseUrl}${path}`, { headers: { authorization: `Bearer ${system.apiKey}`, ...headers } })

/** A gateway that is being started anew keeps callers waiting, or breaks off. */
const untilAnswered = (ask: () => Promise<Response>): Promise<Response> =>
  System.until(async () => {
    const response = await ask().catch(() => undefined)
    if (response !== undefined && response.status < 500) return response
    await response?.body?.cancel()
    return false
  })

async function expectOneBill(requestId: string): Promise<void> {
  expect(await system.usage(requestId)).toMatchObject({
    status: 'ok',
    attempts: 1,
    outputTokens: TOKENS,
    attemptTokens: TOKENS,
  })
  const id = requestId.replace(/^req_/, '')
  const [row] = await system.sql`
    SELECT route, usage_source, charge FROM usage_attempts WHERE request_id = ${id} AND kind = 'attempt'`
  expect(row).toMatchObject({ usage_source: 'provider', charge: 'customer' })
  const route = typeof row?.route === 'string' ? JSON.parse(row.route) : row?.route
  expect(route.moves).toMatchObject([{ reason: 'gateway_lost' }])
}

const background = { model: TINY_MODEL, max_output_tokens: TOKENS, temperature: 1, input: 'Of rivers: on and on.' }
type Stored = { id: string; status: string; output: { content: { text: string }[] }[] }

describe('the gateway is killed under a background response', { timeout: TEST_MS }, () => {
  it('that is followed: it goes on where it was, and its events are whole', async () => {
    const response = await system.post('/v1/responses', { ...background, background: true, stream: true })
    const requestId = response.headers.get('x-request-id') ?? ''
    const isText = ({ type }: SseEvent) => type === 'response.output_text.delta'
    const seen = await read(response, (events) => events.filter(isText).length >= BEGUN)
    const { response: made } = JSON.parse(seen[0]?.data ?? '') as { response: Stored }
    system.killGateway()
    const after = seen.length - 1
    const again = await untilAnswered(() => get(`/v1/responses/${made.id}?stream=true&starting_after=${after}`))
    const events = [...seen, ...(await read(again))].map(({ data }) => JSON.parse(data))
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, at) => at))
    const last = events.at(-1)
    expect(last.type).toMatch(/^response\.(completed|incomplete)$/)
    const told = events.flatMap(({ type, delta }) => (type === 'response.output_text.delta' ? [delta] : [])).join('')
    expect(told).toBe(last.response.output[0].content[0].text)
    expect((await (await get(`/v1/responses/${made.id}?stream=true`)).text()).match(/^event: /gm)).toHaveLength(
      events.length,
    )
    await expectOneBill(requestId)
    await system.untilIdle()
  })

  it('that nobody follows: it is taken up by itself', async () => {
    const response = await system.post('/v1/responses', { ...background, background: true })
    const requestId = response.headers.get('x-request-id') ?? ''
    const { id } = (await response.json()) as Stored
    const follower = await get(`/v1/responses/${id}?stream=true`)
    await read(follower, (events) => events.length > BEGUN)
    system.killGateway()
    // Nothing but the bill is asked for.
    await expectOneBill(requestId)
    const stored = (await (await get(`/v1/responses/${id}`)).json()) as Stored
    expect(['completed', 'incomplete']).toContain(stored.status)
    await system.untilIdle()
  })
})

const chat = (index: number) => ({
  model: TINY_MODEL,
  max_tokens: TOKENS,
  stream: true,
  messages: [{ role: 'user', content: `Of rivers, number ${index}: on and on.` }],
  ...(index === 0 ? { temperature: 0 } : { temperature: 1, seed: 42 + index }),
})

const textOf = (events: SseEvent[]) =>
  events
    .filter(({ data }) => data !== '[DONE]')
    .map(({ data }) => JSON.parse(data).choices?.[0]?.delta?.content ?? '')
    .join('')

describe('the gateway is killed under streams that can be taken up again', { timeout: TEST_MS }, () => {
  it('each goes on behind the last event that its client has', async () => {
    const all = [0, 1, 2]
    const texts: string[] = []
    for (const index of all) {
      const response = await system.post('/v1/chat/completions', { ...chat(index), stream: false })
      const { choices } = (await response.json()) as { choices: { message: { content: string } }[] }
      texts.push(choices[0]?.message.content ?? '')
    }
    expect(new Set(texts).size).toBe(all.length)
    const opened = await Promise.all(
      all.map(async (index) => {
        const response = await system.post('/v1/chat/completions', chat(index), { 'x-penstock-resumable': 'true' })
        return {
          requestId: response.headers.get('x-request-id') ?? '',
          streamId: response.headers.get('x-penstock-stream-id') ?? '',
          seen: await read(response, (events) => events.length >= BEGUN),
        }
      }),
    )
    system.killGateway()
    await Promise.all(
      opened.map(async ({ requestId, streamId, seen }, index) => {
        const last = { 'last-event-id': seen.at(-1)?.id ?? '' }
        const again = await untilAnswered(() => get(`/v1/streams/${streamId}`, last))
        expect(again.status).toBe(200)
        const events = [...seen, ...(await read(again))]
        expect(events.map(({ id }) => Number(id))).toEqual(events.map((_, at) => at))
        expect(textOf(events)).toBe(texts[index])
        expect(events.at(-1)?.data).toBe('[DONE]')
        await expectOneBill(requestId)
      }),
    )
    await system.untilIdle()
  })

  it('and again, and again', async () => {
    const whole = await system.post('/v1/chat/completions', { ...chat(1), stream: false })
    const { choices } = (await whole.json()) as { choices: { message: { content: string } }[] }
    const response = await system.post('/v1/chat/completions', chat(1), { 'x-penstock-resumable': 'true' })
    const requestId = response.headers.get('x-request-id') ?? ''
    const path = `/v1/streams/${response.headers.get('x-penstock-stream-id')}`
    const events = await read(response, (seen) => seen.length >= BEGUN)
    for (let death = 0; death < 2; death++) {
      system.killGateway()
      const last = { 'last-event-id': events.at(-1)?.id ?? '' }
      const again = await untilAnswered(() => get(path, last))
      events.push(...(await read(again, (seen) => death === 0 && seen.length >= BEGUN)))
    }
    expect(events.map(({ id }) => Number(id))).toEqual(events.map((_, at) => at))
    expect(textOf(events)).toBe(choices[0]?.message.content)
    expect(await system.usage(requestId)).toMatchObject({ status: 'ok', attempts: 1, attemptTokens: TOKENS })
    await system.untilIdle()
  })
})

describe('the gateway is killed under the SDK', { timeout: TEST_MS }, () => {
  it('that may take its streams up: the reader sees one answer, in each dialect, and one bill', async () => {
    const penstock = new Penstock({ gateway: { baseUrl: system.baseUrl, apiKey: system.apiKey }, resume: true })
    const model = TINY_MODEL
    const content = 'Of boats: on and on.'
    const messages = [{ role: 'user' as const, content }]
    const drawn = { temperature: 1, seed: 7 }
    const chatAsked = { model, max_tokens: TOKENS, messages, ...drawn }
    const messagesAsked = { model, max_tokens: TOKENS, messages, temperature: 0 }
    const responsesAsked = { model, max_output_tokens: TOKENS, input: content, temperature: 0 }
    const whole = await penstock.chat.completions.create(chatAsked)
    const wholeMessage = await penstock.messages.create(messagesAsked)
    const wholeResponse = await penstock.responses.create(responsesAsked)
    const texts = [
      whole.choices[0]?.message.content,
      wholeMessage.content[0]?.text,
      (wholeResponse.output[0] as { content?: { text: string }[] } | undefined)?.content?.[0]?.text,
    ]
    const streams = await Promise.all([
      penstock.chat.completions.create({ ...chatAsked, stream: true }),
      penstock.messages.create({ ...messagesAsked, stream: true }),
      penstock.responses.create({ ...responsesAsked, stream: true }),
    ])
    const begun = streams.map(() => Promise.withResolvers<void>())
    const reading = streams.map(async (stream: AsyncIterable<object>, index) => {
      let text = ''
      let pieces = 0
      for await (const event of stream) {
        const { choices, delta, type } = event as {
          choices?: { delta: { content?: string } }[]
          delta?: string | { text?: string }
          type?: string
        }
        if (choices !== undefined) text += choices[0]?.delta.content ?? ''
        else if (typeof delta === 'object') text += delta.text ?? ''
        else if (type === 'response.output_text.delta') text += delta ?? ''
        if (++pieces === BEGUN) begun[index]?.resolve()
      }
      return text
    })
    await Promise.all(begun.map(({ promise }) => promise))
    system.killGateway()
    expect(await Promise.all(reading)).toEqual(texts)
    for (const { requestId } of streams) await expectOneBill(requestId ?? '')
    await system.untilIdle()
  })
})
