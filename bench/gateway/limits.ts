// What the machine itself can do, in the same minutes: the ceilings that the gateway's figures are held against. Owns
// the durable writes of the disk and the rows that Postgres takes in its quickest way.
import { closeSync, fdatasyncSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { GatewayStack } from './stack.ts'

/** A page of SQLite. */
const WRITE_BYTES = 4096
/** The file is written over and over, as a write-ahead log is. */
const FILE_WRITES = 256

/** Durable writes per second, one after the other, in the folder that holds the objects' files. */
export function durableWritesPerSecond(dir: string, ms: number): number {
  const path = join(dir, 'durable-writes')
  const file = openSync(path, 'w')
  const page = Buffer.alloc(WRITE_BYTES, 1)
  let writes = 0
  const startMs = performance.now()
  try {
    while (performance.now() - startMs < ms) {
      writeSync(file, page, 0, WRITE_BYTES, (writes % FILE_WRITES) * WRITE_BYTES)
      fdatasyncSync(file)
      writes++
    }
    return (1000 * writes) / (performance.now() - startMs)
  } finally {
    closeSync(file)
    rmSync(path)
  }
}

/** Rows per second of COPY into a table with the columns and indexes of the attempts, in one transaction. */
export async function copiedRowsPerSecond({ sql }: GatewayStack): Promise<number> {
  const parts: Buffer[] = []
  for await (const part of await sql`COPY usage_attempts TO STDOUT`.readable()) parts.push(part)
  const rows = parts.reduce((sum, part) => sum + part.filter((byte) => byte === 0x0a).length, 0)
  await sql`CREATE TABLE bench_copy (LIKE usage_attempts INCLUDING ALL)`
  try {
    const startMs = performance.now()
    await pipeline(parts, await sql`COPY bench_copy FROM STDIN`.writable())
    return (1000 * rows) / (performance.now() - startMs)
  } finally {
    await sql`DROP TABLE bench_copy`
  }
}
