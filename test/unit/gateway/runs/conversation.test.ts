import { describe, expect, test } from 'vitest'
import type { Env } from '../../../../gateway/env.ts'
import { continueConversation } from '../../../../gateway/runs/conversation.ts'
import { CONVERSATION_CHARS_MAX } from '../../../../gateway/runs/stored-run.ts'
import type { ResponseRequestItem } from '../../../../protocol/dialects/responses.ts'

const owner = { orgId: 'o', projectId: 'p', keyLineId: 'k' }
const name = (index: number) => index.toString(16).padStart(32, '0')
const question: ResponseRequestItem = { type: 'message', role: 'user', content: 'and then?' }

/** Bindings whose objects have a response for each name, made of this one item. */
function bindings(content: string, status = 'completed'): { env: Env; asked: string[] } {
  const asked: string[] = []
  const runs = {
    async conversation(run: string) {
      asked.push(run)
      const items = JSON.stringify([{ type: 'message', role: 'user', content, id: `msg_${run}_i0` }])
      const output = [{ type: 'message', role: 'assistant', content: 'ok', id: `msg_${run}_0` }]
      return { ok: true, value: { response: JSON.stringify({ status, output }), items } }
    },
  }
  return { env: { RUNS: { getByName: () => runs } } as unknown as Env, asked }
}

describe('a conversation that goes on', () => {
  test('has the items before it, then its own, which get ids', async () => {
    const { env } = bindings('hello')
    const continued = await continueConversation([question], `resp_${name(1)}`, name(2), owner, env)
    if (!continued.ok) throw new Error(continued.error.message)
    expect(continued.value.own).toBe(1)
    expect(continued.value.items.map(({ id }) => id)).toEqual([
      `msg_${name(1)}_i0`,
      `msg_${name(1)}_0`,
      `msg_${name(2)}_i0`,
    ])
    expect(JSON.parse(continued.value.text)).toEqual(continued.value.items)
  })

  test('is refused where it is longer than a body could be', async () => {
    const { env } = bindings('x'.repeat(CONVERSATION_CHARS_MAX))
    expect(await continueConversation([question], `resp_${name(1)}`, name(2), owner, env)).toMatchObject({
      ok: false,
      error: { code: 'request_too_large', param: 'previous_response_id' },
    })
  })

  test.each(['failed', 'cancelled'])('is refused after a response that has %s', async (status) => {
    const { env } = bindings('hello', status)
    expect(await continueConversation([question], `resp_${name(1)}`, name(2), owner, env)).toMatchObject({
      ok: false,
      error: { code: 'conflict', param: 'previous_response_id', message: expect.stringContaining(status) },
    })
  })

  test('asks each response once, and few of them', async () => {
    const { env, asked } = bindings('hello')
    const refer = (index: number): ResponseRequestItem => ({ type: 'item_reference', id: `msg_${name(index)}_i0` })
    const few = [...Array.from({ length: 16 }, (_, index) => refer(index)), refer(3), refer(0)]
    expect((await continueConversation(few, undefined, name(99), owner, env)).ok).toBe(true)
    expect(asked).toHaveLength(16)
    const many = Array.from({ length: 17 }, (_, index) => refer(index))
    expect(await continueConversation(many, undefined, name(99), owner, env)).toMatchObject({
      ok: false,
      error: { code: 'not_found', param: 'input[16].id' },
    })
  })

  test('says so where stored responses cannot be reached', async () => {
    const env = {
      RUNS: {
        getByName: () => ({
          conversation: async () => {
            throw new Error('the object restarts')
          },
        }),
      },
    } as unknown as Env
    expect(await continueConversation([question], `resp_${name(1)}`, name(2), owner, env)).toMatchObject({
      ok: false,
      error: { code: 'unavailable', retryAfterMs: 1000 },
    })
  })
})
