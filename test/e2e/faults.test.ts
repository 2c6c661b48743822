// Parts that die while a request is under way: what the client sees, what is billed, and that the next request works.

import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { migrate } from '../../migrations/migrate.ts'
import { type PostgresServer, startPostgres } from '../../scripts/postgres.ts'
import { readEvents, System, TINY_MODEL } from './support/system.ts'

let postgresDir: string
let postgres: PostgresServer
let system: System
beforeAll(async () => {
  // A database of our own making, so that it can be stopped without the launcher starting it again.
  postgresDir = await mkdtemp(join(tmpdir(), 'penstock-faults-'))
  postgres = await startPostgres({ dataDir: postgresDir })
  await migrate(postgres.url)
  system = await System.start({ model: TINY_MODEL, env: { DATABASE_URL: postgres.url } })
})
afterAll(async () => {
  await system?.discard()
  await postgres?.stop()
  await rm(postgresDir, { recursive: true, force: true })
})

const long = { model: TINY_MODEL, stream: true, max_tokens: 8000, messages: [{ role: 'user', content: 'On and on.' }] }
/** Begun again after its worker's death, and read to its end within the test's time. */
const TOKENS = 1500
const short = { model: TINY_MODEL, max_tokens: 8, messages: [{ role: 'user', content: 'Rivers' }] }

/** Opens a stream, kills something once text has come, and reads what follows. */
async function killInMidStream(kill: () => void, headers: Record<string, string> = {}, over: object = {}) {
  const response = await system.post('/v1/chat/completions', { ...long, ...over }, headers)
  const id = response.headers.get('x-request-id') ?? ''
  const [forUs, forEvents] = response.body?.tee() ?? []
  const reader = forUs?.getReader()
  for (let chunk = 0; chunk < 4; chunk++) await reader?.read()
  const killedAt = performance.now()
  kill()
  const { data, broken } = await readEvents(new Response(forEvents))
  await reader?.cancel().catch(() => {})
  return { id, data, broken, endedAfterMs: performance.now() - killedAt }
}

async function untilAnswered() {
  await System.until(async () => {
    const response = await system.post('/v1/chat/completions', short).catch(() => undefined)
    await response?.body?.cancel()
    return response?.status === 200
  })
}

async function enginePid(agentPid: number): Promise<number | undefined> {
  const children = await readFile(`/proc/${agentPid}/task/${agentPid}/children`, 'utf8').catch(() => '')
  const pid = Number.parseInt(children, 10)
  return Number.isNaN(pid) ? undefined : pid
}

let lostWithTheGateway: string

describe('a part dies', () => {
  it('the gateway in mid-stream: the stream does not end cleanly, and the next request works', async () => {
    const { id, data } = await killInMidStream(() => process.kill(system.pids.gateway, 'SIGKILL'), {
      'x-penstock-deadline-ms': '5000',
    })
    expect(data).not.toContain('[DONE]')
    await untilAnswered()
    await system.untilIdle()
    lostWithTheGateway = id
    // Nobody is left to settle it; its hold still stands.
    expect(await system.findUsage(id)).toBeUndefined()
  })

  it.each(['engine', 'agent'] as const)(
    'the %s in mid-stream: the stream goes on when it is back, whole, and is billed once',
    async (part) => {
      const pid = part === 'engine' ? await enginePid(system.pids.agent) : system.pids.agent
      const kill = () => process.kill(pid ?? 0, 'SIGKILL')
      const { id, data, broken, endedAfterMs } = await killInMidStream(kill, {}, { max_tokens: TOKENS })
      console.log(`${part} killed: the stream ended ${Math.round(endedAfterMs)} ms later`)
      expect(broken).toBe(false)
      expect(data.at(-1)).toBe('[DONE]')
      expect(await system.usage(id)).toMatchObject({ status: 'ok', attempts: 1, outputTokens: TOKENS })
      await untilAnswered()
      if (part === 'agent') await System.until(async () => (await enginePid(system.pids.agent)) === undefined)
    },
  )

  it('Postgres: answers go on, and every row is there after it is back', async () => {
    await untilAnswered()
    const { url, port } = postgres
    await postgres.stop()
    const ids: string[] = []
    for (let call = 0; call < 6; call++) {
      const response = await system.post('/v1/chat/completions', short)
      expect(response.status).toBe(200)
      ids.push(response.headers.get('x-request-id') ?? '')
      await response.json()
    }
    // A key nobody has used yet cannot be looked up: that is not the caller's fault.
    const unknown = await system.post('/v1/chat/completions', short, {
      authorization: `Bearer ${system.apiKey.replace(/.$/, '')}`,
    })
    expect([401, 503]).toContain(unknown.status)
    await unknown.body?.cancel()
    postgres = await startPostgres({ dataDir: postgresDir, port })
    expect(postgres.url).toBe(url)
    for (const id of ids) expect((await system.usage(id)).outputTokens).toBe(8)
  })
})

describe('a start on the same data folder', () => {
  it('is refused while one runs, and says which', async () => {
    const second = System.start({ model: TINY_MODEL, dataDir: system.dataDir, env: { DATABASE_URL: postgres.url } })
    await expect(second).rejects.toThrow(/another Penstock \(process \d+\) runs on/)
  })
})

describe('what nobody settled', () => {
  it('ends by itself a minute after its deadline, flagged as an estimate, and is charged no guess', async () => {
    const row = await system.usage(lostWithTheGateway)
    const [attempt] = await system.sql`
      SELECT usage_source, status FROM usage_attempts WHERE request_id = ${lostWithTheGateway}`
    expect(attempt?.usage_source).toBe('estimated')
    // It died before its first checkpoint, so nothing about it was proven.
    expect(row).toMatchObject({ outputTokens: 0, costNanoUsd: 0n, attempts: 1 })
  }, 150_000)
})
