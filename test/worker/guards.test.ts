// Content rules on the whole path: what they do to requests and answers before anybody else sees them, what a blocked answer
// costs, and what happens where nobody knows which rules there are. Webhooks are guard-hooks.test.ts.
import { env } from 'cloudflare:test'
import { beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { forgetGuards } from '../../gateway/guard/rules.ts'
import { admin, type Json, withoutDatabase } from './support/admin.ts'
import { Guarded, user } from './support/guarded.ts'

const guarded = new Guarded()

beforeAll(() => guarded.open())
beforeEach(() => guarded.begin())

describe('a rule on requests', () => {
  test('masks what the vendor would see, in every message, and says in how many places', async () => {
    await guarded.rules({ kind: 'pii', stages: ['input'], entities: ['email', 'card'], action: 'mask' })
    const messages = [
      { role: 'system', content: 'Help bob@example.com.' },
      { role: 'user', content: 'My card is 4111 1111 1111 1111; hello.' },
      { role: 'user', content: 'Nothing here.' },
    ]
    const { status, headers } = await guarded.ask({ messages })
    expect([status, headers.get('x-penstock-masked')]).toEqual([200, '2'])
    expect(guarded.sent()).toEqual([['Help [EMAIL].', 'My card is [CARD]; hello.', 'Nothing here.']])
  })

  test('blocks with its own words before anything is sent, and nothing is charged', async () => {
    await guarded.rules({
      kind: 'regex',
      stages: ['input'],
      patterns: ['project\\s{1,3}x'],
      ignore_case: true,
      action: 'block',
      message: 'Not about that.',
    })
    const { status, error } = await guarded.ask(user('Tell me of Project  X'))
    expect([status, error.code, error.message]).toEqual([400, 'content_filter', 'Not about that.'])
    expect(guarded.upstream()).toHaveLength(0)
    expect((await guarded.world.recorded()).attempts).toEqual([])
  })

  test('flags in the log alone, without the text', async () => {
    const lines: string[] = []
    const spy = vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line))
    await guarded.rules({ kind: 'pii', stages: ['input', 'output'], entities: ['email'], action: 'flag' })
    guarded.said = ['Ask alice@exam', 'ple.com']
    const { text } = await guarded.ask(user('I am bob@example.com'))
    spy.mockRestore()
    expect(text).toBe('Ask alice@example.com')
    expect(guarded.sent()).toEqual([['I am bob@example.com']])
    const flags = lines.filter((line) => line.includes('guard_flagged')).map((line) => JSON.parse(line))
    expect(flags.map(({ stage, labels, count }) => [stage, labels, count])).toEqual([
      ['input', 'EMAIL', 1],
      ['output', 'EMAIL', 1],
    ])
    expect(lines.join('\n')).not.toMatch(/bob|alice/)
  })

  test('reads text, so that token ids are refused where there is one', async () => {
    await guarded.rules({ kind: 'pii', stages: ['input'], entities: ['email'], action: 'mask' })
    const { response } = await guarded.world.send('/v1/completions', { model: guarded.world.model, prompt: [1, 2, 3] })
    expect([response.status, (await response.json<Json>()).error.param]).toEqual([400, 'prompt'])
  })

  test('of another project does not apply', async () => {
    const other = await admin('POST', `/organisations/${guarded.orgId}/projects`, { slug: 'other' })
    const rule = { kind: 'pii', stages: ['input'], entities: ['email'], action: 'mask' }
    await guarded.rules({ ...rule, project_id: other.body.id })
    await guarded.ask(user('bob@example.com'))
    await guarded.rules({ ...rule, project_id: guarded.world.tenant?.projectId })
    await guarded.ask(user('bob@example.com'))
    expect(guarded.sent()).toEqual([['bob@example.com'], ['[EMAIL]']])
  })

  test('sees what the one before it left', async () => {
    await guarded.rules(
      { kind: 'regex', stages: ['input'], patterns: ['cat'], action: 'mask', replacement: 'dog' },
      { kind: 'regex', stages: ['input'], patterns: ['dog'], action: 'mask', replacement: 'cow' },
    )
    await guarded.ask(user('cat and dog'))
    expect(guarded.sent()).toEqual([['cow and cow']])
  })
})

describe.each([false, true])('a rule on answers (streamed: %s)', (stream) => {
  test('masks over the borders of chunks; usage is what was computed', async () => {
    await guarded.rules({ kind: 'pii', stages: ['output'], entities: ['email'], action: 'mask' })
    guarded.said = ['Write to b', 'ob@exam', 'ple.com', ' soon']
    const { status, text, done } = await guarded.ask({ stream })
    expect([status, text]).toEqual([200, 'Write to [EMAIL] soon'])
    if (stream) expect(done).toBe(true)
    expect((await guarded.world.recorded()).attempts).toMatchObject([{ status: 'ok', output: 3, costNanoUsd: 11_000n }])
  })

  test('blocks before the first word with an honest status, and charges what was computed', async () => {
    await guarded.rules({ kind: 'regex', stages: ['output'], patterns: ['secret plan'], action: 'block' })
    guarded.said = ['sec', 'ret plan']
    const { status, error } = await guarded.ask({ stream })
    expect([status, error.code]).toEqual([400, 'content_filter'])
    const { attempts, holds } = await guarded.world.recorded()
    expect(attempts).toMatchObject([{ status: 'content_filtered', charge: 'customer' }])
    expect(attempts[0]?.costNanoUsd).toBeGreaterThan(0n)
    expect(holds).toBe(0)
  })
})

test('a rule that blocks in the middle of a stream ends it with an error, and nothing of what it blocks went out', async () => {
  await guarded.rules({ kind: 'regex', stages: ['output'], patterns: ['secret plan'], action: 'block' })
  guarded.said = ['All is well. ', 'The sec', 'ret ', 'plan is']
  const { status, text, error, done } = await guarded.ask({ stream: true })
  expect([status, text, error.code, done]).toEqual([200, 'All is well. Th', 'content_filter', false])
  expect((await guarded.world.recorded()).attempts).toMatchObject([{ status: 'content_filtered', charge: 'customer' }])
})

test('log probabilities, which spell the answer out, are refused where a rule changes answers', async () => {
  await guarded.rules({ kind: 'pii', stages: ['output'], entities: ['email'], action: 'mask' })
  const { status, error } = await guarded.ask({ logprobs: true })
  expect([status, error.param]).toEqual([400, 'logprobs'])
})

test('a kept answer is masked as it was, and goes through the rules of now', async () => {
  await guarded.begin({ cache: { ttl_s: 60 } })
  await guarded.rules({ kind: 'pii', stages: ['input', 'output'], entities: ['email'], action: 'mask' })
  guarded.said = ['Ask alice@example.com about cats']
  expect((await guarded.ask(user('I am bob@example.com'))).text).toBe('Ask [EMAIL] about cats')
  // Another address, and the same request once it is masked.
  const hit = await guarded.ask(user('I am carol@example.com'))
  expect([hit.headers.get('x-penstock-cache'), hit.text]).toEqual(['hit', 'Ask [EMAIL] about cats'])
  await guarded.rules(
    { kind: 'pii', stages: ['input'], entities: ['email'], action: 'mask' },
    { kind: 'regex', stages: ['output'], patterns: ['cats'], action: 'block' },
  )
  expect((await guarded.ask(user('I am bob@example.com'))).error.code).toBe('content_filter')
  expect(guarded.upstream()).toHaveLength(1)
})

test('without Postgres: known guards and the knowledge that there are none go on, an unknown organisation is refused', async () => {
  const dead = withoutDatabase()
  await guarded.ask()
  expect((await guarded.ask({}, { env: dead })).status).toBe(200)
  await guarded.rules({ kind: 'pii', stages: ['input'], entities: ['email'], action: 'mask' })
  await guarded.ask()
  await guarded.ask(user('bob@example.com'), { env: dead })
  expect(guarded.sent().at(-1)).toEqual(['[EMAIL]'])
  forgetGuards()
  const { status, error } = await guarded.ask({}, { env: dead })
  expect([status, error.code]).toEqual([503, 'unavailable'])
  expect((await guarded.ask({}, { env })).status).toBe(200)
})
