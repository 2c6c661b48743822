import { expect, test } from 'vitest'
import { AdminClient } from '../../../scripts/admin-client.ts'
import { answerOnce, serverSentData } from '../../../scripts/once.ts'
import { serve } from './support/http.ts'

type Behaviour = {
  events: string[]
  row?: { input_tokens: number; output_tokens: number; cost_usd: string }
  rowAfter?: number
}

const EVENTS = [
  '{"choices":[{"delta":{"role":"assistant","content":""}}]}',
  '{"choices":[{"delta":{"content":"Rivers "}}]}',
  '{"choices":[{"delta":{"content":"flow."}}]}',
  '{"choices":[{"delta":{},"finish_reason":"stop"}]}',
  '{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3}}',
  '[DONE]',
]
const ROW = { input_tokens: 12, output_tokens: 3, cost_usd: '0.00000042' }

/** A gateway that answers as told, and what the launcher printed about it. */
async function printed(behaviour: Behaviour, json = false): Promise<string> {
  let lookUps = 0
  const baseUrl = await serve((request, response) => {
    if (request.url === '/v1/chat/completions') {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'x-request-id': 'r1' })
      response.end(behaviour.events.map((data) => `data: ${data}\n\n`).join(''))
      return
    }
    lookUps++
    const found = behaviour.row !== undefined && lookUps > (behaviour.rowAfter ?? 0)
    const right =
      request.url === '/admin/v1/usage/requests/r1?org=o1' && request.headers.authorization === 'Bearer admin'
    response.writeHead(!right ? 400 : found ? 200 : 404).end(JSON.stringify(behaviour.row ?? {}))
  })
  const system = { baseUrl, apiKey: 'key', orgId: 'o1', model: 'm', admin: new AdminClient(baseUrl, 'admin') }
  let text = ''
  const options = { prompt: 'p', maxTokens: 10, json, signal: new AbortController().signal }
  await answerOnce(system, options, (more) => {
    text += more
  })
  return text
}

test('the answer is followed by its tokens, cost and speed', async () => {
  const text = await printed({ events: EVENTS, row: ROW, rowAfter: 2 })
  expect(text).toMatch(
    /^Rivers flow\.\n\nm: 12 input \+ 3 output tokens, \$0\.00000042, first token after \d+ ms(, [\d.]+ tokens\/s)?\n$/,
  )
})

test('as JSON it is one line', async () => {
  const text = await printed({ events: EVENTS, row: ROW }, true)
  expect(JSON.parse(text)).toMatchObject({
    event: 'answer',
    text: 'Rivers flow.',
    finishReason: 'stop',
    inputTokens: 12,
    outputTokens: 3,
    costUsd: '0.00000042',
  })
})

test('a usage row with other counts than the response is a failure', async () => {
  await expect(printed({ events: EVENTS, row: { ...ROW, output_tokens: 4 } })).rejects.toThrow(
    'request r1: the response counts 12 + 3 tokens, the usage row 12 + 4',
  )
})

test('an error inside the stream is a failure', async () => {
  const events = [...EVENTS.slice(0, 2), '{"error":{"message":"the engine died"}}']
  await expect(printed({ events, row: ROW })).rejects.toThrow('the stream broke off: the engine died')
})

test.each([
  ['[DONE]', EVENTS.slice(0, 5), 'without [DONE]'],
  ['usage', EVENTS.toSpliced(4, 1), 'without usage'],
])('a stream without %s is a failure', async (_, events, message) => {
  await expect(printed({ events, row: ROW })).rejects.toThrow(message)
})

test('an answer that was cut says how to get more', async () => {
  const events = EVENTS.with(3, '{"choices":[{"delta":{},"finish_reason":"length"}]}')
  expect(await printed({ events, row: ROW })).toContain('(cut at 10 tokens; --max-tokens allows more)')
})

test('events are put together whatever the packets, lines and line ends are', async () => {
  const bytes = new TextEncoder().encode('data: grün\r\n\r\n: comment\n\ndata: a\ndata: b\n\ndata: no end')
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte))
      controller.close()
    },
  })
  const events: string[] = []
  for await (const data of serverSentData(body)) events.push(data)
  expect(events).toEqual(['grün', 'a\nb'])
})
