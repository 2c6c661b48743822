// From a document and the catalog as it stands to what has to change. Owns the plan: which objects, which fields, which
// secrets, and the rows that say so; config.ts shows it or has it written. No part of a secret is in a plan.

import type { Statement } from '../db/port.ts'
import type { Env } from '../env.ts'
import { diffConfig, type ObjectChange } from '../policy/config-diff.ts'
import {
  type ConfigDocument,
  MODELS_MAX,
  NONE,
  type NormalConfig,
  type NormalProvider,
  normalise,
  PROVIDERS_MAX,
  targetFault,
} from '../policy/config-document.ts'
import { secretFault } from '../policy/provider-form.ts'
import { keySubject, openSecret } from '../policy/secrets.ts'
import {
  type CatalogRows,
  deleteModels,
  deleteOtherKeys,
  deleteProviders,
  type KeyRow,
  keyRow,
  modelRow,
  normalOf,
  providerRow,
  putKeys,
  putModels,
  putProviders,
} from './catalog-rows.ts'
import { invalid } from './context.ts'
import { fieldPath } from './input.ts'
import { isOtherHost, sealedFor } from './provider-secrets.ts'

/** By provider and key. */
export type GivenSecrets = Record<string, Record<string, string>>

export type Wanted = {
  document: ConfigDocument
  secrets: GivenSecrets
  /** Whether what the document does not name goes. */
  prune: boolean
}

export type SecretChange = { provider: string; key: string; action: 'set' | 'replaced' }

export type ConfigPlan = {
  before: NormalConfig
  after: NormalConfig
  /** Field by field, without secrets. */
  changes: ObjectChange[]
  /** Keys that get a secret: their first one, or another than they have. */
  secrets: SecretChange[]
}

/**
 * What applying the document would do to these rows.
 * @throws Refusal that names the field: of the document, or of the secrets beside it.
 */
export async function planConfig(rows: CatalogRows, wanted: Wanted, env: Env): Promise<ConfigPlan> {
  const given = wanted.secrets
  const before = normalOf(rows)
  const named = normalise(wanted.document)
  if (!named.ok) throw invalid(documentPath(named.error.path), named.error.message)
  const after = wanted.prune ? named.value : merged(before, named.value)
  const fault = targetFault(after)
  if (fault !== undefined) throw invalid(documentPath(fault.path), fault.message)
  requireBound('providers', after.providers, PROVIDERS_MAX)
  requireBound('models', after.models, MODELS_MAX)
  requireNamed(given, named.value)
  const secrets: SecretChange[] = []
  for (const [name, provider] of Object.entries(named.value.providers)) {
    secrets.push(...(await secretChanges(name, provider, rows, given, env)))
  }
  return { before, after, changes: diffConfig(before, after), secrets }
}

/** What was sent, and an empty secret for each key that is to have none. */
export function secretsOf(document: ConfigDocument, sent: GivenSecrets): GivenSecrets {
  const given = Object.entries(document.providers).map(([name, { keys = {} }]): [string, Record<string, string>] => {
    const without = Object.keys(keys).filter((key) => keys[key]?.secret === NONE)
    const own = Object.hasOwn(sent, name) ? sent[name] : {}
    return [name, { ...Object.fromEntries(without.map((key) => [key, ''])), ...own }]
  })
  return { ...sent, ...Object.fromEntries(given) }
}

/** The rows to write. @throws Refusal where this deployment cannot keep secrets. */
export async function statementsOf(
  plan: ConfigPlan,
  rows: CatalogRows,
  given: GivenSecrets,
  env: Env,
  nowIso: string,
): Promise<Statement[]> {
  const { after, changes, secrets } = plan
  const named = (object: ObjectChange['object'], isRemoval: boolean) =>
    changes.filter((change) => change.object === object && (change.action === 'remove') === isRemoval)
  const removedProviders = named('provider', true).map(({ name }) => name)
  const removedModels = named('model', true).map(({ name }) => name)
  const providerRows = named('provider', false).map(({ name }) =>
    providerRow(
      name,
      owned(after.providers, name),
      rows.providers.find((row) => row.name === name),
      nowIso,
    ),
  )
  const modelRows = named('model', false).map(({ name }) =>
    modelRow(
      name,
      owned(after.models, name),
      rows.models.find((row) => row.name === name),
      nowIso,
    ),
  )
  const touched = new Set([...providerRows.map(({ name }) => name), ...secrets.map(({ provider }) => provider)])
  const keyRows: KeyRow[] = []
  for (const provider of touched) {
    for (const [key, change] of Object.entries(owned(after.providers, provider).keys)) {
      const existing = rows.keys.find((row) => row.provider === provider && row.name === key)
      const isNew = secrets.some((one) => one.provider === provider && one.key === key)
      const secret = isNew ? givenFor(given, provider, key) : undefined
      const ciphertext = secret === undefined ? existing?.secretCiphertext : await sealedFor(env, provider, key, secret)
      if (ciphertext === undefined) throw new Error(`key ${key} of provider ${provider} was planned without a secret`)
      keyRows.push(keyRow(provider, key, ciphertext, change, existing, nowIso))
    }
  }
  return [
    ...deleteModels(removedModels),
    ...deleteProviders(removedProviders),
    ...putProviders(providerRows),
    ...[...touched].map((provider) => deleteOtherKeys(provider, Object.keys(owned(after.providers, provider).keys))),
    ...putKeys(keyRows),
    ...putModels(modelRows),
  ]
}

/** What stands, with what the document names in its place. Keys that it does not name stay, unless their host goes. */
function merged(before: NormalConfig, named: NormalConfig): NormalConfig {
  const providers = { ...before.providers }
  for (const [name, provider] of Object.entries(named.providers)) {
    const existing = Object.hasOwn(providers, name) ? providers[name] : undefined
    const staying = existing === undefined || isOtherHost(existing.base_url, provider.base_url) ? {} : existing.keys
    providers[name] = { ...provider, keys: { ...staying, ...provider.keys } }
  }
  return { providers, models: { ...before.models, ...named.models } }
}

async function secretChanges(
  name: string,
  { kind, base_url: baseUrl, keys }: NormalProvider,
  rows: CatalogRows,
  given: GivenSecrets,
  env: Env,
): Promise<SecretChange[]> {
  const existing = rows.providers.find((row) => row.name === name)
  const moves = existing !== undefined && isOtherHost(existing.baseUrl, baseUrl)
  const changes: SecretChange[] = []
  for (const key of Object.keys(keys)) {
    const secret = givenFor(given, name, key)
    const row = rows.keys.find((one) => one.provider === name && one.name === key)
    if (secret === undefined) {
      if (row !== undefined && !moves) continue
      const why = moves ? 'the host of base_url changes, and no secret goes along' : 'there is no secret to keep'
      throw invalid(documentPath(['providers', name, 'keys', key, 'secret']), `${why}: send one in secrets`)
    }
    const fault = secretFault(kind, secret)
    if (fault !== undefined) throw invalid(fieldPath(['secrets', name, key]), fault)
    if (row === undefined) changes.push({ provider: name, key, action: 'set' })
    else if (moves || !(await isSame(row, secret, env))) changes.push({ provider: name, key, action: 'replaced' })
  }
  return changes
}

/** A key may be called `constructor`: what an object inherits was not given. */
function givenFor(given: GivenSecrets, provider: string, key: string): string | undefined {
  const keys = Object.hasOwn(given, provider) ? given[provider] : undefined
  return keys !== undefined && Object.hasOwn(keys, key) ? keys[key] : undefined
}

/** One that does not open is another one: it has to be replaced. */
async function isSame({ provider, name, secretCiphertext }: KeyRow, secret: string, env: Env): Promise<boolean> {
  const opened = await openSecret(env.SECRETS_KEK, keySubject(provider, name), secretCiphertext)
  return opened.ok && opened.value === secret
}

/** A secret for what the document does not name is a mistake that must not pass silently. */
function requireNamed(given: GivenSecrets, named: NormalConfig): void {
  for (const [provider, keys] of Object.entries(given)) {
    const known = Object.hasOwn(named.providers, provider) ? (named.providers[provider]?.keys ?? {}) : {}
    for (const key of Object.keys(keys)) {
      if (!Object.hasOwn(known, key)) throw invalid(fieldPath(['secrets', provider, key]), 'is no key of the document')
    }
  }
}

function requireBound(what: string, entries: object, most: number): void {
  if (Object.keys(entries).length > most) throw invalid(documentPath([what]), `would be more than ${most} in all`)
}

const documentPath = (path: (string | number)[]): string => fieldPath(['document', ...path])

function owned<T>(entries: Record<string, T>, name: string): T {
  const value = Object.hasOwn(entries, name) ? entries[name] : undefined
  if (value === undefined) throw new Error(`the plan changes ${name}, which is not there afterwards`)
  return value
}
