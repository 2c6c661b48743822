// A configuration file on a person's disk. Owns its two forms, TOML and JSON, and where the secrets come from that it names;
// what the document means is the gateway's.
import { readFile, writeFile } from 'node:fs/promises'
import { extname } from 'node:path'
import { parse as parseToml, stringify as toToml } from 'smol-toml'
import { z } from 'zod'

/** What has to be known of the document here: keys, and where their secrets are. */
const Keys = z.record(z.string(), z.looseObject({ secret: z.string().optional() }))
const Document = z.looseObject({
  $schema: z.string().optional(),
  providers: z.record(z.string(), z.looseObject({ keys: Keys.optional() })).optional(),
})
export type ConfigFile = z.infer<typeof Document>

/** By provider and key. */
export type Secrets = Record<string, Record<string, string>>

const ENVIRONMENT = /^env:(.+)$/

/** @throws Error that names the file, and quotes nothing of it: somebody may have put a secret there. */
export async function readConfigFile(path: string): Promise<ConfigFile> {
  const text = await readFile(path, 'utf8')
  let value: unknown
  try {
    value = isToml(path) ? parseToml(text) : JSON.parse(text)
  } catch (error) {
    const place = error instanceof Error && 'line' in error ? ` near line ${error.line}` : ''
    throw new Error(`${path} is not ${isToml(path) ? 'TOML' : 'JSON'}${place}`)
  }
  const document = Document.safeParse(value)
  if (!document.success) {
    const [issue] = document.error.issues
    throw new Error(`${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'is not a configuration'}`)
  }
  // For editors; the gateway has no such field.
  const { $schema: _, ...rest } = document.data
  return rest
}

/** @throws Error where the file is there and may not be replaced. */
export async function writeConfigFile(path: string, document: ConfigFile, mayReplace: boolean): Promise<void> {
  const text = isToml(path) ? `${toToml(document)}\n` : `${JSON.stringify(document, undefined, 2)}\n`
  try {
    await writeFile(path, text, { flag: mayReplace ? 'w' : 'wx' })
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error) || error.code !== 'EEXIST') throw error
    throw new Error(`${path} is there already; --force replaces it (its comments are lost, names of secrets stay)`)
  }
}

/** @throws Error for other endings. */
function isToml(path: string): boolean {
  const ending = extname(path).toLowerCase()
  if (ending === '.toml') return true
  if (ending === '.json') return false
  throw new Error(`${path} must end in .toml or .json`)
}

/** The secrets that the document names and the environment has; `missing` says what it names and the environment has not. */
export function secretsOf(
  document: ConfigFile,
  env: Record<string, string | undefined>,
): { secrets: Secrets; missing: string[] } {
  const secrets: Secrets = {}
  const missing: string[] = []
  for (const [provider, { keys = {} }] of Object.entries(document.providers ?? {})) {
    for (const [key, { secret = '' }] of Object.entries(keys)) {
      const name = ENVIRONMENT.exec(secret)?.[1]
      if (name === undefined) continue
      const value = env[name]
      if (value === undefined || value === '') missing.push(`${name} (key ${key} of ${provider})`)
      else secrets[provider] = { ...secrets[provider], [key]: value }
    }
  }
  return { secrets, missing }
}

/** The document with the places of secrets that `known` names for the same keys. */
export function withPlaces(document: ConfigFile, known: ConfigFile): ConfigFile {
  const providers = Object.entries(document.providers ?? {}).map(([name, provider]) => {
    const places = known.providers?.[name]?.keys ?? {}
    const keys = Object.entries(provider.keys ?? {}).map(([key, rest]) => {
      const secret = places[key]?.secret ?? rest.secret
      return [key, { ...rest, ...(secret === undefined ? {} : { secret }) }]
    })
    return [name, { ...provider, keys: Object.fromEntries(keys) }]
  })
  return { ...document, providers: Object.fromEntries(providers) }
}
