// The catalog's document: what people may leave out, what does not go together, and the example that comes with Penstock.
import { parse } from 'smol-toml'
import { describe, expect, test } from 'vitest'
import text from '../../../../deploy/penstock.config.toml?raw'
import { ConfigDocument, configJsonSchema, normalise, targetFault } from '../../../../gateway/policy/config-document.ts'
import { PRESET_NAMES } from '../../../../gateway/providers/presets.ts'

function read(document: Record<string, unknown>) {
  const parsed = ConfigDocument.safeParse({ format: 1, ...document })
  if (!parsed.success) throw new Error(JSON.stringify(parsed.error.issues))
  return normalise(parsed.data)
}
const provider = (fields: Record<string, unknown>) => {
  const result = read({ providers: { up: fields } })
  return result.ok ? result.value.providers.up : result.error
}
const fleet = { provider: 'fleet', model: 'm', context_tokens: 10 }
const model = (policy: Record<string, unknown>, targets: unknown[] = [fleet, fleet]) => {
  const result = read({ models: { m: { targets, policy } } })
  return result.ok ? 'ok' : [result.error.path.slice(2).join('.'), result.error.message]
}

describe('a provider', () => {
  test.each([
    ['openai', {}, 'https://api.openai.com/v1', 'openai'],
    ['anthropic', {}, 'https://api.anthropic.com/v1', 'anthropic'],
    ['gemini', {}, 'https://generativelanguage.googleapis.com', 'gemini'],
    ['bedrock', { options: { region: 'eu-west-1' } }, 'https://bedrock-runtime.eu-west-1.amazonaws.com', 'bedrock'],
    ['openai_compatible', { preset: 'deepseek' }, 'https://api.deepseek.com', 'deepseek'],
    ['openai_compatible', { preset: 'xai' }, 'https://api.x.ai/v1', 'xai'],
    ['openai_compatible', { preset: 'groq' }, 'https://api.groq.com/openai/v1', 'openai'],
  ])('of kind %s with %j has its public address and its way to tell usage', (kind, more, baseUrl, dialect) => {
    expect(provider({ kind, ...more })).toMatchObject({
      base_url: baseUrl,
      usage_dialect: dialect,
      allow_private: false,
      cutoff: 'cancel',
      keys: { default: { weight: 1, disabled: false } },
    })
  })

  test('of each preset is one with an address of its own', () => {
    for (const preset of PRESET_NAMES) {
      const fields = { kind: 'openai_compatible', preset, base_url: 'https://a.example.com' }
      expect(provider(fields)).toMatchObject({ preset, base_url: 'https://a.example.com' })
    }
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['no address where there is none for all', { kind: 'openai_compatible' }, 'base_url'],
    ['no address of its resource', { kind: 'azure_openai' }, 'base_url'],
    ['no region', { kind: 'bedrock' }, 'options.region'],
    ['a region that its kind has not', { kind: 'anthropic', options: { region: 'eu' } }, 'options.region'],
    ['a version that its kind has not', { kind: 'openai', options: { api_version: 'v1' } }, 'options.api_version'],
    ['a preset of another kind', { kind: 'gemini', preset: 'groq' }, 'preset'],
    ['a private address by its preset', { kind: 'openai_compatible', preset: 'ollama' }, 'base_url'],
  ])('with %s is refused by the path', (_, fields, path) => {
    expect(provider(fields)).toMatchObject({ path: ['providers', 'up', ...path.split('.')] })
  })

  test.each(['authorization', 'x-api-key', 'cookie', 'host', 'content-length', 'Accept', 'x y', 'x-session-token'])(
    'cannot be sent the header %s',
    (name) => {
      expect(() => provider({ kind: 'openai', options: { headers: { [name]: 'v' } } })).toThrow('headers')
    },
  )

  test.each(['openai-organization', 'anthropic-beta', 'http-referer', 'x-title'])(
    'can be sent the header %s',
    (name) => {
      expect(provider({ kind: 'openai', options: { headers: { [name]: 'v w' } } })).toMatchObject({ kind: 'openai' })
    },
  )
})

describe('a policy', () => {
  const cascade = { escalate_on: ['refusal'] }
  test.each<[string, Record<string, unknown>, unknown[] | undefined, string]>([
    ['a canary beyond the targets', { canary: { target: 2, percent: 1 } }, undefined, 'policy.canary.target'],
    ['a shadow beyond the targets', { shadow: { target: 2, percent: 1 } }, undefined, 'policy.shadow.target'],
    ['a hedge without a second target', { hedge: { after_ms: 1 } }, [fleet], 'policy.hedge'],
    ['a cascade without a second target', { cascade }, [fleet], 'policy.cascade'],
    ['a shadow of the only target', { shadow: { target: 0, percent: 1 } }, [fleet], 'policy.shadow'],
    [
      'a canary that is the shadow',
      { canary: { target: 1, percent: 1 }, shadow: { target: 1, percent: 1 } },
      undefined,
      'policy.canary.target',
    ],
    ['a hedge to a shadow', { hedge: { after_ms: 1 }, shadow: { target: 1, percent: 1 } }, undefined, 'policy.hedge'],
    ['a cascade to a shadow', { cascade, shadow: { target: 0, percent: 1 } }, undefined, 'policy.cascade'],
    ['a cascade that sticks', { cascade, sticky: 'conversation' }, undefined, 'policy.sticky'],
    [
      "weights that are 0 but the shadow's",
      { strategy: 'weighted', shadow: { target: 0, percent: 1 } },
      [fleet, { ...fleet, weight: 0 }],
      'targets.1.weight',
    ],
    ['a cascade with a hedge', { cascade, hedge: { after_ms: 1 } }, undefined, 'policy.hedge'],
    ['a cascade with a canary', { cascade, canary: { target: 1, percent: 1 } }, undefined, 'policy.canary'],
    ['a cascade of the cheapest', { cascade, strategy: 'cheapest' }, undefined, 'policy.strategy'],
    [
      'confidence without a bound',
      { cascade: { escalate_on: ['low_confidence'] } },
      undefined,
      'policy.cascade.confidence_min',
    ],
    [
      'a bound of confidence without the rule',
      { cascade: { ...cascade, confidence_min: 0.5 } },
      undefined,
      'policy.cascade.confidence_min',
    ],
    ['weights that are all 0', { strategy: 'weighted' }, [{ ...fleet, weight: 0 }], 'targets.0.weight'],
  ])('with %s is refused by the path', (_, policy, targets, path) => {
    expect(model(policy, targets)).toEqual([path, expect.any(String)])
  })

  test.each<[string, Record<string, unknown>]>([
    ['a cascade by confidence', { cascade: { escalate_on: ['low_confidence'], confidence_min: 0.5 } }],
    ['a canary of half a per cent', { canary: { target: 1, percent: 0.5 }, sticky: 'conversation' }],
    ['a hedge of the fastest', { strategy: 'fastest', hedge: { after_ms: 800 }, attempts_max: 2 }],
  ])('with %s is taken', (_, policy) => {
    expect(model(policy)).toBe('ok')
  })

  test('names nothing twice', () => {
    expect(() => model({ fallback_on: ['refused', 'refused'] })).toThrow('twice')
    expect(() => model({ cascade: { escalate_on: ['empty', 'empty'] } })).toThrow('twice')
  })
})

test('a target needs a provider that is there, or the own fleet', () => {
  const result = read({ models: { 'meta/x': { targets: [fleet, { ...fleet, provider: 'constructor' }] } } })
  expect(result.ok && targetFault(result.value)?.path).toEqual(['models', 'meta/x', 'targets', 1, 'provider'])
})

test('the example that comes with Penstock is valid, stands on its own, and shows every strategy', () => {
  const document = ConfigDocument.parse(parse(text))
  const result = normalise(document)
  if (!result.ok) throw new Error(JSON.stringify(result.error))
  expect(targetFault(result.value)).toBeUndefined()
  const { providers, models } = result.value
  expect(new Set(Object.values(providers).map(({ kind }) => kind)).size).toBe(6)
  const policies = Object.values(models).flatMap(({ policy }) => (policy === undefined ? [] : [policy]))
  expect(new Set(policies.map(({ strategy }) => strategy)).size).toBe(5)
  for (const part of ['sticky', 'canary', 'shadow', 'cascade', 'hedge'] as const) {
    expect(policies.some((policy) => policy[part] !== undefined)).toBe(true)
  }
  const used = new Set(Object.values(models).flatMap(({ targets }) => targets.map((target) => target.provider)))
  expect(Object.keys(providers).filter((name) => !used.has(name))).toEqual([])
  expect(text).not.toMatch(/secret = "(?!env:|keep"|none")/)
})

test('the JSON Schema names the fields that people may write, with their choices', () => {
  const schema = JSON.stringify(configJsonSchema())
  for (const word of ['base_url', 'openai_compatible', 'least_busy', 'first_token_timeout_ms', 'env:']) {
    expect(schema).toContain(word)
  }
})
