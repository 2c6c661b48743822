// Applies migrations/NNNN_noun.sql in order. Owns the record of what ran and the lock that keeps two runners apart;
// the files own the schema. Plain statements only, so that it works on every database the SQL works on.
import { createHash, randomUUID } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'

const FILE_NAME = /^\d{4}_[a-z_]+\.sql$/
/** A runner that died holds the lock at most this long. */
const LOCK_LEASE_MS = 60_000
const LOCK_WAIT_MS = 120_000

export type Migrated = { applied: string[]; total: number }

/**
 * Brings the database to the newest schema. Safe to run twice and from several processes: each statement is its own
 * transaction, recorded by file, step and checksum.
 * @throws Error naming file and step when a statement fails or when an applied file was changed since.
 */
export async function migrate(databaseUrl: string, dir: string = import.meta.dirname): Promise<Migrated> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} })
  const holder = randomUUID()
  try {
    await sql`CREATE TABLE IF NOT EXISTS schema_steps (
      name text NOT NULL, step int NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL,
      PRIMARY KEY (name, step))`
    await sql`CREATE TABLE IF NOT EXISTS schema_lock (
      id int PRIMARY KEY, holder text NOT NULL, expires_at timestamptz NOT NULL)`
    await lock(sql, holder)
    return await applyAll(sql, dir)
  } finally {
    await sql`DELETE FROM schema_lock WHERE holder = ${holder}`.catch(() => {})
    await sql.end()
  }
}

async function applyAll(sql: postgres.Sql, dir: string): Promise<Migrated> {
  const files = (await readdir(dir)).filter((name) => FILE_NAME.test(name)).sort()
  const rows = await sql<
    { name: string; step: number; checksum: string }[]
  >`SELECT name, step, checksum FROM schema_steps`
  const done = new Map(rows.map((row) => [`${row.name}#${row.step}`, row.checksum]))
  const applied: string[] = []
  for (const name of files) {
    const statements = splitStatements(await readFile(join(dir, name), 'utf8'))
    for (const [step, statement] of statements.entries()) {
      const checksum = createHash('sha256').update(statement).digest('hex')
      const known = done.get(`${name}#${step}`)
      if (known === checksum) continue
      if (known !== undefined)
        throw new Error(`${name} step ${step + 1} was changed after it was applied; add a new file`)
      await sql.unsafe(statement).catch((cause: unknown) => {
        throw new Error(`${name} step ${step + 1} failed: ${String(cause)}\n${statement}`, { cause })
      })
      await sql`INSERT INTO schema_steps (name, step, checksum, applied_at)
        VALUES (${name}, ${step}, ${checksum}, now()) ON CONFLICT DO NOTHING`
      applied.push(`${name}#${step + 1}`)
    }
  }
  return { applied, total: files.length }
}

async function lock(sql: postgres.Sql, holder: string): Promise<void> {
  const until = Date.now() + LOCK_WAIT_MS
  for (;;) {
    const leaseUntil = new Date(Date.now() + LOCK_LEASE_MS)
    const taken = await sql`INSERT INTO schema_lock (id, holder, expires_at) VALUES (1, ${holder}, ${leaseUntil})
      ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
      WHERE schema_lock.expires_at < now() RETURNING holder`
    if (taken.length > 0) return
    if (Date.now() > until)
      throw new Error('another migration has held the lock for too long; look at table schema_lock')
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

/** Statements end with a semicolon at the end of a line; comments above a statement belong to it. */
function splitStatements(text: string): string[] {
  const statements: string[] = []
  let lines: string[] = []
  for (const line of text.split('\n')) {
    lines.push(line)
    if (!line.trimStart().startsWith('--') && line.trimEnd().endsWith(';')) {
      statements.push(lines.join('\n').trim())
      lines = []
    }
  }
  const rest = lines.filter((line) => line.trim() !== '' && !line.trimStart().startsWith('--'))
  if (rest.length > 0) throw new Error(`a statement does not end with a semicolon:\n${rest.join('\n')}`)
  return statements
}

if (import.meta.main) {
  const url = process.env.DATABASE_URL
  if (url === undefined) throw new Error('set DATABASE_URL to the database to migrate')
  const { applied, total } = await migrate(url)
  console.log(
    applied.length === 0 ? `up to date (${total} files)` : `applied ${applied.length} steps: ${applied.join(', ')}`,
  )
}
