// How long the dashboard's questions take with a month of a million requests behind them: a real Postgres with the real migrations,
// rows made up in SQL, rolled up by the product's own code, each question asked through the product's own functions. Owns the run
// and its table. `npm run bench:dashboard -- --requests 1000000 --keep FOLDER`
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import postgres from 'postgres'
import type { Database, SqlResult, Statement } from '../../gateway/db/port.ts'
import { rollUp } from '../../gateway/ledger/rollups.ts'
import { migrate } from '../../migrations/migrate.ts'
import { startPostgres } from '../../scripts/postgres.ts'
import { questions } from './questions.ts'
import { ORG_ID, seed } from './seed.ts'

const { values } = parseArgs({
  options: { requests: { type: 'string', default: '1000000' }, keep: { type: 'string' } },
})
const requests = Number(values.requests)
const REPEATS = 5
const TARGET_MS = 300
/** The end of the month that is asked about: fixed, so that every run asks for the same. */
const UNTIL_MS = Date.UTC(2026, 10, 22)

const dataDir = values.keep ?? join(tmpdir(), `penstock-bench-dashboard-${process.pid}`)
const isNew = !existsSync(dataDir)
await mkdir(dataDir, { recursive: true })
const server = await startPostgres({ dataDir })
const sql = postgres(server.url, {
  max: 4,
  onnotice: () => {},
  types: {
    timestamptz: {
      to: 1184,
      from: [1184],
      serialize: (text: string) => text,
      parse: (text: string) => new Date(text).toISOString(),
    },
    date: { to: 1082, from: [1082], serialize: (text: string) => text, parse: (text: string) => text },
  },
})

const rows = async (on: Pick<typeof sql, 'unsafe'>, { text, params }: Statement): Promise<SqlResult> => {
  const result = await on.unsafe(text, params, { prepare: true }).values()
  return { rows: Array.from(result, (row) => [...row]), count: result.count ?? 0 }
}
const database: Database = {
  run: (statement) => rows(sql, statement),
  batch: async (statements) => sql.begin((one) => Promise.all(statements.map((statement) => rows(one, statement)))),
}

/**
 * Processor time of the database and of this process, in ms: what a question costs, also on a machine that is busy with other things.
 * @returns undefined where there is no /proc
 */
function cpuMs(): number | undefined {
  try {
    const times = readdirSync('/proc').flatMap((pid) => {
      if (!/^\d+$/.test(pid)) return []
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      // Of the server its ended children, of each of its children their own; in hundredths of a second.
      if (Number(pid) === server.pid) return [Number(fields[13]) + Number(fields[14])]
      return Number(fields[1]) === server.pid ? [Number(fields[11]) + Number(fields[12])] : []
    })
    const own = process.cpuUsage()
    return times.reduce((sum, one) => sum + one, 0) * 10 + (own.user + own.system) / 1_000
  } catch {
    return undefined
  }
}

const seconds = (sinceMs: number) => `${((performance.now() - sinceMs) / 1000).toFixed(1)} s`

try {
  if (isNew) {
    await migrate(server.url)
    const seedingMs = performance.now()
    await seed(sql, requests, UNTIL_MS)
    console.log(`${requests} requests written in ${seconds(seedingMs)}`)
  }
  const rollingMs = performance.now()
  let buckets = 0
  for (;;) {
    const rolled = await rollUp(database, ORG_ID, 100, UNTIL_MS + 2 * 86_400_000)
    buckets += rolled.buckets
    if (!rolled.left) break
  }
  if (buckets > 0 || performance.now() - rollingMs > 1_000) {
    console.log(`${buckets} quarter hours rolled up, hours and days made, in ${seconds(rollingMs)}`)
    await sql.unsafe('VACUUM ANALYZE')
  }
  for (const table of [
    'usage_attempts',
    'usage_requests',
    'usage_rollups',
    'rollup_latencies',
    'usage_cubes',
    'cube_latencies',
  ]) {
    const [size] = await sql.unsafe(
      `SELECT count(*)::int AS rows, pg_size_pretty(pg_total_relation_size('${table}')) AS size FROM ${table}`,
    )
    console.log(`${table.padEnd(18)} ${String(size?.rows).padStart(9)} rows ${size?.size}`)
  }
  let slow = 0
  for (const [name, ask] of questions(database, ORG_ID, UNTIL_MS)) {
    const times: number[] = []
    const before = cpuMs()
    for (let repeat = 0; repeat < REPEATS; repeat++) {
      const startedMs = performance.now()
      await ask()
      times.push(performance.now() - startedMs)
    }
    const [first = 0] = times
    const after = cpuMs()
    const cpu =
      before === undefined || after === undefined
        ? ''
        : `  cpu ${((after - before) / REPEATS).toFixed(0).padStart(5)} ms`
    times.sort((a, b) => a - b)
    const median = times[Math.floor(REPEATS / 2)] ?? 0
    if (median > TARGET_MS) slow++
    const mark = median > TARGET_MS ? '  over' : ''
    console.log(
      `${name.padEnd(64)} median ${median.toFixed(0).padStart(5)} ms  first ${first.toFixed(0).padStart(5)} ms${cpu}${mark}`,
    )
  }
  console.log(slow === 0 ? `all within ${TARGET_MS} ms` : `${slow} over ${TARGET_MS} ms`)
  if (slow > 0) process.exitCode = 1
} finally {
  await sql.end()
  await server.stop()
  if (values.keep === undefined) await rm(dataDir, { recursive: true, force: true })
}
