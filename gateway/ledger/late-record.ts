// The system of record, for whoever asks it first. Owns loading what writes and reads it: its statements are made from the tables'
// definitions, and a cold start that serves a request from what is durable here does without.
import type { Database } from '../db/port.ts'
import { loadedOnce } from '../loaded-once.ts'
import type { AccountRecord } from './record.ts'

export function lateRecord(database: Database): AccountRecord {
  const record = loadedOnce(async () => new (await import('./postgres-record.ts')).PostgresRecord(database))
  return {
    write: async (entries) => (await record()).write(entries),
    readRules: async (orgId) => (await record()).readRules(orgId),
    sum: async (orgId, question) => (await record()).sum(orgId, question),
  }
}
