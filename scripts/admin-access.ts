// How a person's commands reach the admin API. Owns the options that say where the gateway is and whose token opens it.
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { AdminClient } from './admin-client.ts'
import { DEFAULT_PORT } from './options.ts'

type Environment = Record<string, string | undefined>

/** For `parseArgs`. */
export const accessOptions = (env: Environment) =>
  ({
    url: { type: 'string', default: `http://127.0.0.1:${DEFAULT_PORT}` },
    data: { type: 'string', default: env.PENSTOCK_DATA ?? join(homedir(), '.local', 'share', 'penstock') },
  }) as const

/** Their lines in a help text. */
export const ACCESS_HELP = `  --url URL      the gateway                                       default http://127.0.0.1:${DEFAULT_PORT}
  --data DIR     whose secrets.json has ADMIN_TOKEN                default ~/.local/share/penstock  [PENSTOCK_DATA]`

/**
 * A client with ADMIN_TOKEN of the environment, else of the data folder.
 * @throws Error where neither has one.
 */
export async function openAdmin(values: { url: string; data: string }, env: Environment): Promise<AdminClient> {
  const token = env.ADMIN_TOKEN ?? (await savedToken(join(values.data, 'secrets.json')))
  return new AdminClient(values.url.replace(/\/+$/, ''), token)
}

async function savedToken(path: string): Promise<string> {
  try {
    return z.object({ ADMIN_TOKEN: z.string() }).parse(JSON.parse(await readFile(path, 'utf8'))).ADMIN_TOKEN
  } catch {
    throw new Error(`there is no ADMIN_TOKEN in ${path}; name the data folder with --data, or set ADMIN_TOKEN`)
  }
}
