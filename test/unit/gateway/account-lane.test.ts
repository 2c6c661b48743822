// What travels together to an account, in which order, and what becomes of it when a batch or its leader is lost.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { BATCH_CALLS_MAX } from '../../../gateway/account/account-core.ts'
import type { AccountCall, AccountReply, ReserveAsk, SettleEnd } from '../../../gateway/account/contract.ts'
import { LaneFull, type LanePorts, Lanes } from '../../../gateway/account/lane.ts'
import { NO_USAGE } from '../../../gateway/meter/usage.ts'

const LOST_AFTER_MS = 20

/** An account that answers when the test says so, and remembers what it was sent. */
function fakeAccount() {
  const batches: { ids: string[]; answer: () => void; fail: (error: Error) => void }[] = []
  const repliesTo = (calls: AccountCall[]): AccountReply[] =>
    calls.map((call) => {
      switch (call.kind) {
        case 'reserve':
          return { kind: 'reserve', result: { ok: true, value: { holdId: call.ask.requestId, heldNanoUsd: 1n } } }
        case 'checkpoint':
          return { kind: 'checkpoint' }
        case 'settle':
          return call.end.holdId.startsWith('bad')
            ? { kind: 'failed', error: `no hold ${call.end.holdId}` }
            : { kind: 'settle', settled: { costNanoUsd: BigInt(call.end.holdId.length), repeated: false } }
        default:
          return call satisfies never
      }
    })
  return {
    batches,
    get sent() {
      return batches.map(({ ids }) => ids)
    },
    stub: {
      batch: (calls: AccountCall[]) =>
        new Promise<AccountReply[]>((resolve, reject) => {
          batches.push({ ids: calls.map(idOf), answer: () => resolve(repliesTo(calls)), fail: reject })
        }),
    },
    /** Answers the batch of this number and lets everything that follows from it happen. */
    async answer(index: number) {
      batches[index]?.answer()
      await settled()
    },
    async fail(index: number, error: Error) {
      batches[index]?.fail(error)
      await settled()
    },
  }
}

const idOf = (call: AccountCall): string =>
  call.kind === 'reserve' ? call.ask.requestId : call.kind === 'settle' ? call.end.holdId : call.holdId

const settled = () => new Promise<void>((resolve) => setImmediate(resolve))
const later = async (ms: number) => {
  await vi.advanceTimersByTimeAsync(ms)
  await settled()
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
})
afterEach(() => {
  vi.useRealTimers()
})

function world(lostAfterMs = 60_000) {
  const account = fakeAccount()
  const lanes = new Lanes(lostAfterMs)
  const background: Promise<unknown>[] = []
  let stubs = 0
  const ports: LanePorts = {
    account: () => {
      stubs++
      return account.stub
    },
    waitUntil: (work) => background.push(work),
    nowMs: () => Date.now(),
  }
  const of = (orgId = 'org') => lanes.account(orgId, ports)
  return {
    account,
    background,
    of,
    get stubs() {
      return stubs
    },
    reserve: (requestId: string, orgId?: string) => of(orgId).reserve(ask(requestId)),
    settle: (holdId: string) => of().settle(end(holdId)),
  }
}

const ask = (requestId: string): ReserveAsk => ({
  requestId,
  attempt: 1,
  orgId: 'org',
  projectId: 'project',
  keyId: 'key',
  modelRequested: 'm',
  provider: 'fleet',
  modelServed: 'm',
  estimate: { inputTokens: 1, outputTokens: 1, calls: 0 },
  price: undefined,
  startedAtMs: 0,
  deadlineAtMs: 1,
  stream: false,
})

const end = (holdId: string): SettleEnd => ({
  holdId,
  usage: NO_USAGE,
  usageSource: 'provider',
  status: 'ok',
  endedAtMs: 0,
  charge: 'customer',
  final: true,
  httpStatus: 200,
})

describe('an idle lane', () => {
  it('sends a call at once and alone', async () => {
    const { account, reserve } = world()
    const answer = reserve('a')
    expect(account.sent).toEqual([['a']])
    await account.answer(0)
    expect(await answer).toMatchObject({ ok: true, value: { holdId: 'a' } })
  })

  it('is idle again after its last batch', async () => {
    const { account, reserve } = world()
    const first = reserve('a')
    await account.answer(0)
    await first
    const second = reserve('b')
    expect(account.sent).toEqual([['a'], ['b']])
    await account.answer(1)
    await second
  })
})

describe('calls that arrive while a batch is under way', () => {
  it('travel together in their order, and each gets its own answer', async () => {
    const { account, reserve, settle } = world()
    const answers = [reserve('a'), reserve('bb'), settle('ccc'), reserve('d')]
    expect(account.sent).toEqual([['a']])
    await account.answer(0)
    expect(account.sent).toEqual([['a'], ['bb', 'ccc', 'd']])
    await account.answer(1)
    expect(await Promise.all(answers)).toMatchObject([
      { value: { holdId: 'a' } },
      { value: { holdId: 'bb' } },
      { costNanoUsd: 3n },
      { value: { holdId: 'd' } },
    ])
    expect(account.sent).toHaveLength(2)
  })

  it('of another organisation do not wait', () => {
    const { account, reserve } = world()
    void reserve('a', 'one')
    void reserve('b', 'two')
    expect(account.sent).toEqual([['a'], ['b']])
  })

  it('fill batches up to their bound, the rest follows in the next', async () => {
    const { account, reserve } = world()
    const answers = Array.from({ length: BATCH_CALLS_MAX + 51 }, (_, index) => reserve(String(index)))
    await account.answer(0)
    await account.answer(1)
    await account.answer(2)
    await Promise.all(answers)
    expect(account.sent.map((ids) => ids.length)).toEqual([1, BATCH_CALLS_MAX, 50])
    expect(account.sent.flat()).toEqual(answers.map((_, index) => String(index)))
  })

  it('keep a checkpoint before the settle of the same hold', async () => {
    const { account, of, reserve, settle } = world()
    const first = reserve('a')
    const checkpoint = of().checkpoint('h', NO_USAGE)
    const settling = settle('h')
    await account.answer(0)
    await account.answer(1)
    await Promise.all([first, checkpoint, settling])
    expect(account.sent[1]).toEqual(['h', 'h'])
    expect(await settling).toEqual({ costNanoUsd: 1n, repeated: false })
  })

  it('keep their batch alive in the request that leads it', async () => {
    const { account, background, reserve } = world()
    const answers = [reserve('a'), reserve('b'), reserve('c')]
    expect(background).toHaveLength(1)
    await account.answer(0)
    expect(background).toHaveLength(2)
    await account.answer(1)
    await Promise.all([...answers, ...background])
  })

  it('are refused as reservations when too many wait, while a settle is still taken', async () => {
    const { reserve, settle } = world()
    const waiting = Array.from({ length: 2001 }, (_, index) => reserve(String(index)))
    for (const one of waiting) void one.catch(() => {})
    await expect(reserve('one more')).rejects.toThrow(LaneFull)
    expect(await Promise.race([settle('h').catch(() => 'refused'), settled().then(() => 'waits')])).toBe('waits')
  })
})

describe('a call that fails', () => {
  it('does not touch those beside it', async () => {
    const { account, reserve, settle } = world()
    const answers = [reserve('a'), settle('good'), settle('bad'), settle('fine')]
    void answers[2]?.catch(() => {})
    await account.answer(0)
    await account.answer(1)
    expect(await answers[1]).toEqual({ costNanoUsd: 4n, repeated: false })
    await expect(answers[2]).rejects.toThrow('no hold bad')
    expect(await answers[3]).toEqual({ costNanoUsd: 4n, repeated: false })
    expect(account.sent).toHaveLength(2)
  })
})

describe('a batch that fails as a whole', () => {
  it('makes each of its calls try once for itself, on a stub of its own, while the lane goes on', async () => {
    const w = world()
    const answers = [w.reserve('a'), w.reserve('b'), w.reserve('c')]
    await w.account.answer(0)
    const next = w.reserve('d')
    await w.account.fail(1, new Error('broken stub'))
    expect(
      w.account.sent
        .slice(2)
        .map((ids) => ids.join())
        .sort(),
    ).toEqual(['b', 'c', 'd'])
    expect(w.stubs).toBe(5)
    for (const index of [2, 3, 4]) await w.account.answer(index)
    expect((await Promise.all([...answers, next])).every(({ ok }) => ok)).toBe(true)
  })

  it('tells each the error where its own try fails too', async () => {
    const { account, reserve } = world()
    const answer = reserve('a')
    void answer.catch(() => {})
    await account.fail(0, new Error('object reset'))
    await account.fail(1, new Error('still down'))
    await expect(answer).rejects.toThrow('still down')
    expect(account.sent).toHaveLength(2)
  })

  it('is not tried again one by one where the object has too much to do already', async () => {
    const { account, reserve } = world()
    const answers = [reserve('a'), reserve('b'), reserve('c')]
    for (const one of answers) void one.catch(() => {})
    await account.answer(0)
    await account.fail(1, Object.assign(new Error('Durable Object is overloaded'), { overloaded: true }))
    await expect(answers[1]).rejects.toThrow('overloaded')
    await expect(answers[2]).rejects.toThrow('overloaded')
    expect(account.sent).toHaveLength(2)
  })
})

describe('a leader that dies', () => {
  it('does not strand the calls it took along: they go again by themselves', async () => {
    const { account, reserve } = world(LOST_AFTER_MS)
    const first = reserve('a')
    const taken = [reserve('b'), reserve('c'), reserve('d')]
    await account.answer(0)
    expect(account.sent[1]).toEqual(['b', 'c', 'd'])
    // The batch of b never answers. c and d are its passengers.
    await later(LOST_AFTER_MS)
    expect(
      account.sent
        .slice(2)
        .map((ids) => ids.join())
        .sort(),
    ).toEqual(['c', 'd'])
    await account.answer(2)
    await account.answer(3)
    expect(await Promise.all([first, taken[1], taken[2]])).toMatchObject([{ ok: true }, { ok: true }, { ok: true }])
  })

  it('does not strand the calls that wait behind its batch: one of them leads the others', async () => {
    const { account, reserve } = world(LOST_AFTER_MS)
    void reserve('dead').catch(() => {})
    const waiting = [reserve('b'), reserve('c'), reserve('d')]
    await later(LOST_AFTER_MS)
    expect(account.sent[1]).toEqual(['b', 'c', 'd'])
    await account.answer(1)
    expect((await Promise.all(waiting)).every(({ ok }) => ok)).toBe(true)
    expect(account.sent).toHaveLength(2)
  })

  it('gives way to the next call that comes', async () => {
    const { account, reserve } = world(LOST_AFTER_MS)
    void reserve('dead').catch(() => {})
    await later(LOST_AFTER_MS + 5)
    const answer = reserve('b')
    expect(account.sent).toEqual([['dead'], ['b']])
    await account.answer(1)
    expect(await answer).toMatchObject({ ok: true })
  })

  it('changes nothing for its successors when its batch lands after all', async () => {
    const { account, reserve } = world(LOST_AFTER_MS)
    const late = reserve('late')
    await later(LOST_AFTER_MS + 5)
    const second = reserve('b')
    const third = reserve('c')
    await account.answer(0)
    expect(await late).toMatchObject({ value: { holdId: 'late' } })
    // The lane still waits for the batch of b, and c with it.
    expect(account.sent).toEqual([['late'], ['b']])
    await account.answer(1)
    await account.answer(2)
    expect(await second).toMatchObject({ value: { holdId: 'b' } })
    expect(await third).toMatchObject({ value: { holdId: 'c' } })
  })
})

describe('a slow account', () => {
  it('keeps a long queue in line: nobody jumps it while batches come back', async () => {
    const { account, reserve } = world(LOST_AFTER_MS)
    const answers = Array.from({ length: 3 * BATCH_CALLS_MAX }, (_, index) => reserve(String(index)))
    for (let index = 0; index < 4; index++) {
      await later(LOST_AFTER_MS / 2)
      await account.answer(index)
    }
    await Promise.all(answers)
    expect(account.sent.map((ids) => ids.length)).toEqual([1, BATCH_CALLS_MAX, BATCH_CALLS_MAX, BATCH_CALLS_MAX - 1])
  })
})
