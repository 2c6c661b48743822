// The types of the SDK, from a user's side: what is inferred, and that misuse does not compile. The functions of misuse are never
// called: `tsc -p test` is what fails where one of them compiles.
import { describe, expect, expectTypeOf, it } from 'vitest'
import { createPenstock } from '../../../sdk/src/ai-sdk.ts'
import {
  type ChatChunk,
  type ChatCompletion,
  type ClientOptions,
  type ErrorCode,
  type EventStream,
  type MessageObject,
  Penstock,
  type PenstockError,
  type ResponseEvent,
  type ResponseObject,
  type Restarted,
  type StreamInterruptedError,
  type Usage,
  type UsageRecord,
  type UsageReport,
} from '../../../sdk/src/index.ts'
import { penstockFetch } from '../../../sdk/src/openai.ts'

const gateway = { baseUrl: 'http://gateway.test', apiKey: 'psk_x' }
const penstock = new Penstock({ gateway })
const messages = [{ role: 'user' as const, content: 'Hi' }]

describe('what is inferred', () => {
  it('is a stream where one is asked for, and a whole answer elsewhere', () => {
    const chat = penstock.chat.completions.create
    expectTypeOf(() => chat({ model: 'm', messages })).returns.toEqualTypeOf<Promise<ChatCompletion>>()
    expectTypeOf(() => chat({ model: 'm', messages, stream: false })).returns.toEqualTypeOf<Promise<ChatCompletion>>()
    expectTypeOf(() => chat({ model: 'm', messages, stream: true })).returns.toEqualTypeOf<
      Promise<EventStream<ChatChunk>>
    >()
    expectTypeOf(() =>
      penstock.responses.create({ model: 'm', input: 'x', stream: true }),
    ).returns.resolves.toEqualTypeOf<EventStream<ResponseEvent | Restarted>>()
    expectTypeOf(() =>
      penstock.responses.create({ model: 'm', input: 'x' }),
    ).returns.resolves.toEqualTypeOf<ResponseObject>()
    expectTypeOf(() =>
      penstock.messages.create({ model: 'm', max_tokens: 1, messages }),
    ).returns.resolves.toEqualTypeOf<MessageObject>()
  })

  it('is a closed list of codes, and what a broken stream had', () => {
    expectTypeOf<PenstockError['code']>().toEqualTypeOf<ErrorCode>()
    expectTypeOf<StreamInterruptedError>().toExtend<PenstockError>()
    expectTypeOf<StreamInterruptedError['partial']['usage']>().toEqualTypeOf<Usage | undefined>()
    // @ts-expect-error no such code
    const code: ErrorCode = 'oops'
    expect(code).toBe('oops')
  })

  it('is a report without an error, in every entry', () => {
    expectTypeOf(penstock.flushUsage).returns.resolves.toEqualTypeOf<UsageReport>()
    expectTypeOf(penstock.pendingUsage).toEqualTypeOf<readonly UsageRecord[]>()
    expectTypeOf(penstockFetch({ gateway }).flushUsage).returns.resolves.toEqualTypeOf<UsageReport>()
    expectTypeOf(penstockFetch({ gateway })).toExtend<typeof fetch>()
    expectTypeOf(createPenstock({ gateway }).flushUsage).returns.resolves.toEqualTypeOf<UsageReport>()
  })
})

const misuse = [
  // @ts-expect-error a client needs a gateway
  () => new Penstock({}),
  // @ts-expect-error and its key
  () => new Penstock({ gateway: { baseUrl: 'http://gateway.test' } }),
  // @ts-expect-error a direct provider says which models it takes
  () => new Penstock({ gateway, direct: [{ name: 'spare', baseUrl: 'http://spare.test/v1', apiKey: 'k' }] }),
  // @ts-expect-error a misspelt option
  () => new Penstock({ gateway, deadlineMS: 5 }),
  // @ts-expect-error seconds as text
  () => new Penstock({ gateway, deadlineMs: '5s' }),
  // @ts-expect-error no such choice
  () => new Penstock({ gateway, afterContent: 'ignore' }),
  // @ts-expect-error a model is named
  () => penstock.chat.completions.create({ messages }),
  // @ts-expect-error no such role
  () => penstock.chat.completions.create({ model: 'm', messages: [{ role: 'robot', content: 'x' }] }),
  // @ts-expect-error a tool's answer says which call it answers
  () => penstock.chat.completions.create({ model: 'm', messages: [{ role: 'tool', content: 'x' }] }),
  // @ts-expect-error this dialect needs a bound
  () => penstock.messages.create({ model: 'm', messages }),
  // @ts-expect-error a price is decimal text
  () => penstock.chat.completions.create({ model: 'm', messages }, { hints: { maxPriceUsdPerMillion: 0.5 } }),
  // @ts-expect-error the client's own lists are not for changing
  () => penstock.pendingUsage.push(),
  // @ts-expect-error nor are its parts
  () => Object.assign(penstock, { chat: penstock.chat }).flushUsage(1),
  // @ts-expect-error a record without an id
  (): UsageRecord => ({ model: 'm', provider: 'p', started_at: '', ended_at: '', status: 'answered', usage: {} }),
  // @ts-expect-error a part that there is not
  (): UsageRecord['usage'] => ({ tokens: 5 }),
  // @ts-expect-error hooks take what they are told
  (): ClientOptions => ({ gateway, hooks: { onUsage: (usage: string) => usage } }),
  // @ts-expect-error a whole answer is not iterated
  async () => ({ ...(await penstock.chat.completions.create({ model: 'm', messages }))[Symbol.asyncIterator] }),
]

it('misuse does not compile', () => {
  expect(misuse.length).toBeGreaterThan(10)
})
