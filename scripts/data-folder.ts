// The data folder of one installation: what is where in it, and that one launcher works in it at a time.
import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Lock, LockHeld, takeLock } from './lock.ts'

export type DataFolder = {
  dir: string
  postgresDir: string
  /** SQLite files of the Durable Objects. */
  objectsDir: string
  /** Identity of the backend agent. */
  agentDir: string
  logDir: string
  /** Bundles of the gateway and wrangler's files; can be deleted at any time. */
  buildDir: string
  secretsPath: string
  /** The API key that is printed at each start. */
  apiKeyPath: string
  configPath: string
  lock: Lock
}

const MARKER = 'penstock.json'
/** Raised when a later version can no longer read what an earlier one wrote. */
const LAYOUT_VERSION = 1

/**
 * Opens the folder, making it where it is absent, and locks it.
 * @throws Error where it belongs to something else, or another launcher works in it
 */
export async function openDataFolder(dir: string): Promise<DataFolder> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const names = await readdir(dir)
  if (!names.includes(MARKER)) {
    const foreign = names.filter((name) => !name.startsWith('lock'))
    if (foreign.length > 0)
      throw new Error(`${dir} is not empty and not a data folder of Penstock; choose another --data`)
    await writeFile(join(dir, MARKER), `${JSON.stringify({ layout: LAYOUT_VERSION })}\n`, { mode: 0o600 })
  }
  await chmod(dir, 0o700)
  const lock = await takeLock(join(dir, 'lock')).catch((error: unknown) => {
    if (!(error instanceof LockHeld)) throw error
    throw new Error(
      `another Penstock (process ${error.pid}) runs on ${dir}; stop it, or choose another folder with --data and another --port`,
    )
  })
  const below = async (name: string): Promise<string> => {
    const path = join(dir, name)
    await mkdir(path, { recursive: true, mode: 0o700 })
    return path
  }
  try {
    return {
      dir,
      lock,
      postgresDir: await below('postgres'),
      objectsDir: await below('objects'),
      agentDir: await below('agent'),
      logDir: await below('logs'),
      buildDir: await below('build'),
      secretsPath: join(dir, 'secrets.json'),
      apiKeyPath: join(dir, 'api-key'),
      configPath: join(dir, 'build', 'workerd.capnp'),
    }
  } catch (error) {
    lock.release()
    throw error
  }
}
