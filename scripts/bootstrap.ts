// The first organisation, project, prices, model and API key of an installation, made through the admin API like any
// other. Owns their names and defaults; every step is safe to repeat, and nothing an administrator changed is changed back.
import { readFile, rename, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { type AdminClient, AdminError } from './admin-client.ts'

const ORGANISATION = { slug: 'default', name: 'Default organisation' }
const PROJECT = { slug: 'default', name: 'Default project' }
const KEY_NAME = 'npm start'
/** The catalog's name for own backends. */
const FLEET = 'fleet'
/** Dollars per million tokens of a model on this machine: small, yet not zero, so that the first bill shows something. */
const PRICES = { input_uncached: '0.02', input_cache_read: '0.002', output_text: '0.06' }
const ROUTABLE_TIMEOUT_MS = 20_000
const ROUTABLE_POLL_MS = 50

const Identified = z.object({ id: z.string() })
const Page = <T extends z.ZodType>(item: T) => z.object({ data: z.array(item) })
const Key = z.object({ prefix: z.string(), revoked_at: z.string().nullable() })
const StoredModel = z.object({
  targets: z.array(z.object({ provider: z.string(), model: z.string(), context_tokens: z.number() })),
})
const Engine = z.object({ model: z.string(), role: z.string(), draining: z.boolean() })
const Backend = z.object({ state: z.string(), models: z.array(Engine) })

/** Makes organisation, project, prices and key. @returns the text of the key, the saved one where it still works */
export async function bootstrapAccount(
  admin: AdminClient,
  options: { model: string; apiKeyPath: string },
): Promise<{ orgId: string; apiKey: string }> {
  const org = await admin.call('POST', '/organisations', Identified, ORGANISATION)
  const [project] = await Promise.all([
    admin.call('POST', `/organisations/${org.id}/projects`, Identified, PROJECT),
    ensurePrices(admin, options.model),
  ])
  return { orgId: org.id, apiKey: await ensureKey(admin, org.id, project.id, options.apiKeyPath) }
}

/** Lets callers name the model. A model that an administrator pointed elsewhere is left alone. */
export async function bootstrapModel(admin: AdminClient, name: string, contextTokens: number): Promise<void> {
  const path = `/models/${encodeURIComponent(name)}`
  const existing = await admin.call('GET', path, StoredModel).catch((error: unknown) => {
    if (error instanceof AdminError && error.status === 404) return undefined
    throw error
  })
  const [first, ...others] = existing?.targets ?? []
  const isOurs = first?.provider === FLEET && first.model === name && others.length === 0
  if (first !== undefined && (!isOurs || first.context_tokens === contextTokens)) return
  const target = { provider: FLEET, model: name, context_tokens: contextTokens }
  await admin.call('PUT', path, z.unknown(), { targets: [target] })
}

/**
 * Resolves when a live backend reports an engine that finishes requests of the model: of several the one that computes prompts for
 * the others may be there first. @throws Error when none does in time
 */
export async function waitUntilRoutable(admin: AdminClient, model: string, signal: AbortSignal): Promise<void> {
  const until = performance.now() + ROUTABLE_TIMEOUT_MS
  for (;;) {
    signal.throwIfAborted()
    const { data } = await admin.call('GET', '/backends', Page(Backend))
    const engines = data.filter((backend) => backend.state === 'live').flatMap((backend) => backend.models)
    if (engines.some((engine) => engine.model === model && engine.role !== 'prefill' && !engine.draining)) return
    if (performance.now() > until) {
      throw new Error(`no backend serves ${model} after ${ROUTABLE_TIMEOUT_MS / 1000} s; the agent's log says why`)
    }
    await sleep(ROUTABLE_POLL_MS, undefined, { signal })
  }
}

async function ensurePrices(admin: AdminClient, model: string): Promise<void> {
  const query = new URLSearchParams({ provider: FLEET, model, limit: '1' })
  const { data } = await admin.call('GET', `/prices?${query}`, Page(z.unknown()))
  if (data.length > 0) return
  await admin.call('POST', '/prices', z.unknown(), { provider: FLEET, model, usd_per_million: PRICES })
}

/** A saved key can be of a database that is gone, or revoked; then a new one takes its place in the file. */
async function ensureKey(admin: AdminClient, orgId: string, projectId: string, path: string): Promise<string> {
  const saved = (await readFile(path, 'utf8').catch(() => '')).trim()
  if (saved !== '') {
    const query = new URLSearchParams({ name: KEY_NAME, project_id: projectId, limit: '200' })
    const { data } = await admin.call('GET', `/organisations/${orgId}/keys?${query}`, Page(Key))
    if (data.some((key) => key.revoked_at === null && saved.startsWith(key.prefix))) return saved
  }
  const body = { project_id: projectId, name: KEY_NAME }
  const { key } = await admin.call('POST', `/organisations/${orgId}/keys`, z.object({ key: z.string() }), body)
  const draft = `${path}.new`
  await writeFile(draft, `${key}\n`, { mode: 0o600 })
  await rename(draft, path)
  return key
}
