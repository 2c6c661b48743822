// Calls over scripted upstreams: who is asked, in which order, how often, and what the caller learns.
import { describe, expect, expectTypeOf, it } from 'vitest'
import {
  answeredBy,
  type CallOptions,
  type ChatCompletion,
  type ClientOptions,
  Penstock,
  PenstockError,
  StreamInterruptedError,
  type UsageEvent,
} from '../../../sdk/src/index.ts'
import { chatAnswer, chatPieces, type Step, scriptedFetch } from '../../../sdk/src/testing.ts'

const OURS = { 'x-penstock-request-id': 'req_1', 'x-request-id': 'req_1' }
const GATEWAY = 'http://gateway.test'
const SPARE = 'http://spare.test'
const MESSAGES = [{ role: 'user' as const, content: 'Hi' }]
const refusal = (status: number, code: string, headers: Record<string, string> = {}): Step => ({
  kind: 'json',
  status,
  headers: { ...OURS, ...headers },
  body: { error: { message: 'words', code } },
})

/** No pause is waited for: jitter is drawn as zero. */
function world(steps: { gateway: readonly Step[]; spare?: readonly Step[] }, options: Partial<ClientOptions> = {}) {
  const fetch = scriptedFetch({ [GATEWAY]: steps.gateway, [SPARE]: steps.spare ?? [{ kind: 'refuse' }] })
  let ids = 0
  const usage: UsageEvent[] = []
  const penstock = new Penstock(
    {
      gateway: { baseUrl: GATEWAY, apiKey: 'psk_secret' },
      direct: [{ name: 'spare', baseUrl: `${SPARE}/v1`, apiKey: () => 'sk-spare', models: { small: 'their-small' } }],
      fetch,
      hooks: { onUsage: (event) => usage.push(event) },
      ...options,
    },
    { nowMs: () => Date.now(), random: () => 0, newId: () => `id-${++ids}` },
  )
  const ask = (model = 'small', call?: CallOptions) =>
    penstock.chat.completions.create({ model, messages: MESSAGES }, call)
  const hosts = () => fetch.seen.map(({ url }) => new URL(url).host.split('.')[0])
  return { penstock, fetch, ask, hosts, usage }
}

const failureOf = (promise: Promise<unknown>): Promise<PenstockError> =>
  promise.then(
    () => {
      throw new Error('it answered')
    },
    (error: unknown) => {
      expect(error).toBeInstanceOf(PenstockError)
      return error as PenstockError
    },
  )

async function textOf(stream: AsyncIterable<unknown>): Promise<string> {
  let text = ''
  for await (const chunk of stream) {
    text += (chunk as { choices?: { delta: { content?: string } }[] }).choices?.[0]?.delta.content ?? ''
  }
  return text
}

describe('a call', () => {
  it("follows no redirect with its key: whoever sends one stands in the gateway's place", async () => {
    const away: Step = { kind: 'text', status: 302, headers: { location: 'http://evil.test/' }, body: '' }
    const { ask, fetch, hosts } = world({ gateway: [away], spare: [chatAnswer('direct')] })
    expect((await ask()).choices[0]?.message.content).toBe('direct')
    expect(hosts()).toEqual(['gateway', 'spare'])
    expect(fetch.seen.every(({ redirect }) => redirect === 'manual')).toBe(true)
  })

  it('goes to the gateway with its key, an idempotency key and the time that is left', async () => {
    const { ask, fetch, usage } = world({ gateway: [chatAnswer('hello')] })
    const answer = await ask()
    expectTypeOf(answer).toEqualTypeOf<ChatCompletion>()
    expect(answer.choices[0]?.message.content).toBe('hello')
    expect(answeredBy(answer)?.target).toBe('gateway')
    const [seen] = fetch.seen
    expect(seen?.url).toBe(`${GATEWAY}/v1/chat/completions`)
    expect(seen?.headers.get('authorization')).toBe('Bearer psk_secret')
    expect(seen?.headers.get('idempotency-key')).toBe('id-1')
    expect(Number(seen?.headers.get('x-penstock-deadline-ms'))).toBeGreaterThan(0)
    expect(usage).toMatchObject([{ inputTokens: 3, outputTokens: 2, isMetered: true, target: 'gateway' }])
  })

  it('carries its hints as headers', async () => {
    const { ask, fetch } = world({ gateway: [chatAnswer('x')] })
    await ask('small', { hints: { order: ['a', 'b/c'], maxLatencyMs: 300, hedge: true, maxPriceUsdPerMillion: '1.5' } })
    expect(Object.fromEntries(fetch.seen[0]?.headers ?? [])).toMatchObject({
      'x-penstock-order': 'a,b/c',
      'x-penstock-max-latency-ms': '300',
      'x-penstock-hedge': 'true',
      'x-penstock-max-price': '1.5',
    })
  })

  it.each<[string, Step]>([
    ['nobody is there', { kind: 'refuse' }],
    ['what stands before it says 502', { kind: 'text', status: 502, body: '<html>bad gateway</html>' }],
    ['it says that it cannot work', refusal(503, 'unavailable')],
  ])('goes past the gateway where %s', async (_, step) => {
    const { ask, hosts, fetch, usage } = world({ gateway: [step], spare: [chatAnswer('from spare')] })
    const answer = await ask()
    expect(answer.choices[0]?.message.content).toBe('from spare')
    expect(answeredBy(answer)?.target).toBe('spare')
    expect(hosts()).toEqual(['gateway', 'spare'])
    const [, spare] = fetch.seen
    expect(spare?.body).toMatchObject({ model: 'their-small' })
    expect(spare?.headers.get('authorization')).toBe('Bearer sk-spare')
    expect([...(spare?.headers ?? [])].some(([name]) => name.startsWith('x-penstock'))).toBe(false)
    expect(usage).toMatchObject([{ isMetered: false, target: 'spare' }])
  })

  it.each([
    [400, 'invalid_request'],
    [401, 'invalid_api_key'],
    [403, 'permission_denied'],
    [404, 'model_not_found'],
    [413, 'request_too_large'],
    [429, 'insufficient_quota'],
  ])('never goes past it for HTTP %i %s, and is asked once', async (status, code) => {
    const { ask, hosts } = world({ gateway: [refusal(status, code)], spare: [chatAnswer('no')] })
    const error = await failureOf(ask())
    expect(error.retryable).toBe(false)
    expect(hosts()).toEqual(['gateway'])
  })

  it('waits for a rate limit at the gateway instead of going past it', async () => {
    const { ask, hosts } = world({
      gateway: [refusal(429, 'rate_limit_exceeded', { 'retry-after-ms': '5' }), chatAnswer('later')],
      spare: [chatAnswer('no')],
    })
    expect((await ask()).choices[0]?.message.content).toBe('later')
    expect(hosts()).toEqual(['gateway', 'gateway'])
  })

  it('does not wait longer than a minute, or past its deadline', async () => {
    const long = world({ gateway: [refusal(429, 'rate_limit_exceeded', { 'retry-after': '90' })] })
    expect(await failureOf(long.ask())).toMatchObject({ code: 'rate_limited', retryAfterMs: 90_000 })
    const late = world({ gateway: [refusal(503, 'no_target', { 'retry-after': '30' })] })
    expect(await failureOf(late.ask('small', { deadlineMs: 2000 }))).toMatchObject({ code: 'overloaded' })
    expect(late.hosts()).toEqual(['gateway'])
  })

  it('stays at the gateway for a model that no direct provider knows, and says what was tried', async () => {
    const { ask, hosts } = world({ gateway: [{ kind: 'refuse' }], spare: [chatAnswer('no')] }, { attemptsMax: 3 })
    const error = await failureOf(ask('other'))
    expect(error).toMatchObject({ code: 'gateway_unreachable', origin: 'gateway', retryable: true })
    expect(hosts()).toEqual(['gateway', 'gateway', 'gateway'])
    expect(error.attempts.map(({ attempt, target, code }) => [attempt, target, code])).toEqual([
      [1, 'gateway', 'gateway_unreachable'],
      [2, 'gateway', 'gateway_unreachable'],
      [3, 'gateway', 'gateway_unreachable'],
    ])
  })

  it('asks nobody in vain once a breaker has learnt that the gateway is down', async () => {
    const { ask, fetch, hosts } = world({ gateway: [{ kind: 'refuse' }], spare: [chatAnswer('spare')] })
    for (let call = 0; call < 4; call++) await ask()
    expect(hosts()).toEqual(['gateway', 'spare', 'gateway', 'spare', 'gateway', 'spare', 'spare'])
    expect(fetch.seen).toHaveLength(7)
  })

  it('keeps one key over its tries, and takes another where an answer was lost', async () => {
    const { ask, fetch } = world({
      gateway: [
        refusal(502, 'upstream_error'),
        refusal(409, 'conflict', { 'retry-after-ms': '1000' }),
        chatAnswer('again'),
      ],
    })
    expect((await ask('other')).choices[0]?.message.content).toBe('again')
    expect(fetch.seen.map(({ headers }) => headers.get('idempotency-key'))).toEqual(['id-1', 'id-1', 'id-2'])
  })

  it('runs at most once under a key of the caller', async () => {
    const { ask } = world({ gateway: [refusal(502, 'upstream_error'), refusal(409, 'conflict')] })
    expect(await failureOf(ask('other', { idempotencyKey: 'mine' }))).toMatchObject({ code: 'conflict' })
  })

  it('ends at its deadline with every try, though nobody answers', async () => {
    const { ask } = world({ gateway: [{ kind: 'stall' }] })
    const error = await failureOf(ask('small', { deadlineMs: 30 }))
    expect(error).toMatchObject({ code: 'timeout', attempts: [{ target: 'gateway' }] })
  })

  it('ends when the caller says so', async () => {
    const { ask } = world({ gateway: [{ kind: 'stall' }] })
    const controller = new AbortController()
    const call = failureOf(ask('small', { signal: controller.signal }))
    controller.abort()
    expect(await call).toMatchObject({ code: 'aborted' })
  })

  it('takes an error inside a 200 for one', async () => {
    const inside: Step = { kind: 'json', headers: OURS, body: { error: { message: 'm', code: 'no_target' } } }
    const { ask } = world({ gateway: [inside, chatAnswer('second')] })
    expect((await ask('other')).choices[0]?.message.content).toBe('second')
  })

  it('does not wait for a key for ever', async () => {
    const apiKey = () => new Promise<string>(() => {})
    const given = world(
      { gateway: [chatAnswer('no')], spare: [chatAnswer('spare')] },
      { gateway: { baseUrl: GATEWAY, apiKey }, headTimeoutMs: 20 },
    )
    expect((await given.ask()).choices[0]?.message.content).toBe('spare')
    const error = await failureOf(given.ask('other', { deadlineMs: 10 }))
    expect(error.code).toBe('timeout')
  })

  it('shows a direct provider no proof that is for the gateway', async () => {
    const given = world(
      { gateway: [{ kind: 'refuse' }], spare: [chatAnswer('spare')] },
      {
        direct: [
          {
            name: 'spare',
            baseUrl: SPARE,
            apiKey: 'sk-spare',
            auth: 'x-api-key',
            headers: { cookie: 'theirs' },
            models: { small: 's' },
          },
        ],
      },
    )
    await given.ask('small', {
      headers: { Authorization: 'Bearer psk_secret', 'x-secret': 't', traceparent: '00-1-2-01', Cookie: 'ours' },
    })
    const { headers } = given.fetch.seen.at(-1) ?? {}
    expect(headers?.get('authorization')).toBeNull()
    expect(headers?.get('x-api-key')).toBe('sk-spare')
    expect(headers?.get('cookie')).toBe('theirs')
    expect(headers?.get('x-secret')).toBeNull()
    expect(headers?.get('traceparent')).toBe('00-1-2-01')
  })

  it('is not disturbed by a hook that throws', async () => {
    const hooks = {
      onAttempt: () => {
        throw new Error('a bug of the application')
      },
    }
    const { ask } = world({ gateway: [chatAnswer('fine')] }, { hooks })
    expect((await ask()).choices[0]?.message.content).toBe('fine')
  })
})

describe('a stream', () => {
  const streamed = (pieces: readonly string[], then?: 'end' | 'reset' | 'stall'): Step => ({
    kind: 'stream',
    headers: OURS,
    pieces,
    ...(then === undefined ? {} : { then }),
  })
  const open = (given: ReturnType<typeof world>, call?: CallOptions) =>
    given.penstock.chat.completions.create({ model: 'small', messages: MESSAGES, stream: true }, call)

  it('gives its chunks, asks for the usage and tells it once', async () => {
    const given = world({ gateway: [streamed(chatPieces(['a', 'b', 'c']))] })
    const stream = await open(given)
    expect(stream).toMatchObject({ target: 'gateway', requestId: 'req_1' })
    expect(await textOf(stream)).toBe('abc')
    expect(given.fetch.seen[0]?.body).toMatchObject({ stream_options: { include_usage: true } })
    expect(given.usage).toMatchObject([{ inputTokens: 3, outputTokens: 3 }])
  })

  it.each<[string, Step]>([
    ['ends before any content', streamed(chatPieces([], false))],
    ['is reset before any content', streamed(chatPieces([], false), 'reset')],
    ['begins with an error', streamed(['data: {"error":{"message":"m","code":"unavailable"}}\n\n'])],
  ])('goes past a gateway that %s', async (_, step) => {
    const given = world({ gateway: [step], spare: [streamed(chatPieces(['spare']))] })
    expect(await textOf(await open(given))).toBe('spare')
    expect(given.hosts()).toEqual(['gateway', 'spare'])
  })

  it('gives up a silent head, and a silent body', async () => {
    const head = world(
      { gateway: [{ kind: 'stall' }], spare: [streamed(chatPieces(['spare']))] },
      { headTimeoutMs: 20 },
    )
    expect(await textOf(await open(head))).toBe('spare')
    const silent = streamed(chatPieces([], false), 'stall')
    const body = world({ gateway: [silent], spare: [streamed(chatPieces(['spare']))] }, { idleTimeoutMs: 20 })
    expect(await textOf(await open(body))).toBe('spare')
  })

  it.each<['reset' | 'end' | 'stall']>([['reset'], ['end'], ['stall']])(
    'that breaks off after content (%s) ends in an error with what had come, and is not begun again',
    async (then) => {
      const given = world(
        { gateway: [streamed(chatPieces(['one ', 'two'], false), then)], spare: [streamed(chatPieces(['no']))] },
        { idleTimeoutMs: 30 },
      )
      const stream = await open(given)
      let text = ''
      const reading = (async () => {
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
      })()
      const error = await failureOf(reading)
      expect(error).toBeInstanceOf(StreamInterruptedError)
      expect((error as StreamInterruptedError).partial).toEqual({
        text: 'one two',
        usage: undefined,
        resumeToken: undefined,
      })
      expect(text).toBe('one two')
      expect(given.hosts()).toEqual(['gateway'])
    },
  )

  it('takes half an event at its end for a break, not for an event', async () => {
    const given = world({ gateway: [streamed([...chatPieces(['one'], false), 'data: {"id":"chatcmpl-test","choi'])] })
    const error = await failureOf(open(given).then(textOf))
    expect(error).toBeInstanceOf(StreamInterruptedError)
    expect((error as StreamInterruptedError).partial.text).toBe('one')
  })

  it('begins anew where the caller allows it, and says so', async () => {
    const given = world(
      { gateway: [streamed(chatPieces(['half'], false), 'reset')], spare: [streamed(chatPieces(['who', 'le']))] },
      { afterContent: 'restart' },
    )
    const events: unknown[] = []
    for await (const event of await open(given)) events.push(event)
    const restart = events.findIndex((event) => (event as { type?: string }).type === 'penstock.restart')
    expect(restart).toBeGreaterThan(0)
    expect(
      await textOf(
        (async function* () {
          yield* events.slice(restart + 1)
        })(),
      ),
    ).toBe('whole')
    const keys = given.fetch.seen.map(({ headers }) => headers.get('idempotency-key'))
    expect(new Set(keys).size).toBe(2)
  })

  it('lets go of the connection when the reader leaves', async () => {
    const given = world({ gateway: [streamed(chatPieces(['a', 'b'], false), 'stall')] })
    for await (const chunk of await open(given)) if (chunk.choices[0]?.delta.content === 'a') break
    expect(given.hosts()).toEqual(['gateway'])
  })

  it('continues a background response at the event where it broke off', async () => {
    const event = (sequence: number, type: string, more: object = {}) =>
      `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequence, ...more })}\n\n`
    const created = event(0, 'response.created', { response: { id: 'resp_1' } })
    const delta = (sequence: number, text: string) => event(sequence, 'response.output_text.delta', { delta: text })
    const usage = { input_tokens: 5, output_tokens: 3, input_tokens_details: { cached_tokens: 4 } }
    const given = world({
      gateway: [
        streamed([created, delta(1, 'one ')], 'reset'),
        { kind: 'refuse' },
        streamed([
          delta(2, 'two '),
          delta(3, 'three'),
          event(4, 'response.completed', { response: { id: 'resp_1', usage } }),
        ]),
      ],
    })
    const stream = await given.penstock.responses.create({
      model: 'small',
      input: 'Hi',
      stream: true,
      background: true,
    })
    let text = ''
    for await (const one of stream)
      if (one.type === 'response.output_text.delta') text += (one as { delta?: string }).delta
    expect(text).toBe('one two three')
    expect(given.fetch.seen.map(({ method, url }) => `${method} ${url.slice(GATEWAY.length)}`)).toEqual([
      'POST /v1/responses',
      'GET /v1/responses/resp_1?stream=true&starting_after=1',
      'GET /v1/responses/resp_1?stream=true&starting_after=1',
    ])
    expect(given.usage).toMatchObject([{ inputTokens: 1, cachedInputTokens: 4, outputTokens: 3 }])
  })
})

describe('a hedge', () => {
  const slow: Step = { kind: 'stall' }

  it('lets the faster one win and stops the other', async () => {
    const given = world({ gateway: [slow], spare: [chatAnswer('spare')] })
    const answer = await given.ask('small', { hedgeAfterMs: 5 })
    expect(answeredBy(answer)?.target).toBe('spare')
    expect(given.hosts()).toEqual(['gateway', 'spare'])
  })

  it('is not made for calls with tools', async () => {
    const given = world({ gateway: [slow], spare: [chatAnswer('spare')] })
    const tools = [{ type: 'function' as const, function: { name: 'f' } }]
    const call = given.penstock.chat.completions.create(
      { model: 'small', messages: MESSAGES, tools },
      { hedgeAfterMs: 5, deadlineMs: 60 },
    )
    expect(await failureOf(call)).toMatchObject({ code: 'timeout' })
    expect(given.hosts()).toEqual(['gateway'])
  })

  it('leaves a failure of the one to the other', async () => {
    const given = world({ gateway: [slow], spare: [{ kind: 'json', status: 500, body: {} }] })
    const error = await failureOf(given.ask('small', { hedgeAfterMs: 5, deadlineMs: 60 }))
    expect(error.code).toBe('timeout')
  })
})

describe('options', () => {
  it.each([
    [{ gateway: { baseUrl: 'not a url', apiKey: 'x' } }],
    [{ gateway: { baseUrl: 'ftp://x', apiKey: 'x' } }],
    [{ gateway: { baseUrl: 'http://x?y=1', apiKey: 'x' } }],
  ])('that make no sense are refused at once: %j', (options) => {
    expect(() => new Penstock(options)).toThrow(PenstockError)
  })

  it('may name the version of the address or not', async () => {
    const fetch = scriptedFetch({ [GATEWAY]: [chatAnswer('x')] })
    const penstock = new Penstock({ gateway: { baseUrl: `${GATEWAY}/v1/`, apiKey: 'k' }, fetch })
    await penstock.chat.completions.create({ model: 'm', messages: MESSAGES })
    expect(fetch.seen[0]?.url).toBe(`${GATEWAY}/v1/chat/completions`)
  })
})
