// The account's figures: holds and settles per second, rows into Postgres, and the time that both add to a request. Owns
// the work of one round; every figure comes from the bench Worker under `workerd serve`, the ceilings from limits.ts.
import { Agent, request as httpRequest } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Driver, Way } from './driver.ts'
import { copiedRowsPerSecond, durableWritesPerSecond } from './limits.ts'
import { quantile } from './statistics.ts'

export type Latency = { p50Ms: number; p99Ms: number }

/** One round; rates are per second. */
export type AccountRound = {
  durableWrites: number
  copiedRows: number
  /** Calls to one object that does nothing, or writes one row. */
  pings: number
  writes: number
  /** A hold and its settle: one organisation, and sixteen. */
  oneByLane: number
  oneDirect: number
  manyByLane: number
  manyDirect: number
  /** Calls that travelled together, on average, with one organisation. */
  callsPerBatch: number
  /** Rows of all tables, while nothing else runs. */
  outboxOne: number
  outboxMany: number
  /** Time that a request takes more than one that asks for nothing. Idle: nobody else asks. */
  idle: Added
  /** With LOAD_CONTEXTS others at work for the same organisation. */
  busyByLane: Added
  busyDirect: Added
}

/** `held`: the request waits for its hold, and its settle follows behind. `pair`: it waits for both. */
export type Added = { held: Latency; pair: Latency }

export const MANY = 16
/** Requests at a time. */
export const CONTEXTS = 256
export const LOAD_CONTEXTS = 64
const SETTLE_POLL_MS = 20
/** What waits when Postgres comes back: several full batches also where sixteen outboxes share it. */
const BACKLOG_PAIRS = 6_000
const FILL_TURNS_MAX = 10
/** One organisation more, whose only row shows that Postgres is back. */
const HERALD = MANY + 1
/** Longer than every backlog of a round takes on a slow machine. */
const DRAIN_MAX_MS = 120_000
const DURABLE_WRITES_MS = 1_000

export type RoundOptions = { workMs: number; samples: number }

/** Sets every organisation's limits and makes its counters known, which only the first request pays. */
export async function prepare(driver: Driver): Promise<void> {
  for (const org of organisations(HERALD)) {
    await driver.command('/rules', { org })
    await driver.command('/pair', { org })
  }
}

/** @throws Error where a call failed: figures of a system that refuses work are none */
export async function measureAccounts(driver: Driver, options: RoundOptions): Promise<AccountRound> {
  const one = organisations(1)
  const many = organisations(MANY)
  const { workMs } = options
  const rate = async (way: Way, orgs: number[]): Promise<number> => {
    const startMs = performance.now()
    const { done, failed, reason } = await driver.work(way, { orgs, contexts: CONTEXTS, loops: 1, ms: workMs })
    const perSecond = (1000 * done) / (performance.now() - startMs)
    if (failed > 0) throw new Error(`${failed} of ${done + failed} (${way}) failed: ${reason}`)
    await drained(driver, orgs)
    return perSecond
  }
  const durableWrites = durableWritesPerSecond(driver.stack.folder.objectsDir, DURABLE_WRITES_MS)
  const pings = await rate('ping', one)
  const writes = await rate('write', one)
  const before = await driver.state(1)
  const oneByLane = await rate('lane', one)
  const after = await driver.state(1)
  return {
    durableWrites,
    pings,
    writes,
    oneByLane,
    oneDirect: await rate('direct', one),
    manyByLane: await rate('lane', many),
    manyDirect: await rate('direct', many),
    callsPerBatch: (after.calls - before.calls) / Math.max(1, after.batches - before.batches),
    outboxOne: await outboxRate(driver, one, workMs),
    outboxMany: await outboxRate(driver, many, workMs),
    copiedRows: await copiedRowsPerSecond(driver.stack),
    idle: await addedTime(driver, 'lane', options.samples),
    busyByLane: await underLoad(driver, 'lane', options),
    busyDirect: await underLoad(driver, 'direct', options),
  }
}

const organisations = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1)

/** Waits until the outboxes are empty, asking each account to hurry. */
async function drained(driver: Driver, orgs: number[]): Promise<void> {
  const untilMs = performance.now() + DRAIN_MAX_MS
  await Promise.all(
    orgs.map(async (org) => {
      while ((await driver.command<{ outboxRows: number }>('/flush', { org })).outboxRows > 0) {
        if (performance.now() > untilMs) throw new Error(`the outbox of organisation ${org} does not get empty`)
        await sleep(SETTLE_POLL_MS)
      }
    }),
  )
}

/** Fills outboxes while Postgres is away, then takes the time until they are empty. */
async function outboxRate(driver: Driver, orgs: number[], ms: number): Promise<number> {
  const { stack } = driver
  await stack.stopPostgres()
  try {
    let pairs = 0
    for (let turn = 0; turn < FILL_TURNS_MAX && pairs < BACKLOG_PAIRS; turn++) {
      pairs += (await driver.work('lane', { orgs, contexts: CONTEXTS, loops: 1, ms })).done
    }
    await driver.command('/pair', { org: HERALD })
  } finally {
    await stack.startPostgres()
  }
  // Opens the pool's connections again, which is no part of what is measured.
  await drained(driver, [HERALD])
  const before = await recordedRows(driver)
  const startMs = performance.now()
  await drained(driver, orgs)
  const elapsedMs = performance.now() - startMs
  return (1000 * ((await recordedRows(driver)) - before)) / elapsedMs
}

async function recordedRows({ stack: { sql } }: Driver): Promise<number> {
  const [row] = await sql`
    SELECT (SELECT count(*) FROM usage_attempts) + (SELECT count(*) FROM usage_requests)
      + (SELECT count(*) FROM ledger_entries) AS count`
  return Number(row?.count)
}

async function underLoad(driver: Driver, way: Way, { samples }: RoundOptions): Promise<Added> {
  // Long enough for all samples; what is left of it is waited for.
  const load = driver.work(way, { orgs: [1], contexts: LOAD_CONTEXTS, loops: 1, ms: LOAD_MS })
  await sleep(LOAD_LEAD_MS)
  const added = await addedTime(driver, way, Math.ceil(samples / BUSY_SAMPLES_SHARE), LOAD_MS - 2 * LOAD_LEAD_MS)
  await load
  await drained(driver, [1])
  return added
}

const LOAD_MS = 8_000
const LOAD_LEAD_MS = 500
/** Each sample takes several times longer than on an idle machine. */
const BUSY_SAMPLES_SHARE = 2

/** The three kinds of request in turn, over one connection. */
async function addedTime(driver: Driver, way: Way, samples: number, msMax = Number.POSITIVE_INFINITY): Promise<Added> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const times = { nothing: [] as number[], held: [] as number[], pair: [] as number[] }
  const untilMs = performance.now() + msMax
  try {
    for (let sample = 0; sample < samples && performance.now() < untilMs; sample++) {
      for (const kind of ['nothing', 'held', 'pair'] as const) {
        times[kind].push(await timeOf(`${driver.stack.baseUrl}/${kind}?org=1&way=${way}`, agent))
      }
    }
  } finally {
    agent.destroy()
  }
  // Against the one taken just before, so that what slows all of them down for a while counts for none.
  const added = (kind: 'held' | 'pair'): Latency => {
    const differences = times[kind].map((ms, sample) => ms - (times.nothing[sample] ?? Number.NaN))
    return { p50Ms: quantile(differences, 0.5), p99Ms: quantile(differences, 0.99) }
  }
  return { held: added('held'), pair: added('pair') }
}

function timeOf(url: string, agent: Agent): Promise<number> {
  return new Promise((resolve, reject) => {
    const startMs = performance.now()
    const request = httpRequest(url, { agent }, (response) => {
      if (response.statusCode !== 200) reject(new Error(`${url} answered ${response.statusCode}`))
      response.resume()
      response.on('end', () => resolve(performance.now() - startMs))
    })
    request.on('error', reject)
    request.end()
  })
}
