// The fields of a registered provider. Owns their form in the admin API and in the configuration file, the defaults of what
// is left out, and which fields go together; what each kind needs is providers/registration.ts. Pure.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { PROVIDER_KINDS, type ProviderKind } from '../providers/kinds.ts'
import { PRESET_NAMES } from '../providers/presets.ts'
import { registrationOf } from '../providers/registration.ts'
import { USAGE_DIALECTS, type UsageDialect } from '../providers/usage-dialect.ts'
import { CUTOFF_POLICIES, type CutoffPolicy } from './plan.ts'
import { optionsOf, StoredOptions } from './provider-options.ts'
import { parseUpstreamUrl } from './upstream-url.ts'

export const providerFields = () => ({
  kind: z.enum(PROVIDER_KINDS),
  /** Default: the vendor's one public address, where the kind or the preset has one. */
  base_url: z.string().optional(),
  /** Lets `base_url` point into a private network, also by plain http. */
  allow_private: z.boolean().default(false),
  /** Known deviations of a server from its dialect; for `openai_compatible`. */
  preset: z.enum(PRESET_NAMES).optional(),
  options: StoredOptions.default({}),
  /** What its usage objects mean. Default: by kind and preset. */
  usage_dialect: z.enum(USAGE_DIALECTS).optional(),
  /** What becomes of an answer that is cut off in its middle. */
  cutoff: z.enum(CUTOFF_POLICIES).default('cancel'),
})
const Form = late(() => z.strictObject(providerFields()))
export type ProviderForm = z.infer<typeof Form>

/** A provider without its name and keys, with nothing left out that has a default. */
export type ProviderFields = {
  kind: ProviderKind
  base_url: string
  allow_private: boolean
  preset?: string
  options: StoredOptions
  usage_dialect: UsageDialect
  cutoff: CutoffPolicy
}

export type FormFault = { path: (string | number)[]; message: string }

/** Fills in the defaults. `err` with the first field that does not go with the others; its words quote no value. */
export function completeProvider(form: ProviderForm): Result<ProviderFields, FormFault> {
  const { kind, preset, options } = form
  const fault = (path: string[], message: string) => err({ path, message })
  if (preset !== undefined && kind !== 'openai_compatible') {
    return fault(['preset'], 'goes with the kind "openai_compatible" alone')
  }
  const registration = registrationOf(kind, preset)
  const values = optionsOf(options)
  for (const [name, option] of [
    ['region', 'region'],
    ['api_version', 'apiVersion'],
    ['api', 'api'],
    ['reasoning_summary', 'reasoningSummary'],
  ] as const) {
    const isGiven = values[option] !== undefined
    if (isGiven && !registration.options.includes(option)) return fault(['options', name], `means nothing to "${kind}"`)
    if (!isGiven && registration.required.includes(option)) return fault(['options', name], `is required for "${kind}"`)
  }
  const address = form.base_url ?? registration.baseUrl(values)
  if (address === undefined) return fault(['base_url'], 'is required: there is no one address for all')
  const url = parseUpstreamUrl(address, { allowPrivate: form.allow_private })
  if (!url.ok) return fault(['base_url'], url.error)
  return ok({
    kind,
    base_url: url.value,
    allow_private: form.allow_private,
    ...(preset === undefined ? {} : { preset }),
    options,
    usage_dialect: form.usage_dialect ?? registration.usageDialect,
    cutoff: form.cutoff,
  })
}

/** What is wrong with a secret for this kind, in words that quote nothing of it; `undefined` where it has the right form. */
export function secretFault(kind: ProviderKind, secret: string): string | undefined {
  const { pattern, words } = registrationOf(kind, undefined).secret
  return pattern.test(secret) ? undefined : words
}
