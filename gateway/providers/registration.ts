// What each kind of provider needs to be registered. Owns their public addresses, the options they take, what their usage
// objects mean by default, and the form of their secrets; a preset's address and usage are presets.ts, the fields themselves
// policy/provider-form.ts. Pure.
import type { ProviderOptions } from '../policy/plan.ts'
import type { ProviderKind } from './kinds.ts'
import { type PresetName, presetOf } from './presets.ts'
import type { UsageDialect } from './usage-dialect.ts'

export type Registration = {
  /**
   * The one address at which the vendor serves everybody, without a slash at the end; `undefined` where there is none, or
   * where it depends on an option that is missing.
   */
  baseUrl(options: ProviderOptions): string | undefined
  usageDialect: UsageDialect
  /** Options that mean something to this kind; `headers` to all of them. */
  options: readonly OptionName[]
  /** Those of them without which no call can be made. */
  required: readonly OptionName[]
  secret: SecretForm
}

type OptionName = Exclude<keyof ProviderOptions, 'headers'>

export type SecretForm = {
  pattern: RegExp
  /** Completes "the secret …" for whoever sent another one; quotes nothing. */
  words: string
}

/** Goes into one header. */
const BEARER: SecretForm = {
  pattern: /^[\x21-\x7e]{1,4096}$/,
  words: 'must be 1-4096 characters of visible ASCII without spaces',
}

/** Self-hosted servers often ask for none. */
const PERHAPS: SecretForm = {
  pattern: /^[\x21-\x7e]{0,4096}$/,
  words: 'must be at most 4096 characters of visible ASCII without spaces; empty for a server that asks for none',
}

/** An access key signs; a key of the service itself goes into the header. What has colons and is neither is a mistake. */
const AWS: SecretForm = {
  pattern: /^(?=.{1,8192}$)([A-Z0-9]{16,128}:[\x21-\x39\x3b-\x7e]{16,}(:[\x21-\x7e]+)?|[\x21-\x39\x3b-\x7e]+)$/,
  words: 'must be an API key, or ACCESS_KEY_ID:SECRET_ACCESS_KEY with :SESSION_TOKEN behind it where there is one',
}

const nowhere = () => undefined

const KINDS: Record<ProviderKind, Registration> = {
  openai: {
    baseUrl: () => 'https://api.openai.com/v1',
    usageDialect: 'openai',
    options: ['api', 'reasoningSummary'],
    required: [],
    secret: BEARER,
  },
  anthropic: {
    baseUrl: () => 'https://api.anthropic.com/v1',
    usageDialect: 'anthropic',
    options: ['apiVersion'],
    required: [],
    secret: BEARER,
  },
  gemini: {
    baseUrl: () => 'https://generativelanguage.googleapis.com',
    usageDialect: 'gemini',
    options: ['apiVersion'],
    required: [],
    secret: BEARER,
  },
  bedrock: {
    baseUrl: ({ region }) => (region === undefined ? undefined : `https://bedrock-runtime.${region}.amazonaws.com`),
    usageDialect: 'bedrock',
    options: ['region'],
    required: ['region'],
    secret: AWS,
  },
  azure_openai: {
    baseUrl: nowhere,
    usageDialect: 'openai',
    options: ['apiVersion', 'api', 'reasoningSummary'],
    required: [],
    secret: BEARER,
  },
  openai_compatible: {
    baseUrl: nowhere,
    usageDialect: 'openai',
    options: ['api', 'reasoningSummary'],
    required: [],
    secret: PERHAPS,
  },
}

/** What a provider of this kind, with this preset, needs. */
export function registrationOf(kind: ProviderKind, preset: PresetName | undefined): Registration {
  if (preset === undefined) return KINDS[kind]
  const { baseUrl, usageDialect } = presetOf(preset)
  return { ...KINDS[kind], baseUrl: () => baseUrl, usageDialect }
}
