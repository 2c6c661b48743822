// A Worker in front of accounts, without the rest of the gateway: holds and settles on command, through the lane or one
// call each. Owns the commands; who sends them and what the figures mean is bench/gateway.
//
//   GET /health
//   GET /nothing                       answers at once: what the way to the Worker costs
//   GET /rules?org=1                   the limits of a usual organisation, on money, requests and concurrency
//   GET /pair?org=1&way=lane           one hold and its settle
//   GET /held?org=1&way=lane           one hold; its settle follows behind the answer
//   GET /abandon?org=1&slowMs=500      a pair whose batches take their time, and which end with the client's connection
//   GET /work?org=1&way=lane&loops=8&ms=2000   pairs one after the other in each loop, until the time is over
//   GET /work?way=ping|write&…         the same of calls to an object that does nothing, or writes one row
//   GET /state?org=1                   open holds, outbox, and the batches that went to this account so far
//   GET /flush?org=1                   tries to empty the outbox
import { Account } from '../../gateway/account/account.ts'
import type { AccountCall, AccountReply, ReserveAsk, SettleEnd } from '../../gateway/account/contract.ts'
import { type AccountCalls, Lanes } from '../../gateway/account/lane.ts'
import type { RuleBook } from '../../gateway/account/limit.ts'
import { DatabasePool } from '../../gateway/db/pool.ts'
import { NO_USAGE } from '../../gateway/meter/usage.ts'
import { Bare } from './bare.ts'

export { Account, Bare, DatabasePool }

type Env = { ACCOUNT: DurableObjectNamespace<Account>; BARE: DurableObjectNamespace<Bare> }

const DEADLINE_MS = 60_000
const ROW_TEXT = 'x'.repeat(200)

const lanes = new Lanes()
const batches = new Map<string, { calls: number; batches: number }>()

export default {
  async fetch(request: Request, env: Env, ctx: ExecutionContext): Promise<Response> {
    const url = new URL(request.url)
    const { searchParams: query } = url
    const orgId = orgIdOf(Number(query.get('org') ?? '1'))
    const account = () => env.ACCOUNT.getByName(orgId)
    const waitUntil = (work: Promise<unknown>) => ctx.waitUntil(work)
    switch (url.pathname) {
      case '/health':
      case '/nothing':
        return new Response('ok')
      case '/pair':
        return Response.json(await pair(callsOf(query, orgId, env, waitUntil), orgId))
      case '/held': {
        const calls = callsOf(query, orgId, env, waitUntil)
        const reserved = await calls.reserve(askOf(orgId))
        if (!reserved.ok) return Response.json(reserved.error.reason, { status: 429 })
        waitUntil(calls.settle(endOf(reserved.value.holdId)))
        return new Response('ok')
      }
      case '/abandon':
        await pair(
          callsOf(query, orgId, env, () => {}),
          orgId,
        )
        return new Response('ok')
      case '/work':
        return Response.json(await work(query, orgId, env, waitUntil))
      case '/rules':
        await account().setRules(rulesOf(orgId))
        return new Response('ok')
      case '/state': {
        const { openHolds, outboxRows } = await account().inspect()
        const sent = batches.get(orgId) ?? { calls: 0, batches: 0 }
        return Response.json({ openHolds: openHolds.length, outboxRows, ...sent })
      }
      case '/flush':
        return Response.json(await account().flush())
      default:
        return new Response('no such command', { status: 404 })
    }
  },
}

const orgIdOf = (number: number): string => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`
const PROJECT_ID = '00000000-0000-4000-8000-00000000aaaa'
const KEY_ID = '00000000-0000-4000-8000-00000000bbbb'
const PRICE_VERSION_ID = '00000000-0000-4000-8000-00000000cccc'

/** None of these is ever reached; all of them are checked and counted with every hold. */
function rulesOf(orgId: string): RuleBook {
  const utc = { timeZone: 'UTC', hard: true }
  const limitId = (digit: number) => orgIdOf(9000 + digit)
  const maxNanoUsd = 1_000_000_000_000_000n
  return {
    version: 1,
    limits: [
      { ...utc, limitId: limitId(1), scope: 'org', scopeId: orgId, meter: 'money', window: 'month', maxNanoUsd },
      { ...utc, limitId: limitId(2), scope: 'key', scopeId: KEY_ID, meter: 'money', window: 'lifetime', maxNanoUsd },
      { ...utc, limitId: limitId(3), scope: 'key', scopeId: KEY_ID, meter: 'requests', window: 'minute', max: 1e9 },
      { hard: true, limitId: limitId(4), scope: 'project', scopeId: PROJECT_ID, meter: 'concurrency', max: 1e6 },
    ],
  }
}

function askOf(orgId: string): ReserveAsk {
  const startedAtMs = Date.now()
  return {
    requestId: crypto.randomUUID(),
    attempt: 1,
    orgId,
    projectId: PROJECT_ID,
    keyId: KEY_ID,
    modelRequested: 'bench',
    provider: 'fleet',
    modelServed: 'bench',
    estimate: { inputTokens: 1000, outputTokens: 500, calls: 0 },
    price: { priceVersionId: PRICE_VERSION_ID, perMillion: { inputUncached: 1_000_000n, outputText: 2_000_000n } },
    startedAtMs,
    deadlineAtMs: startedAtMs + DEADLINE_MS,
    stream: true,
  }
}

function endOf(holdId: string): SettleEnd {
  const endedAtMs = Date.now()
  return {
    holdId,
    usage: { ...NO_USAGE, inputUncached: 800, outputText: 200 },
    usageSource: 'provider',
    status: 'ok',
    firstTokenAtMs: endedAtMs,
    endedAtMs,
    charge: 'customer',
    final: true,
    httpStatus: 200,
  }
}

/** The account through the lane, or with one call each. Either way what reaches it is counted. */
function callsOf(
  query: URLSearchParams,
  orgId: string,
  env: Env,
  waitUntil: (work: Promise<unknown>) => void,
): AccountCalls {
  const stub = () => env.ACCOUNT.getByName(orgId)
  const count = (calls: number) => {
    const sent = batches.get(orgId) ?? { calls: 0, batches: 0 }
    batches.set(orgId, { calls: sent.calls + calls, batches: sent.batches + 1 })
  }
  if (query.get('way') === 'direct')
    return {
      reserve: (ask) => {
        count(1)
        return stub().reserve(ask)
      },
      checkpoint: (holdId, usage) => stub().checkpoint(holdId, usage),
      settle: (end) => {
        count(1)
        return stub().settle(end)
      },
    }
  const slowMs = Number(query.get('slowMs') ?? '0')
  const account = () => ({
    batch: async (calls: AccountCall[]): Promise<AccountReply[]> => {
      if (slowMs > 0) await scheduler.wait(slowMs)
      count(calls.length)
      return stub().batch(calls)
    },
  })
  return lanes.account(orgId, { account, waitUntil, nowMs: () => Date.now() })
}

async function pair(account: AccountCalls, orgId: string): Promise<{ settled: boolean; reason?: string }> {
  const reserved = await account.reserve(askOf(orgId))
  if (!reserved.ok) return { settled: false, reason: reserved.error.reason }
  await pause()
  const { repeated } = await account.settle(endOf(reserved.value.holdId))
  return { settled: !repeated }
}

/**
 * To the operating system and back, as a request goes for its upstream and its client. The event loop looks there only
 * when nothing else is ready, so loops of calls within the process alone would keep everyone else from being served.
 */
const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0))

/** How many were done in the time, and how many were refused or failed. */
async function work(
  query: URLSearchParams,
  orgId: string,
  env: Env,
  waitUntil: (work: Promise<unknown>) => void,
): Promise<{ done: number; failed: number; reason: string | undefined }> {
  const untilMs = Date.now() + Number(query.get('ms') ?? '1000')
  const way = query.get('way')
  const bare = () => env.BARE.getByName(orgId)
  const calls = callsOf(query, orgId, env, waitUntil)
  let [done, failed] = [0, 0]
  let reason: string | undefined
  const once = async (): Promise<boolean> => {
    if (way === 'ping') return (await bare().ping()) >= 0
    if (way === 'write') return (await bare().write(ROW_TEXT)) > 0
    const result = await pair(calls, orgId)
    reason ??= result.reason
    return result.settled
  }
  const loop = async () => {
    while (Date.now() < untilMs) {
      const ok = await once().catch((error: unknown) => {
        reason ??= String(error)
        return false
      })
      if (ok) done++
      else failed++
      await pause()
    }
  }
  await Promise.all(Array.from({ length: Number(query.get('loops') ?? '1') }, loop))
  return { done, failed, reason }
}
