// Streams that the gateway keeps: taken up behind their last event as often as they break off, ended by a call of its own, and never
// mixed with another answer.
import { describe, expect, it } from 'vitest'
import { type ClientOptions, Penstock, StreamInterruptedError, type UsageEvent } from '../../../sdk/src/index.ts'
import { penstockFetch } from '../../../sdk/src/openai.ts'
import { chatPieces, type Step, scriptedFetch } from '../../../sdk/src/testing.ts'

const GATEWAY = 'http://gateway.test'
const gateway = { baseUrl: GATEWAY, apiKey: 'psk_secret' }
const request = { model: 'small', messages: [{ role: 'user' as const, content: 'Hi' }], stream: true as const }
const KEPT = { 'x-penstock-stream-id': 'stream_1', 'x-request-id': 'req_1', 'x-penstock-request-id': 'req_1' }

const pieces = chatPieces(['one ', 'two ', 'three']).map((piece, at) => `id: ${at}\n${piece}`)
const part = (from: number, to: number, then: 'reset' | 'end' | 'stall' = 'reset'): Step => ({
  kind: 'stream',
  pieces: pieces.slice(from, to),
  then,
  headers: KEPT,
})
const missing: Step = {
  kind: 'json',
  status: 404,
  headers: KEPT,
  body: { error: { message: 'There is no such stream.', code: 'not_found' } },
}

function world(steps: readonly Step[], options: Partial<ClientOptions> = {}) {
  const fetch = scriptedFetch({ [GATEWAY]: steps })
  const usage: UsageEvent[] = []
  const all: ClientOptions = {
    gateway,
    fetch,
    resume: true,
    hooks: { onUsage: (event) => usage.push(event) },
    ...options,
  }
  const surroundings = { nowMs: () => Date.now(), random: () => 0, newId: () => 'id' }
  const asked = () => fetch.seen.map(({ method, url }) => `${method} ${url.slice(`${GATEWAY}/v1`.length)}`)
  return { all, surroundings, penstock: new Penstock(all, surroundings), fetch, usage, asked }
}

async function textOf(stream: AsyncIterable<unknown>): Promise<string> {
  let text = ''
  for await (const chunk of stream)
    text += (chunk as { choices?: { delta: { content?: string } }[] }).choices?.[0]?.delta.content ?? ''
  return text
}

const lastIds = ({ fetch }: ReturnType<typeof world>) => fetch.seen.map(({ headers }) => headers.get('last-event-id'))

describe('a stream that the gateway keeps', () => {
  it('goes on behind its last event, through refusals, and is told once', async () => {
    const given = world([part(0, 2), { kind: 'refuse' }, part(2, 3), part(3, 9, 'end')])
    const stream = await given.penstock.chat.completions.create(request)
    expect(await textOf(stream)).toBe('one two three')
    expect(given.asked()).toEqual(['POST /chat/completions', ...Array(3).fill('GET /streams/stream_1')])
    expect(lastIds(given)).toEqual([null, '1', '1', '2'])
    expect(given.fetch.seen.map(({ headers }) => headers.get('x-penstock-resumable'))).toEqual([
      'true',
      null,
      null,
      null,
    ])
    expect(given.usage).toMatchObject([{ requestId: 'req_1', model: 'small', outputTokens: 3, isMetered: true }])
  })

  it('goes on however often it breaks off while it comes further, and not for ever where it does not', async () => {
    const many = chatPieces(Array.from({ length: 14 }, (_, at) => `${at} `)).map((piece, at) => `id: ${at}\n${piece}`)
    const step = (from: number, to: number, then: 'reset' | 'end'): Step => ({
      kind: 'stream',
      pieces: many.slice(from, to),
      then,
      headers: KEPT,
    })
    const given = world([
      ...Array.from({ length: 14 }, (_, at) => step(at, at + 1, 'reset')),
      step(14, many.length, 'end'),
    ])
    expect(await textOf(await given.penstock.chat.completions.create(request))).toBe(
      Array.from({ length: 14 }, (_, at) => `${at} `).join(''),
    )
    const stuck = world([part(0, 2), ...Array.from({ length: 30 }, () => part(1, 2))])
    await expect(textOf(await stuck.penstock.chat.completions.create(request))).rejects.toBeInstanceOf(
      StreamInterruptedError,
    )
    expect(stuck.fetch.seen.length).toBeLessThan(15)
  })

  it('goes on where its end alone is missing', async () => {
    const given = world([part(0, 4), part(4, 9, 'end')])
    expect(await textOf(await given.penstock.chat.completions.create(request))).toBe('one two three')
  })

  it('ends where the answer itself has failed, and nobody is asked again', async () => {
    const failed = {
      kind: 'stream' as const,
      headers: KEPT,
      pieces: ['id: 2\ndata: {"error":{"message":"no","code":"x"}}\n\n'],
    }
    for (const steps of [[{ ...failed, pieces: [...pieces.slice(0, 2), ...failed.pieces] }], [part(0, 2), failed]]) {
      const given = world(steps)
      const reading = textOf(await given.penstock.chat.completions.create(request))
      await expect(reading).rejects.toBeInstanceOf(StreamInterruptedError)
      expect(given.asked()).toHaveLength(steps.length)
    }
  })

  it('is interrupted where the gateway has it no more, with what had come', async () => {
    const given = world([part(0, 2), missing])
    const error = await textOf(await given.penstock.chat.completions.create(request)).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(StreamInterruptedError)
    expect((error as StreamInterruptedError).partial.text).toBe('one ')
  })

  it('begins anew where the gateway has it no more and the caller allows it', async () => {
    const given = world([part(0, 2), missing, part(0, 9, 'end')], { afterContent: 'restart' })
    let text = ''
    for await (const chunk of await given.penstock.chat.completions.create(request)) {
      if ('type' in chunk && chunk.type === 'penstock.restart') text = ''
      else text += chunk.choices?.[0]?.delta.content ?? ''
    }
    expect(text).toBe('one two three')
    expect(given.asked()).toEqual(['POST /chat/completions', 'GET /streams/stream_1', 'POST /chat/completions'])
    expect(given.fetch.seen.at(-1)?.body).toMatchObject({ model: 'small', stream: true })
  })

  it('is ended where the answer begins anew while it may go on, however long its gateway is away, and the new one is not', async () => {
    const locked: Step = {
      kind: 'json',
      status: 401,
      headers: KEPT,
      body: { error: { message: 'no', code: 'invalid_api_key' } },
    }
    const other = { ...KEPT, 'x-penstock-stream-id': 'stream_2' }
    const anew: Step = { kind: 'stream', pieces, headers: other }
    const gateway = [part(0, 2), locked, { kind: 'refuse' }, anew, { kind: 'json', body: {} }] as const
    const given = world(gateway, { afterContent: 'restart' })
    let text = ''
    for await (const chunk of await given.penstock.chat.completions.create(request)) {
      if ('type' in chunk && chunk.type === 'penstock.restart') text = ''
      else text += chunk.choices?.[0]?.delta.content ?? ''
    }
    expect(text).toBe('one two three')
    // The first word of it is lost.
    const cancels = () => given.asked().filter((one) => one.endsWith('/cancel'))
    await expect.poll(cancels).toEqual(['POST /streams/stream_1/cancel', 'POST /streams/stream_1/cancel'])
    expect(given.asked().slice(0, 2)).toEqual(['POST /chat/completions', 'GET /streams/stream_1'])
  })

  it('is ended by a call of its own where its reader leaves, and by nothing where it was read', async () => {
    const left = world([part(0, 3, 'stall'), { kind: 'json', body: {} }])
    for await (const _ of await left.penstock.chat.completions.create(request)) break
    await expect.poll(left.asked).toEqual(['POST /chat/completions', 'POST /streams/stream_1/cancel'])
    const aborted = world([part(0, 3, 'stall'), { kind: 'json', body: {} }])
    ;(await aborted.penstock.chat.completions.create(request)).abort()
    await expect.poll(aborted.asked).toEqual(['POST /chat/completions', 'POST /streams/stream_1/cancel'])
    const read = world([part(0, 9, 'end')])
    await textOf(await read.penstock.chat.completions.create(request))
    expect(read.asked()).toEqual(['POST /chat/completions'])
  })

  it('is asked for by one call alone, too, and not for what is no stream', async () => {
    const given = world([part(0, 9, 'end')], { resume: false })
    await textOf(await given.penstock.chat.completions.create(request))
    await textOf(await given.penstock.chat.completions.create(request, { resume: true }))
    await given.penstock.models.list({ resume: true }).catch(() => {})
    expect(given.fetch.seen.map(({ headers }) => headers.get('x-penstock-resumable'))).toEqual([null, 'true', null])
  })

  it('goes on under a client that knows nothing of it', async () => {
    const given = world([part(0, 2), part(2, 9, 'end')])
    const fetch = penstockFetch(given.all, {}, given.surroundings)
    const response = await fetch(`${GATEWAY}/v1/chat/completions`, { method: 'POST', body: JSON.stringify(request) })
    const text = await response.text()
    expect(text.match(/^id: \d+$/gm)).toEqual(pieces.map((_, at) => `id: ${at}`))
    expect(text).toContain('data: [DONE]')
  })
})
