// Databases that fail in one chosen place, around the real one.
import { env } from 'cloudflare:test'
import { connect } from '../../../gateway/db/connect.ts'
import type { Database, Statement } from '../../../gateway/db/port.ts'

/** In each transaction, before its statement `at`, Postgres raises 40001, once. */
export function serialisationFailureAt(at: number): Database {
  const real = connect(env)
  return {
    run: (statement) => real.run(statement),
    async batch(statements) {
      const name = `fail_${crypto.randomUUID().replaceAll('-', '')}`
      await real.run({ text: `CREATE SEQUENCE ${name}`, params: [] })
      // A sequence keeps counting when its transaction is undone: the second try passes.
      const raise: Statement = {
        text: `DO $$ BEGIN IF nextval('${name}') = 1 THEN RAISE EXCEPTION 'test' USING ERRCODE = '40001'; END IF; END $$`,
        params: [],
      }
      const results = await real.batch([...statements.slice(0, at), raise, ...statements.slice(at)])
      const { rows } = await real.run({ text: `SELECT last_value FROM ${name}`, params: [] })
      if (rows[0]?.[0] !== '2') throw new Error('the failure did not happen once')
      return results.filter((_, index) => index !== at)
    },
  }
}

/** In each transaction, before its statement `at` (counted from the end where negative), waits in Postgres. */
export function pausingAt(at: number): { database: Database; paused(): Promise<boolean> } {
  const real = connect(env)
  const name = `pause ${crypto.randomUUID()}`
  const pause: Statement = { text: `SELECT pg_sleep(1) /* ${name} */`, params: [] }
  return {
    database: {
      run: (statement) => real.run(statement),
      async batch(statements) {
        const place = at < 0 ? statements.length + at : at
        const results = await real.batch([...statements.slice(0, place), pause, ...statements.slice(place)])
        return results.filter((_, index) => index !== place)
      },
    },
    /** Whether a transaction stands there now. */
    async paused() {
      const text = `SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%' || $1 || '%' AND pid <> pg_backend_pid()`
      return (await real.run({ text, params: [name] })).rows.length > 0
    },
  }
}
