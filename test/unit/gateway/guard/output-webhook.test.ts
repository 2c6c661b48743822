// A webhook on an answer, apart from the network: what it is shown is each text and each call as a whole, however they came, and
// nobody passes it by saying too much.
import { expect, test } from 'vitest'
import type { Job } from '../../../../gateway/attempts/job.ts'
import type { WebhookHook } from '../../../../gateway/guard/hook.ts'
import { WebhookRule } from '../../../../gateway/guard/output-webhook.ts'
import { askWebhook, HookBudget, hookSecretName } from '../../../../gateway/guard/webhook.ts'
import { sealSecret } from '../../../../gateway/policy/secrets.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'

const KEK = btoa('k'.repeat(32))

type Asked = { role: string; text: string }

async function judged(verdict: (texts: Asked[]) => unknown, onFailure: 'open' | 'closed' = 'closed') {
  const asked: Asked[][] = []
  const sealed = await sealSecret(KEK, hookSecretName('h'), 'secret', (count) => new Uint8Array(count))
  if (!sealed.ok) throw new Error(sealed.error.reason)
  const hook: WebhookHook = {
    kind: 'webhook',
    hookId: 'h',
    name: 'judge',
    stages: ['output'],
    message: 'No.',
    url: 'https://judge.example.com',
    reach: 'public',
    timeoutMs: 1000,
    onFailure,
    secretCiphertext: sealed.value,
  }
  const job = {
    requestId: 'r',
    principal: { orgId: 'o', projectId: 'p', keyId: 'i', keyPrefix: 'k' },
    request: { model: 'm' },
    env: { SECRETS_KEK: KEK },
    ports: {
      nowMs: () => 0,
      fetch: async (_: string, { body }: { body: string }) => {
        const { texts } = JSON.parse(body)
        asked.push(texts)
        return Response.json(verdict(texts))
      },
    },
  } as unknown as Job
  const budget = new HookBudget(3000)
  return { asked, hook, job, budget, rule: new WebhookRule(job, hook, budget) }
}

const allow = () => ({ action: 'allow' })
const text = (words: string, choice = 0, more: object = {}): ProviderEvent => ({
  type: 'delta',
  choice,
  text: words,
  outputTokens: 1,
  ...more,
})
const call = (args: string, choice = 0, more: object = {}): ProviderEvent => ({
  type: 'tool_call',
  choice,
  call: 0,
  arguments: args,
  outputTokens: 1,
  ...more,
})
const finish = (choice = 0): ProviderEvent => ({ type: 'finish', choice, reason: 'stop', outputTokens: 2 })

test('choices that are told in turns are each one text', async () => {
  const { rule, asked } = await judged((texts) => ({
    action: 'mask',
    texts: texts.map((one) => one.text.toUpperCase()),
  }))
  await rule.push([text('sec'), text('an'), text('nothing', 1), text('ret'), finish()])
  await rule.push([text(' else', 1), finish(1)])
  const ended = await rule.end()
  expect(asked).toEqual([
    [
      { role: 'assistant', text: 'secanret' },
      { role: 'assistant', text: 'nothing else' },
    ],
  ])
  expect(ended).toEqual({ ok: true, value: [text('SECANRET'), text('NOTHING ELSE', 1), finish(), finish(1)] })
})

test('the arguments of a call are one text, and calls stay apart', async () => {
  const { rule, asked } = await judged(allow)
  const first = { id: 'c0', name: 'mail' }
  const second = { id: 'c1', name: 'mail', call: 1 }
  await rule.push([
    call('{"to":"bo', 0, first),
    text('x', 1),
    call('b"}'),
    call('{', 0, second),
    call('}', 0, { call: 1 }),
  ])
  const ended = await rule.end()
  expect(asked[0]?.map((one) => one.text)).toEqual(['{"to":"bob"}', 'x', '{}'])
  expect(ended.ok && ended.value).toEqual([call('{"to":"bob"}', 0, first), text('x', 1), call('{}', 0, second)])
})

test('why a target withheld an answer is a text too', async () => {
  const { rule, asked } = await judged(() => ({ action: 'mask', texts: ['Hm', 'x'] }))
  const withheld = (explanation: string): ProviderEvent => ({
    type: 'finish',
    choice: 0,
    reason: 'content_filter',
    outputTokens: 2,
    refusal: { category: 'c', explanation },
  })
  await rule.push([text('Hm'), withheld('about Bob')])
  expect(await rule.end()).toEqual({ ok: true, value: [text('Hm'), withheld('x')] })
  expect(asked[0]?.map((one) => one.text)).toEqual(['Hm', 'about Bob'])
})

test('log probabilities do not go on: they spell out what a verdict masks', async () => {
  const { rule } = await judged(() => ({ action: 'mask', texts: ['[NAME]'] }))
  const logprobs = [{ token: 'Bob', logprob: 0, bytes: null, top: [] }]
  await rule.push([text('B', 0, { logprobs }), text('ob', 0, { logprobs }), finish()])
  expect(await rule.end()).toEqual({ ok: true, value: [text('[NAME]'), finish()] })
})

test.each(['open', 'closed'] as const)(
  'an answer too long for one question is refused by an %s one as well',
  async (state) => {
    const { rule, asked } = await judged(allow, state)
    const half = 'x'.repeat(600 * 1024)
    expect((await rule.push([text(half)])).ok).toBe(true)
    expect(await rule.push([text(half)])).toMatchObject({ ok: false, error: { code: 'content_filtered' } })
    expect(asked).toEqual([])
  },
)

test.each(['open', 'closed'] as const)(
  'a request too long for one question is refused by an %s one as well',
  async (state) => {
    const { hook, job, budget, asked } = await judged(allow, state)
    const texts = [{ role: 'user', text: 'x'.repeat(1024 * 1024) }]
    expect((await askWebhook(hook, 'input', texts, job, budget)).ok).toBe(true)
    const padded = await askWebhook(hook, 'input', [...texts, { role: 'user', text: 'secret' }], job, budget)
    expect(padded).toMatchObject({ ok: false, error: { code: 'request_too_large' } })
    expect(asked).toHaveLength(1)
  },
)
