// The catalog as one document: providers without secrets, models with their targets and policies. Owns the form that people
// write and its normal form, in which nothing is left out that has a default; how two differ is config-diff.ts, who applies
// one admin/config-plan.ts. Prices, mark-ups and guards are no part of it: they have histories of their own. Pure.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { ModelPolicy, policyFault } from './model-policy.ts'
import { completeProvider, type FormFault, type ProviderFields, providerFields } from './provider-form.ts'
import { DEFAULT_KEY } from './secrets.ts'
import { FLEET, ModelName, ProviderName, StoredTargets } from './targets.ts'

/** Of the document's form. A form that an older gateway would misunderstand gets another number. */
const FORM = 1
/** What an isolate keeps of the catalog; a document beyond this would evict itself. */
export const PROVIDERS_MAX = 200
export const MODELS_MAX = 2_000
export const KEYS_MAX = 32
const KEY_WEIGHT_MAX = 1_000

export const KeyName = late(() =>
  z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'must be 1-63 lower-case letters, digits and hyphens'),
)
export const KeyWeight = late(() => z.number().int().min(1).max(KEY_WEIGHT_MAX))

/** Leaves the key's secret as it is. */
const KEEP = 'keep'
/** For a server that asks for no key. */
export const NONE = 'none'
const SECRET_SOURCE = /^(keep|none|env:[A-Za-z_][A-Za-z0-9_]{0,127})$/

const ConfigKey = late(() =>
  z.strictObject({
    /**
     * `keep`; `none` for a server that asks for no key; or `env:NAME` for a variable of whoever applies the document: the
     * gateway is sent its value beside it, and keeps the secret it has where it is sent none. No secret has its place here.
     */
    secret: z
      .string()
      .regex(SECRET_SOURCE, 'must be "keep", "none", or "env:" and the name of an environment variable')
      .default(KEEP),
    /** Share of the requests among the provider's keys. */
    weight: KeyWeight.default(1),
    /** Not used, and kept. */
    disabled: z.boolean().default(false),
  }),
)

const bounded = <T>(most: number, what: string) => ({
  check: (entries: Record<string, T>) => Object.keys(entries).length <= most,
  message: `has more than ${most} ${what}`,
})
const providerBound = bounded(PROVIDERS_MAX, 'providers')
const modelBound = bounded(MODELS_MAX, 'models')
const keyBound = bounded(KEYS_MAX, 'keys')

const ConfigProvider = late(() =>
  z.strictObject({
    ...providerFields(),
    keys: z
      .record(KeyName, ConfigKey)
      .refine(
        (keys) => Object.keys(keys).length > 0,
        'needs a key; leave it out for one key "default" that keeps its secret',
      )
      .refine(keyBound.check, keyBound.message)
      .optional(),
  }),
)
const ConfigModel = late(() =>
  z.strictObject({
    /** In the order of the catalog. */
    targets: StoredTargets,
    /** Absent: the defaults. */
    policy: ModelPolicy.optional(),
  }),
)

export const ConfigDocument = late(() =>
  z.strictObject({
    format: z.literal(FORM),
    providers: z
      .record(
        ProviderName.refine((name) => name !== FLEET, `"${FLEET}" means the deployment's own backends`),
        ConfigProvider,
      )
      .refine(providerBound.check, providerBound.message)
      .default({}),
    models: z.record(ModelName, ConfigModel).refine(modelBound.check, modelBound.message).default({}),
  }),
)
export type ConfigDocument = z.infer<typeof ConfigDocument>

export type NormalKey = { weight: number; disabled: boolean }
export type NormalProvider = ProviderFields & { keys: Record<string, NormalKey> }
export type NormalModel = { targets: StoredTargets; policy?: ModelPolicy }
/** What stands, or shall stand; secrets are no part of it. Names are in alphabetical order. */
export type NormalConfig = { providers: Record<string, NormalProvider>; models: Record<string, NormalModel> }

/** The normal form of what a document names. `err` with the first field that does not go with the others. */
export function normalise(document: ConfigDocument): Result<NormalConfig, FormFault> {
  const providers: Record<string, NormalProvider> = {}
  for (const name of namesOf(document.providers)) {
    const { keys = { [DEFAULT_KEY]: ConfigKey.parse({}) }, ...form } = document.providers[name] ?? missing(name)
    const fields = completeProvider(form)
    if (!fields.ok) return err({ ...fields.error, path: ['providers', name, ...fields.error.path] })
    providers[name] = { ...fields.value, keys: normalKeys(keys) }
  }
  const models: Record<string, NormalModel> = {}
  for (const name of namesOf(document.models)) {
    const { targets, policy } = document.models[name] ?? missing(name)
    const fault = policy === undefined ? undefined : policyFault(policy, targets)
    if (fault !== undefined) return err({ ...fault, path: ['models', name, ...fault.path] })
    models[name] = { targets, ...(policy === undefined ? {} : { policy }) }
  }
  return ok({ providers, models })
}

/** The first target whose provider is not there: it would fail every request that reaches it. */
export function targetFault({ providers, models }: NormalConfig): FormFault | undefined {
  for (const [name, { targets }] of Object.entries(models)) {
    const index = targets.findIndex(({ provider }) => provider !== FLEET && !Object.hasOwn(providers, provider))
    if (index >= 0) {
      const path = ['models', name, 'targets', index, 'provider']
      return { path, message: `is neither "${FLEET}" nor a provider that is there afterwards` }
    }
  }
  return undefined
}

/** The document that says what stands: applied, it changes nothing. */
export function documentOf({ providers, models }: NormalConfig) {
  const withKept = (keys: Record<string, NormalKey>) =>
    Object.fromEntries(Object.entries(keys).map(([key, rest]) => [key, { secret: KEEP, ...rest }]))
  return {
    format: FORM,
    providers: Object.fromEntries(
      Object.entries(providers).map(([name, { keys, ...fields }]) => [name, { ...fields, keys: withKept(keys) }]),
    ),
    models,
  }
}

/** JSON Schema of the document as people write it, for editors. */
export const configJsonSchema = () => z.toJSONSchema(ConfigDocument, { io: 'input' })

const normalKeys = (keys: NonNullable<ConfigDocument['providers'][string]['keys']>): Record<string, NormalKey> =>
  Object.fromEntries(
    namesOf(keys).map((name) => {
      const { weight, disabled } = keys[name] ?? missing(name)
      return [name, { weight, disabled }]
    }),
  )

/** In one order wherever they come from: the same catalog is the same text. */
export const namesOf = (entries: object): string[] => Object.keys(entries).toSorted()

const missing = (name: string): never => {
  throw new Error(`${name} is not there, although its name is`)
}
