// A process that holds one real Postgres with the real migrations until its standard input closes. Prints its address.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { migrate } from '../../migrations/migrate.ts'
import { startPostgres } from '../../scripts/postgres.ts'

const dataDir = await mkdtemp(join(tmpdir(), 'penstock-test-'))
const server = await startPostgres({ dataDir })
try {
  await migrate(server.url)
  console.log(server.url)
  await new Promise((resolve) => process.stdin.on('close', resolve).resume())
} finally {
  await server.stop()
  await rm(dataDir, { recursive: true, force: true })
}
