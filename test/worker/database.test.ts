// The database port in workerd against a real Postgres: values on the wire, transactions, constraints, dead servers.
import { env, runInDurableObject } from 'cloudflare:test'
import { expect, test } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { openDriver } from '../../gateway/db/driver.ts'
import { hyperdriveDatabase } from '../../gateway/db/hyperdrive.ts'
import { DatabasePool } from '../../gateway/db/pool.ts'
import { type Database, DatabaseUnavailable, QueryFailed, UNIQUE_VIOLATION } from '../../gateway/db/port.ts'
import { unwrapReply } from '../../gateway/db/reply.ts'

const url = String(env.DATABASE_URL)
/** Port 1 refuses at once. */
const DEAD_URL = 'postgres://nobody:nothing@127.0.0.1:1/none'

const adapters: [string, () => Database][] = [
  ['the pool', () => connect(env)],
  ['Hyperdrive', () => hyperdriveDatabase({ connectionString: url } as Hyperdrive)],
]

test.each(adapters)('%s carries every kind of value exactly, both ways', async (_, open) => {
  const { rows } = await open().run({
    text: `select $1::int8, $2::int8, $3::timestamptz, $4::timestamptz, $5::bool, $6::text, $7::int, $8::text,
             $9::bytea, sum(x)::text from (values (9223372036854775807::int8), (1)) as t (x)`,
    params: [
      '9223372036854775807',
      '-9223372036854775808',
      '2026-11-22T01:02:03.456Z',
      '1999-12-31T23:59:59.999999-05:30',
      false,
      'Grüße \u{1F30A} \'; drop table "x"; --',
      -7,
      null,
      new Uint8Array([0, 255, 10]),
    ],
  })
  expect(rows).toEqual([
    [
      '9223372036854775807',
      '-9223372036854775808',
      '2026-11-22T01:02:03.456Z',
      '2000-01-01T05:29:59.999999Z',
      false,
      'Grüße \u{1F30A} \'; drop table "x"; --',
      -7,
      null,
      expect.anything(),
      '9223372036854775808',
    ],
  ])
  expect(Array.from(rows.flat()[8] as Uint8Array)).toEqual([0, 255, 10])
})

test.each(adapters)('%s runs a batch in one transaction and reports what each statement touched', async (_, open) => {
  const database = open()
  const id = crypto.randomUUID()
  const insert = { text: INSERT_ORG, params: [id, `batch-${id}`] }
  const [inserted, read] = await database.batch([
    insert,
    { text: 'select slug from organisations where org_id = $1', params: [id] },
  ])
  expect(inserted?.count).toBe(1)
  expect(read?.rows).toEqual([[`batch-${id}`]])
})

test.each(adapters)(
  '%s rolls the whole batch back when one statement fails, and names the constraint',
  async (_, open) => {
    const database = open()
    const [first, second] = [crypto.randomUUID(), crypto.randomUUID()]
    const failed = await database
      .batch([
        { text: INSERT_ORG, params: [first, `rollback-${first}`] },
        { text: INSERT_ORG, params: [second, `rollback-${first}`] },
      ])
      .catch((error: unknown) => error)
    expect(failed).toBeInstanceOf(QueryFailed)
    expect(failed).toMatchObject({ sqlState: UNIQUE_VIOLATION, constraint: 'organisations_by_slug' })
    expect(String(failed)).not.toContain(first)
    const left = await database.run({
      text: 'select 1 from organisations where org_id in ($1, $2)',
      params: [first, second],
    })
    expect(left.rows).toEqual([])
    expect(left.count).toBe(0)
  },
)

test('one call runs one statement, even without parameters', async () => {
  const failed = await connect(env)
    .run({ text: 'select 1; select 2', params: [] })
    .catch((error: unknown) => error)
  expect(failed).toBeInstanceOf(QueryFailed)
})

test('rival transactions that deadlock both finish', async () => {
  const database = connect(env)
  const [a, b] = [crypto.randomUUID(), crypto.randomUUID()]
  for (const id of [a, b]) await database.run({ text: INSERT_ORG, params: [id, `deadlock-${id}`] })
  const touch = (id: string) => ({
    text: 'update organisations set name = name || $2 from (select pg_sleep(0.05)) as pause where org_id = $1',
    params: [id, 'x'],
  })
  await Promise.all([database.batch([touch(a), touch(b)]), database.batch([touch(b), touch(a)])])
  const { rows } = await database.run({
    text: 'select name from organisations where org_id in ($1, $2)',
    params: [a, b],
  })
  expect(rows).toEqual([['Namexx'], ['Namexx']])
})

/** Some for each connection; the last of them must not wait as long as a caller may. */
const CALLERS = 30

test('more callers than connections all get their own answer', async () => {
  const database = connect(env)
  const answers = await Promise.all(
    Array.from({ length: CALLERS }, (_, index) => database.run({ text: 'select $1::int', params: [index] })),
  )
  expect(answers.map(({ rows }) => rows[0]?.[0])).toEqual(Array.from({ length: CALLERS }, (_, index) => index))
})

test('the pool goes on after the server cut every connection', async () => {
  const database = connect(env)
  await database.run({ text: 'select 1', params: [] })
  const outside = openDriver(url, { connectionsMax: 1, idleTimeoutS: 1 })
  const { rows } = await outside.run({
    text: `select count(pg_terminate_backend(pid)) from pg_stat_activity
           where pid <> pg_backend_pid() and application_name = 'penstock' and state = 'idle'`,
    params: [],
  })
  expect(Number(rows[0]?.[0])).toBeGreaterThan(0)
  await outside.close()
  await expect.poll(() => database.run({ text: 'select 2', params: [] }).then(firstValue, () => 'failed')).toBe(2)
})

test('an unreachable server is DatabaseUnavailable through the pool, and its message holds no credential', async () => {
  const stub = env.DATABASE_POOL.getByName('dead')
  const failed = await runInDurableObject(stub, async (_, state) => {
    const dead = new DatabasePool(state, { ...env, DATABASE_URL: DEAD_URL })
    return unwrapReply(() => dead.run({ text: 'select 1', params: [] })).catch((error: unknown) => error)
  })
  expect(failed).toBeInstanceOf(DatabaseUnavailable)
  expect(String(failed)).not.toContain('nothing')
})

test.each([
  ['a wrong password', () => url.replace(/:[^:@/]+@/, ':wrong-password@')],
  ['a database that does not exist', () => url.replace(/penstock$/, 'nowhere')],
  ['a refused port', () => DEAD_URL],
])('%s is DatabaseUnavailable', async (_, address) => {
  const driver = openDriver(address(), { connectionsMax: 1, idleTimeoutS: 1 })
  const failed = await driver.run({ text: 'select 1', params: [] }).catch((error: unknown) => error)
  expect(failed).toBeInstanceOf(DatabaseUnavailable)
})

test('sslmode=prefer goes on in clear with a server that offers no TLS; sslmode=require refuses it', async () => {
  const ask = async (mode: string) => {
    const driver = openDriver(`${url}?sslmode=${mode}`, { connectionsMax: 1, idleTimeoutS: 1 })
    const answer = await driver.run({ text: 'select 4', params: [] }).then(firstValue, (error: unknown) => error)
    await driver.close()
    return answer
  }
  expect(await ask('prefer')).toBe(4)
  for (const mode of ['require', 'verify-full', 'no-such-mode']) {
    const refused = await ask(mode)
    expect(refused).toBeInstanceOf(DatabaseUnavailable)
    expect(String(refused)).toContain('TLS')
  }
})

test('a statement over the time limit is DatabaseUnavailable and its connection works on', async () => {
  const driver = openDriver(url, { connectionsMax: 1, idleTimeoutS: 1, statementTimeoutMs: 50 })
  const failed = await driver.run({ text: 'select pg_sleep(20)', params: [] }).catch((error: unknown) => error)
  expect(failed).toBeInstanceOf(DatabaseUnavailable)
  expect(firstValue(await driver.run({ text: 'select 3', params: [] }))).toBe(3)
  await driver.close()
})

const INSERT_ORG = `insert into organisations (org_id, slug, name, created_at) values ($1, $2, 'Name', now())`
const firstValue = ({ rows }: { rows: unknown[][] }) => rows[0]?.[0]
