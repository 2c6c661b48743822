// Streams whose worker dies or leaves in their middle: each is, token by token, the answer of one that nothing happened to, and is
// billed once.
import { readdir, readFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FurtherAgent } from './support/agent.ts'
import { System, TINY_MODEL } from './support/system.ts'

/** So many that a stream is still at work when the last of them has begun and its worker ends. */
const TOKENS = 2500
/** Text events that every stream has before its worker ends. */
const BEGUN = 12
const STREAMS = 6
/** The likeliest words, and drawn ones. */
const SAMPLINGS = [{ temperature: 0 }, { temperature: 1, seed: 42 }, { temperature: 0.8, top_p: 0.9, seed: -7 }]

let system: System
beforeAll(async () => {
  system = await System.start({ model: TINY_MODEL })
})
afterAll(async () => {
  await system?.discard()
})

const ask = (index: number) => ({
  model: TINY_MODEL,
  max_tokens: TOKENS,
  messages: [{ role: 'user', content: `Of rivers, number ${index}: on and on.` }],
  ...SAMPLINGS[index % SAMPLINGS.length],
})

async function uninterrupted(): Promise<string[]> {
  const texts: string[] = []
  for (let index = 0; index < STREAMS; index++) {
    const response = await system.post('/v1/chat/completions', ask(index))
    const body = (await response.json()) as { choices: { message: { content: string } }[] }
    texts.push(body.choices[0]?.message.content ?? '')
  }
  return texts
}

type Read = { id: string; target: string; text: string; whole: boolean; error: unknown }

/** Reads a stream to its end; `begun` is called once it has some text. */
async function read(index: number, begun: () => void): Promise<Read> {
  const response = await system.post('/v1/chat/completions', { ...ask(index), stream: true })
  const read: Read = {
    id: response.headers.get('x-request-id') ?? '',
    target: response.headers.get('x-penstock-target') ?? '',
    text: '',
    whole: false,
    error: undefined,
  }
  const decoder = new TextDecoder()
  let pending = ''
  let events = 0
  for await (const chunk of response.body ?? []) {
    pending += decoder.decode(chunk as Uint8Array, { stream: true })
    const lines = pending.split('\n')
    pending = lines.pop() ?? ''
    for (const line of lines) {
      if (line === 'data: [DONE]') read.whole = true
      else if (line.startsWith('data: ')) {
        const event = JSON.parse(line.slice(6))
        read.error ??= event.error
        read.text += event.choices?.[0]?.delta?.content ?? ''
        if (++events === BEGUN) begun()
      }
    }
  }
  begun()
  return read
}

/** All streams at once; `happens` once each of them has begun. */
async function through(happens: () => Promise<unknown>): Promise<Read[]> {
  const begun: Promise<void>[] = []
  const reads = Array.from({ length: STREAMS }, (_, index) => {
    let resolve = () => {}
    begun.push(
      new Promise<void>((done) => {
        resolve = done
      }),
    )
    return read(index, () => resolve())
  })
  await Promise.all(begun)
  await happens()
  return await Promise.all(reads)
}

/** One that had all its tokens by then has nowhere to move: all the others did. */
async function expectWhole(reads: readonly Read[], texts: readonly string[]): Promise<void> {
  expect(reads.map(({ error }) => error)).toEqual(reads.map(() => undefined))
  expect(reads.map(({ whole }) => whole)).toEqual(reads.map(() => true))
  for (const [index, { text }] of reads.entries()) expect(text).toBe(texts[index])
  let moved = 0
  for (const { id } of reads) {
    expect(await system.usage(id)).toMatchObject({
      status: 'ok',
      outputTokens: TOKENS,
      attemptTokens: TOKENS,
      attempts: 1,
    })
    const [row] = await system.sql`
      SELECT route, usage_source FROM usage_attempts WHERE request_id = ${id.replace(/^req_/, '')} AND kind = 'attempt'`
    expect(row?.usage_source).toBe('provider')
    const route = typeof row?.route === 'string' ? JSON.parse(row.route) : row?.route
    if (route?.moves !== undefined) moved++
  }
  expect(moved).toBeGreaterThan(0)
}

/** The engines below a process. */
async function engines(pid: number): Promise<number[]> {
  const threads = await readdir(`/proc/${pid}/task`)
  const lists = await Promise.all(threads.map((thread) => readFile(`/proc/${pid}/task/${thread}/children`, 'utf8')))
  return lists.flatMap((list) => list.split(' ').filter(Boolean).map(Number))
}

/** On a machine that does other things as well, a further agent takes long to come up. */
const TEST_MS = 180_000

describe('streams go on as if nothing had been', { timeout: TEST_MS }, () => {
  let texts: string[]
  beforeAll(async () => {
    texts = await uninterrupted()
    // Drawn answers are what they are by their seeds, and no two are alike.
    expect(await uninterrupted()).toEqual(texts)
    expect(new Set(texts).size).toBe(STREAMS)
  })

  it('when the only engine is killed', async () => {
    // Before they begin: looking for it takes as long as some of them.
    const pids = await engines(system.pids.agent)
    const reads = await through(async () => {
      for (const pid of pids) process.kill(pid, 'SIGKILL')
    })
    await expectWhole(reads, texts)
    await system.untilIdle()
  })

  it('with several choices and their probabilities', async () => {
    const body = { ...ask(1), n: 2, logprobs: true, max_tokens: 400 }
    const whole = await system.client.chat.completions.create({
      ...body,
      messages: [{ role: 'user', content: 'Rain.' }],
    })
    const stream = await system.client.chat.completions.create({
      ...body,
      messages: [{ role: 'user', content: 'Rain.' }],
      stream: true,
    })
    const said = whole.choices.map(() => ({ text: '', tokens: [] as string[], logprobs: [] as number[] }))
    let events = 0
    for await (const { choices } of stream) {
      if (++events === BEGUN) for (const pid of await engines(system.pids.agent)) process.kill(pid, 'SIGKILL')
      for (const { index, delta, logprobs } of choices) {
        const choice = said[index]
        if (choice === undefined) continue
        choice.text += delta.content ?? ''
        for (const { token, logprob } of logprobs?.content ?? []) {
          choice.tokens.push(token)
          choice.logprobs.push(logprob)
        }
      }
    }
    for (const [index, { message, logprobs }] of whole.choices.entries()) {
      const content = logprobs?.content ?? []
      expect(said[index]?.text).toBe(message.content)
      expect(said[index]?.tokens).toEqual(content.map(({ token }) => token))
      for (const [at, { logprob }] of content.entries()) expect(said[index]?.logprobs[at]).toBeCloseTo(logprob, 3)
    }
    await system.untilIdle()
  })

  it('when one agent of two is killed', async () => {
    const other = await FurtherAgent.join(system)
    const reads = await through(() => other.end('SIGKILL'))
    expect(reads.some(({ target }) => target.includes(other.backendId))).toBe(true)
    await expectWhole(reads, texts)
  })

  it('when one agent of two is drained, and gives them little time', async () => {
    const other = await FurtherAgent.join(system, ['--drain-grace-ms', '1'])
    let code: number | null = null
    const reads = await through(async () => {
      code = await other.end('SIGTERM')
    })
    expect(code).toBe(0)
    expect(reads.some(({ target }) => target.includes(other.backendId))).toBe(true)
    await expectWhole(reads, texts)
  })
})
