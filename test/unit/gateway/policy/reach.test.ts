// That every call to an address that an administrator registered says how far it may get: into this network only where that was
// meant.
import { expect, test } from 'vitest'
import type { Job } from '../../../../gateway/attempts/job.ts'
import type { Issuer } from '../../../../gateway/auth/issuers.ts'
import { keySetFor } from '../../../../gateway/auth/key-sets.ts'
import { hookOf } from '../../../../gateway/guard/hook.ts'
import { askWebhook, HookBudget, hookSecretName } from '../../../../gateway/guard/webhook.ts'
import type { ProviderConfig, Target } from '../../../../gateway/policy/plan.ts'
import { type Fetch, type Reach, reachOf } from '../../../../gateway/policy/reach.ts'
import { sealSecret } from '../../../../gateway/policy/secrets.ts'
import { HttpProvider } from '../../../../gateway/providers/http.ts'
import type { OpenContext } from '../../../../gateway/providers/provider.ts'
import { countTokens } from '../../../../gateway/providers/token-count.ts'
import { vendorOf } from '../../../../gateway/providers/vendors.ts'
import { PLAIN_REQUEST } from '../support/plain-request.ts'

const KEK = btoa('k'.repeat(32))
const KEY = { name: 'k', secret: 'secret-of-a-vendor', weight: 1 }
const TARGET: Target = { provider: 'p', model: 'claude-x', contextTokens: 1000, price: undefined }

const provider = (allowPrivate: boolean): ProviderConfig => ({
  name: 'p',
  kind: 'anthropic',
  baseUrl: 'https://vendor.example.com/v1',
  reach: reachOf(allowPrivate),
  keys: [KEY],
  options: {},
  usageDialect: 'anthropic',
  cutoff: 'drain',
})

const CALLS: Record<string, (allowPrivate: boolean, fetch: Fetch) => Promise<unknown>> = {
  'a provider': (allowPrivate, fetch) => {
    const context = { fetch, requestId: 'r', nowMs: () => 0, signal: new AbortController().signal } as OpenContext
    return new HttpProvider(provider(allowPrivate), vendorOf('anthropic'), KEY).open(PLAIN_REQUEST, TARGET, context)
  },
  "a provider's count of tokens": (allowPrivate, fetch) =>
    countTokens(PLAIN_REQUEST, TARGET, provider(allowPrivate), { key: KEY, fetch, requestId: 'r', nowMs: () => 0 }),
  'a webhook': async (allowPrivate, fetch) => {
    const sealed = await sealSecret(KEK, hookSecretName('h'), 'secret', (count) => new Uint8Array(count))
    if (!sealed.ok) throw new Error(sealed.error.reason)
    const identity = { hookId: 'h', name: 'judge', stages: ['input'] as const, secretCiphertext: sealed.value }
    const settings = { url: 'https://judge.example.com', allow_private: allowPrivate, timeout_ms: 1000 }
    const hook = hookOf(identity, { kind: 'webhook', settings: { ...settings, on_failure: 'closed' } })
    if (!hook.ok || hook.value.kind !== 'webhook') throw new Error('no webhook')
    const job = { request: PLAIN_REQUEST, principal: {}, env: { SECRETS_KEK: KEK }, ports: { nowMs: () => 0, fetch } }
    return askWebhook(hook.value, 'input', [], job as unknown as Job, new HookBudget(1000))
  },
  "an issuer's keys": (allowPrivate, fetch) => {
    const keys = { uri: `https://issuer.example.com/${allowPrivate}`, allowPrivate }
    return keySetFor({ issuerId: 'i', keys } as Issuer, 'kid', Date.now(), fetch)
  },
}

test.each(Object.keys(CALLS))('%s is called inside only where that was registered', async (name) => {
  for (const allowPrivate of [false, true]) {
    const reaches: (Reach | undefined)[] = []
    await CALLS[name]?.(allowPrivate, async (_, __, reach) => {
      reaches.push(reach)
      return new Response('{}', { status: 500 })
    })
    expect(reaches).toEqual([allowPrivate ? 'anywhere' : 'public'])
  }
})
