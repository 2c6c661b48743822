// Where the gateway is and what opens it. Owns the order of places that are looked at; secrets come from the environment, a file or
// standard input, never from the command line, which other users of the machine can read.
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { type Arguments, isSet, text } from './command.ts'
import { CliFailure, EXIT, wrongUsage } from './failure.ts'

export type Environment = Readonly<Record<string, string | undefined>>
export type Access = {
  url: string
  token: string
  /** Where the token was found; `penstock doctor` says it. */
  tokenFrom: string
}

const URL_DEFAULT = 'http://127.0.0.1:8787'
const STDIN_BYTES_MAX = 64 * 1024
const Secrets = z.object({ ADMIN_TOKEN: z.string().min(1) })

export const dataDirOf = (args: Arguments, env: Environment): string =>
  text(args, 'data') ?? env.PENSTOCK_DATA ?? join(homedir(), '.local', 'share', 'penstock')

/** @throws CliFailure `usage` */
export function urlOf(args: Arguments, env: Environment): string {
  const given = text(args, 'url') ?? env.PENSTOCK_URL ?? URL_DEFAULT
  const url = URL.canParse(given) ? new URL(given) : undefined
  if (
    url === undefined ||
    !/^https?:$/.test(url.protocol) ||
    url.username !== '' ||
    url.search !== '' ||
    url.hash !== ''
  )
    throw wrongUsage(`${given} is not the address of a gateway.`, 'Give --url like https://gateway.example.com')
  return given.replace(/\/+$/, '')
}

/**
 * Whether secrets of the data folder may go to this gateway. Unless the folder is named they are for the gateway of this machine
 * alone: whoever sets PENSTOCK_URL and forgets PENSTOCK_TOKEN would give them away.
 */
export function trustsFolder(args: Arguments, env: Environment, url: string): boolean {
  if (text(args, 'data') !== undefined || env.PENSTOCK_DATA !== undefined) return true
  return /^(localhost|127(\.\d+){3}|\[::1\])$/.test(new URL(url).hostname)
}

/** @throws CliFailure where no token is to be found */
export async function accessOf(args: Arguments, env: Environment, stdin: AsyncIterable<Uint8Array>): Promise<Access> {
  const url = urlOf(args, env)
  if (isSet(args, 'token-stdin')) return { url, token: await readSecret(stdin), tokenFrom: 'standard input' }
  for (const name of ['PENSTOCK_TOKEN', 'ADMIN_TOKEN'] as const) {
    const token = env[name]
    if (token !== undefined && token !== '') return { url, token, tokenFrom: name }
  }
  const path = join(dataDirOf(args, env), 'secrets.json')
  const saved = trustsFolder(args, env, url) ? await readFile(path, 'utf8').catch(() => undefined) : undefined
  const parsed = Secrets.safeParse(saved === undefined ? undefined : jsonOf(saved))
  if (parsed.success) return { url, token: parsed.data.ADMIN_TOKEN, tokenFrom: path }
  throw new CliFailure(
    EXIT.refused,
    `There is no token for ${url}: PENSTOCK_TOKEN is not set and ${path} has none for it.`,
    {
      code: 'no_token',
      hint: 'Set PENSTOCK_TOKEN, pipe it in with --token-stdin, or name the data folder of `penstock up` with --data.',
    },
  )
}

/** One line of standard input. @throws CliFailure where it is empty or too long */
async function readSecret(stdin: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of stdin) {
    bytes += chunk.byteLength
    if (bytes > STDIN_BYTES_MAX) throw wrongUsage('Standard input is too long for a secret.')
    chunks.push(chunk)
  }
  const secret = Buffer.concat(chunks).toString('utf8').trim()
  if (secret === '') throw wrongUsage('Standard input is empty; the secret was expected there.')
  return secret
}

function jsonOf(saved: string): unknown {
  try {
    return JSON.parse(saved)
  } catch {
    return undefined
  }
}
