// Makes accounts inside workerd and drives them: asks with defaults, a clock a test holds, databases that fail on
// command. Each account is a new organisation: the tests of one run share a database.
import { env, runInDurableObject } from 'cloudflare:test'
import type { Account } from '../../../gateway/account/account.ts'
import type { ReserveAsk, SettleEnd } from '../../../gateway/account/contract.ts'
import type { LimitRule } from '../../../gateway/account/limit.ts'
import { connect } from '../../../gateway/db/connect.ts'
import { type Database, DatabaseUnavailable } from '../../../gateway/db/port.ts'
import { PostgresRecord } from '../../../gateway/ledger/postgres-record.ts'
import type { PriceQuote } from '../../../gateway/meter/price.ts'
import { NO_USAGE, type Usage } from '../../../gateway/meter/usage.ts'

/** One nano-dollar per input token, two per output token: costs are read off the tokens. */
export const PRICE: PriceQuote = {
  priceVersionId: '11111111-1111-4111-8111-111111111111',
  perMillion: { inputUncached: 1_000_000n, outputText: 2_000_000n },
}

export const used = (input: number, output: number): Usage => ({
  ...NO_USAGE,
  inputUncached: input,
  outputText: output,
})

export type TestAccount = ReturnType<typeof newAccount>

/** @param of A tenant that the admin API knows. Default: ids that nobody else has. */
export function newAccount(of: { orgId?: string; projectId?: string; keyId?: string } = {}) {
  const { orgId = crypto.randomUUID(), projectId = crypto.randomUUID(), keyId = crypto.randomUUID() } = of
  const stub = env.ACCOUNT.getByName(orgId)
  let version = 0
  return {
    orgId,
    projectId,
    keyId,
    stub,
    /** A first attempt of a new request, worth 100 + 2 · 450 = 1,000 nano-dollars at most. */
    ask(change: Partial<ReserveAsk> = {}): ReserveAsk {
      const startedAtMs = change.startedAtMs ?? Date.now()
      return {
        requestId: crypto.randomUUID(),
        attempt: 1,
        orgId,
        projectId,
        keyId,
        modelRequested: 'small',
        provider: 'fleet',
        modelServed: 'smollm2',
        estimate: { inputTokens: 100, outputTokens: 450, calls: 0 },
        price: PRICE,
        startedAtMs,
        deadlineAtMs: startedAtMs + 600_000,
        stream: true,
        ...change,
      }
    },
    money(maxNanoUsd: bigint, window: 'day' | 'month' | 'lifetime' = 'lifetime'): LimitRule {
      const where = { limitId: crypto.randomUUID(), scope: 'org', scopeId: orgId, hard: true } as const
      return { ...where, meter: 'money', window, timeZone: 'UTC', maxNanoUsd }
    },
    requestLimit(max: number, window: 'minute' | 'hour' | 'day'): LimitRule {
      const where = { limitId: crypto.randomUUID(), scope: 'key', scopeId: keyId, hard: true } as const
      return { ...where, meter: 'requests', window, timeZone: 'UTC', max }
    },
    /** Puts limits in force in place of those before. */
    async setLimits(...limits: LimitRule[]) {
      version++
      await stub.setRules({ version, limits })
    },
    /** Calls the object from inside: an error that crosses RPC is also reported by the runtime as uncaught. */
    inside: <T>(call: (account: Account) => Promise<T>): Promise<T> => runInDurableObject(stub, call),
    /** Sets the object's clock; it runs no further by itself. */
    async setNow(nowMs: number) {
      await runInDurableObject(stub, (account: Account) => {
        account.now = () => nowMs
      })
    },
    async setDatabase(database: Database) {
      await runInDurableObject(stub, (account: Account) => {
        account.record = new PostgresRecord(database)
      })
    },
    /** Runs the alarm as if the given time had come. */
    async alarmAt(nowMs: number) {
      await runInDurableObject(stub, async (account: Account) => {
        account.now = () => nowMs
        await account.alarm()
      })
    },
    async attempts() {
      const { rows } = await connect(env).run({
        text: `SELECT request_id, attempt, kind, status, charge, usage_source, pricing, input_uncached, output_text,
            cost_nanousd FROM usage_attempts WHERE org_id = $1
          ORDER BY recorded_at, request_id, attempt, CASE kind WHEN 'attempt' THEN 0 WHEN 'reversal' THEN 1 ELSE 2 END`,
        params: [orgId],
      })
      return rows.map((row) => ({
        requestId: row[0],
        attempt: row[1],
        kind: row[2],
        status: row[3],
        charge: row[4],
        source: row[5],
        pricing: row[6],
        input: Number(row[7]),
        output: Number(row[8]),
        cost: BigInt(String(row[9])),
      }))
    },
    async requests() {
      const { rows } = await connect(env).run({
        text: `SELECT request_id, status, http_status, attempts, input_uncached, output_text, cost_nanousd, provider
          FROM usage_requests WHERE org_id = $1 ORDER BY recorded_at, request_id`,
        params: [orgId],
      })
      return rows.map((row) => ({
        requestId: row[0],
        status: row[1],
        httpStatus: row[2],
        attempts: row[3],
        input: Number(row[4]),
        output: Number(row[5]),
        cost: BigInt(String(row[6])),
        provider: row[7],
      }))
    },
    /** Balances by account name, of those that exist. */
    async balances(): Promise<Record<string, bigint>> {
      const { rows } = await connect(env).run({
        text: `SELECT a.name, sum(e.amount_nanousd)::text FROM ledger_entries e
          JOIN ledger_accounts a ON a.org_id = e.org_id AND a.account_id = e.account_id
          WHERE e.org_id = $1 GROUP BY a.name`,
        params: [orgId],
      })
      return Object.fromEntries(rows.map(([name, sum]) => [String(name), BigInt(String(sum))]))
    },
    /** Money charged so far as the account's own counters have it, where a lifetime limit counts it. */
    async charged(): Promise<bigint> {
      const { counters } = await stub.inspect()
      return counters
        .filter(({ series }) => series.startsWith('org|') && series.includes('|money|lifetime|'))
        .reduce((sum, { value }) => sum + value, 0n)
    },
  }
}

export function endOf(holdId: string, usage: Usage, change: Partial<SettleEnd> = {}): SettleEnd {
  return {
    holdId,
    usage,
    usageSource: 'provider',
    status: 'ok',
    endedAtMs: Date.now(),
    charge: 'customer',
    final: true,
    httpStatus: 200,
    ...change,
  }
}

/** Refuses every connection. */
export const deadDatabase: Database = {
  run: () => Promise.reject(new DatabaseUnavailable('test: down')),
  batch: () => Promise.reject(new DatabaseUnavailable('test: down')),
}

/** Commits, and loses the answer to each of the first `losses` transactions. */
export function forgetfulDatabase(losses: number): Database {
  const real = connect(env)
  let left = losses
  return {
    run: (statement) => real.run(statement),
    async batch(statements) {
      const results = await real.batch(statements)
      if (left-- > 0) throw new DatabaseUnavailable('test: connection lost after commit')
      return results
    },
  }
}

/** Waits for something that happens by itself. @throws Error naming it after 10 s. */
export async function eventually(what: string, check: () => Promise<boolean>): Promise<void> {
  const untilMs = Date.now() + 10_000
  while (!(await check())) {
    if (Date.now() > untilMs) throw new Error(`did not happen: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
