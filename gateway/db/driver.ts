// postgres.js behind the port. Owns the connection settings, the wire forms of values and the sorting of its errors
// into the port's two; pooling policy is pool.ts and hyperdrive.ts.
import postgres from 'postgres'
import { type Database, DatabaseUnavailable, QueryFailed, type SqlResult, type Statement } from './port.ts'
import { withRetry } from './retry.ts'
import { ConnectFailed, openSocket, type TlsMode } from './socket.ts'

export type DriverOptions = {
  connectionsMax: number
  /** Idle connections close after this; they would keep an object in memory. */
  idleTimeoutS: number
  /** Sent to the server at start-up; absent behind a pooler, which may refuse start-up parameters. */
  statementTimeoutMs?: number
}

export interface Driver extends Database {
  /** Drops every connection at once; what still runs ends in DatabaseUnavailable. */
  close(): Promise<void>
}

/** No connection could be made, so the next statement would fail the same way: the server as a whole is away. */
export class ServerUnreachable extends DatabaseUnavailable {}

const CONNECT_TIMEOUT_S = 2
/** Longest pause before a new connection is tried after a failed one: how fast a restarted database is found again. */
const RECONNECT_DELAY_MAX_S = 0.5
const MAX_LIFETIME_S = 1800

/**
 * SQLSTATE classes and codes with which Postgres says that it cannot work now, whatever the statement: connection
 * (08), authorisation at connect (28), no such database (3D), resources (53), operator intervention and time limits
 * (57), system error (58), a read-only standby, an unknown outcome of a commit.
 */
const UNAVAILABLE_STATE = /^(08|28|3D|53|57|58)|^(25006|40003)$/
const SERIALISATION_STATE = /^(40001|40P01)$/

/** Opens nothing yet: connections are made on the first statement. */
export function openDriver(url: string, options: DriverOptions): Driver {
  const { address, tls } = splitTlsMode(url)
  const settings = {
    // TLS is the socket's business; postgres.js sees plain bytes.
    ssl: false,
    socket: ({ host, port }: { host: string[]; port: number[] }) => openSocket(host[0] ?? '', port[0] ?? 5432, tls),
  }
  const sql = postgres(address, {
    ...settings,
    max: options.connectionsMax,
    connect_timeout: CONNECT_TIMEOUT_S,
    idle_timeout: options.idleTimeoutS,
    max_lifetime: MAX_LIFETIME_S,
    backoff: (retries: number) => Math.min(RECONNECT_DELAY_MAX_S, 0.05 * 2 ** Math.min(retries, 10)),
    fetch_types: false,
    prepare: true,
    onnotice: () => {},
    connection: {
      application_name: 'penstock',
      TimeZone: 'UTC',
      ...(options.statementTimeoutMs === undefined ? {} : { statement_timeout: options.statementTimeoutMs }),
    },
    types: {
      // Text both ways: a Date would drop Postgres' microseconds.
      date: { to: 1082, from: [1082, 1114], serialize: asText, parse: asText },
      timestamptz: { to: 1184, from: [1184], serialize: asText, parse: isoInstant },
    },
  })
  const query = async (on: Pick<typeof sql, 'unsafe'>, statement: Statement): Promise<SqlResult> => {
    // `simple: false`: one statement per call even without parameters, so that a second one cannot be smuggled in.
    const flags = { prepare: true, simple: false }
    const result = await on.unsafe(statement.text, statement.params, flags).values()
    return { rows: Array.from(result, (row) => [...row]), count: result.count ?? 0 }
  }
  return {
    run: (statement) => guarded(() => query(sql, statement)),
    batch: (statements) =>
      guarded(() =>
        // All are sent before the first answer is read: one transaction costs three round trips, not one per statement.
        sql.begin((transaction) => Promise.all(statements.map((statement) => query(transaction, statement)))),
      ),
    close: () => sql.end({ timeout: 0 }),
  }
}

/** The address without libpq's ssl parameters, and what they ask for. */
function splitTlsMode(url: string): { address: string; tls: TlsMode } {
  const parsed = new URL(url)
  const mode = parsed.searchParams.get('sslmode') ?? 'disable'
  for (const name of [...parsed.searchParams.keys()]) if (name.startsWith('ssl')) parsed.searchParams.delete(name)
  const tls = mode === 'disable' ? 'disable' : mode === 'prefer' || mode === 'allow' ? 'prefer' : 'require'
  return { address: parsed.href, tls }
}

async function guarded<T>(work: () => Promise<T>): Promise<T> {
  const sleep = (delayMs: number) => new Promise<void>((resolve) => setTimeout(resolve, delayMs))
  try {
    return await withRetry(work, { stateOf: stateOf, random: Math.random, sleep })
  } catch (error) {
    throw portError(error)
  }
}

function stateOf(error: unknown): string | undefined {
  return error instanceof postgres.PostgresError ? error.code : undefined
}

/** The port's error for one of the driver's. Messages only: `detail` and the statement can hold customers' values. */
function portError(error: unknown): DatabaseUnavailable | QueryFailed {
  const message = error instanceof Error ? error.message : String(error)
  const state = stateOf(error)
  if (error instanceof ConnectFailed || codeOf(error) === 'CONNECT_TIMEOUT') {
    return new ServerUnreachable(`cannot connect to Postgres: ${message}`)
  }
  if (state === undefined) return new DatabaseUnavailable(`the connection to Postgres broke: ${message}`)
  if (SERIALISATION_STATE.test(state)) return new DatabaseUnavailable(`Postgres is too contended (${state})`)
  if (UNAVAILABLE_STATE.test(state)) return new DatabaseUnavailable(`Postgres refuses work: ${message} (${state})`)
  const constraint = error instanceof postgres.PostgresError ? error.constraint_name : undefined
  return new QueryFailed(message, state, constraint)
}

/** postgres.js' own errors have a word in `code`. */
function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

function asText(value: unknown): string {
  return String(value)
}

/**
 * `2026-11-22 01:02:03.4+00`, as a connection in UTC prints it, in the form of JavaScript's toISOString: milliseconds
 * always, microseconds where there are any. So an instant that our own code wrote comes back as the same text.
 */
function isoInstant(text: string): string {
  const parts = /^(\d+-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00$/.exec(text)
  // `infinity` and years before Christ have no ISO form; no column of ours holds them.
  if (parts === null) return text
  const [, date = '', time = '', fraction = ''] = parts
  return `${date}T${time}.${fraction.padEnd(fraction.length > 3 ? 6 : 3, '0')}Z`
}
