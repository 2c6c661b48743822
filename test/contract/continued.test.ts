// An answer that is cut off anywhere and goes on at another agent is the answer of one that is not: agent and gateway together,
// the agent's own session on one side, the gateway's own continuation on the other, and an engine between them that draws alike.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { answerFormatOf } from '../../backends/answer-format.ts'
import { createChatRenderer } from '../../backends/chat.ts'
import { prepareDispatch, type TextModel } from '../../backends/dispatch.ts'
import type { SequenceHandlers, SequenceParameters } from '../../backends/engine/client.ts'
import { runSession } from '../../backends/session.ts'
import { createTokenizer } from '../../backends/tokens.ts'
import { Continuation } from '../../gateway/providers/continuation.ts'
import type { DispatchEvent, DispatchRequest } from '../../protocol/dispatch.ts'
import { dispatchRequest } from '../unit/backends/support/harness.ts'
import { testModelFile } from '../unit/backends/support/test-model.ts'

const RUNS = 150

function model(): TextModel {
  const controls = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  const { tokens, tokenTypes } = testModelFile()
  const template = join(import.meta.dirname, '..', 'fixtures', 'chat-templates', 'qwen3.jinja')
  const file = testModelFile({
    tokens: [...tokens.slice(0, 256), ...controls],
    tokenTypes: [...tokenTypes.slice(0, 256), 3, 3, 3],
    merges: [],
    bosId: 256,
    eosId: 258,
    endIds: [258],
    chatTemplate: readFileSync(template, 'utf8'),
  })
  const tokenizer = createTokenizer(file)
  const answers = answerFormatOf(file, tokenizer.vocabulary)
  return { tokenizer, answers, render: createChatRenderer(file, tokenizer.guard, answers.tools) }
}

const TEXT_MODEL = model()
const LIMITS = { contextTokens: 4096, vocabularyTokens: 259, sequencesMax: 8 }

/** What the model says in each choice: a token is a byte. */
type Scripts = readonly string[]
/** Which choice goes on next, and by how many tokens. */
type Turn = { choice: number; tokens: number }
type Life = { turns: readonly Turn[]; end: 'whole' | 'cut' | 'engine_lost'; at: number }

const tick = () => new Promise((resolve) => setImmediate(resolve))

/** One agent's events for a dispatch, as far as its engine lives. */
async function answered(request: DispatchRequest, scripts: Scripts, life: Life): Promise<DispatchEvent[]> {
  const prepared = await prepareDispatch(request, TEXT_MODEL, LIMITS, { randomSeed: () => 0n, tenant: 1n })
  if (!prepared.ok) throw new Error(prepared.error.message)
  const events: DispatchEvent[] = []
  type Running = { handlers: SequenceHandlers; script: number[]; at: number; max: number; isOver: boolean }
  const running = new Map<number, Running>()
  const connection = {
    submit: ({ seed, output = [], maxNewTokens }: SequenceParameters, handlers: SequenceHandlers) => {
      const choice = Number(seed - BigInt(request.sampling.seed ?? 0))
      const script = [...Buffer.from(scripts[choice] ?? '')]
      // Token-exact: what it is said to have sampled is what it would have sampled.
      expect(output).toEqual(script.slice(0, output.length))
      expect(output.length).toBeLessThan(maxNewTokens)
      const one: Running = { handlers, script, at: output.length, max: maxNewTokens, isOver: false }
      running.set(choice, one)
      const finish = (reason: 'cancelled') => end(one, reason)
      return { cancel: () => queueMicrotask(() => finish('cancelled')), grant: () => {} }
    },
  }
  const end = (one: Running, reason: 'stop' | 'length' | 'cancelled') => {
    if (one.isOver) return
    one.isOver = true
    const outputTokens = one.at + (reason === 'stop' ? 1 : 0)
    const finished = { type: 'finished', id: 0n, reason, promptTokens: 1, cachedTokens: 3, outputTokens } as const
    one.handlers.end({ kind: 'finished', finished })
  }
  const sample = (one: Running) => {
    if (one.isOver) return
    const token = one.script[one.at]
    if (token === undefined) return end(one, 'stop')
    one.handlers.admitted?.(3)
    one.at++
    one.handlers.token({ id: 0n, token, logprob: -one.at, top: [] })
    if (one.at >= one.max) end(one, 'length')
  }
  const done = runSession(prepared.value, {
    connection,
    sink: { write: async (batch) => void events.push(...batch) },
    capacity: () => undefined,
    nowMs: () => 0,
    signal: new AbortController().signal,
    queuedMs: 0,
    deadlineAtMs: 1e6,
  })
  await tick()
  let sampled = 0
  const isLost = () => life.end === 'engine_lost' && sampled >= life.at
  for (let turn = 0; [...running.values()].some(({ isOver }) => !isOver) && !isLost(); turn++) {
    const { choice, tokens } = life.turns[turn % life.turns.length] ?? { choice: 0, tokens: 1 }
    const open = [...running.values()].filter(({ isOver }) => !isOver)
    const one = open[choice % open.length]
    for (let count = 0; one !== undefined && count < tokens && !isLost(); count++, sampled++) sample(one)
    await tick()
  }
  for (const one of running.values()) {
    if (one.isOver) continue
    one.isOver = true
    one.handlers.end({ kind: 'lost', message: 'gone' })
  }
  await done
  return life.end === 'cut' ? events.slice(0, life.at) : events
}

/** The answer that a client sees over all the lives, or the failure. */
async function lived(request: DispatchRequest, scripts: Scripts, lives: readonly Life[]): Promise<DispatchEvent[]> {
  const continuation = new Continuation({ choices: request.n, withLogprobs: request.logprobs !== undefined })
  const passed: DispatchEvent[] = []
  let resume: DispatchRequest['resume']
  for (const life of [...lives, WHOLE]) {
    const dispatch = resume === undefined ? request : { ...request, version: 3 as const, resume }
    const events = await answered(dispatch, scripts, life)
    // In pieces, as a network brings them.
    let taken = continuation.take([])
    for (const event of events) {
      taken = continuation.take([event])
      passed.push(...taken.events)
      if (taken.isOver || taken.broken !== undefined) break
    }
    if (!taken.isOver && taken.broken === undefined) {
      taken = continuation.lost()
      passed.push(...taken.events)
    }
    if (taken.isOver) return passed
    expect(taken.broken?.reason).not.toBe('diverged')
    // What has not begun is asked for anew, as the attempt loop does.
    if (continuation.hasBegun) resume = continuation.resume()
    else return lived(request, scripts, lives.slice(lives.indexOf(life) + 1))
  }
  throw new Error('the last life is whole')
}

const WHOLE: Life = {
  turns: [
    { choice: 0, tokens: 3 },
    { choice: 1, tokens: 2 },
  ],
  end: 'whole',
  at: 0,
}

/** What of an answer does not depend on how it was cut into events. @param withCounts Tokens too. */
function content(events: readonly DispatchEvent[], withCounts: boolean) {
  const choices = new Map<number, { said: string[]; logprobs: number[]; finish?: string }>()
  let usage: unknown
  for (const event of events) {
    if (event.type === 'usage') usage = withCounts ? event.usage : Object.keys(event.usage)
    if (!('choice' in event)) continue
    const choice = choices.get(event.choice) ?? { said: [], logprobs: [] }
    choices.set(event.choice, choice)
    const say = (kind: string, text: string) => {
      const last = choice.said.length - 1
      if (choice.said[last]?.startsWith(`${kind}|`)) choice.said[last] += text
      else if (text !== '') choice.said.push(`${kind}|${text}`)
    }
    if (event.type === 'delta') {
      say('text', event.text)
      choice.logprobs.push(...(event.logprobs ?? []).map(({ logprob }) => logprob))
    }
    if (event.type === 'thought') say('thought', event.text)
    if (event.type === 'tool_call') {
      if (event.id !== undefined) choice.said.push(`call ${event.call}|${event.id} ${event.name} `)
      say(`call ${event.call}`, event.arguments)
    }
    if (event.type === 'finish') choice.finish = withCounts ? `${event.reason} ${event.outputTokens}` : event.reason
  }
  return { usage, choices: [...choices].sort(([one], [other]) => one - other) }
}

const CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'
const LOOK = { name: 'look', parameters: { type: 'object' } }

const script = fc.oneof(
  fc.constantFrom(
    'hello world, naïve 😀 and a tail',
    `<think>Let me see 😀.</think>\n\nWell. ${CALL}\n${CALL} So.`,
    CALL,
    '<think>cut off in a thou',
    'a <tool_call>that is none</tool_call> b',
    `x${'\ud83d\ude00'.repeat(9)}STOP and what nobody sees`,
    '',
  ),
  fc.string({ unit: 'grapheme', maxLength: 40 }),
)
const turns = fc.array(fc.record({ choice: fc.nat(2), tokens: fc.integer({ min: 1, max: 7 }) }), {
  minLength: 1,
  maxLength: 6,
})
const life: fc.Arbitrary<Life> = fc.record({
  turns,
  end: fc.constantFrom('cut' as const, 'engine_lost' as const),
  at: fc.nat(90),
})

describe('an answer that moves', () => {
  test('is the answer that stays, wherever it is cut, as often as it is, whatever it is made of', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(script, { minLength: 1, maxLength: 3 }),
        fc.array(life, { minLength: 1, maxLength: 4 }),
        fc.record({
          withTools: fc.boolean(),
          isOneCall: fc.boolean(),
          withLogprobs: fc.boolean(),
          stop: fc.constantFrom([], ['STOP'], ['lo w', '😀 a']),
          maxOutputTokens: fc.constantFrom(undefined, 7, 40),
        }),
        async (scripts, lives, { withTools, isOneCall, withLogprobs, stop, maxOutputTokens }) => {
          const request = dispatchRequest({
            version: 2,
            input: { kind: 'chat', messages: [{ role: 'user', content: 'What is up?' }] },
            sampling: { ...dispatchRequest().sampling, seed: 11 },
            n: scripts.length,
            stop: [...stop],
            maxOutputTokens,
            tellsThoughts: true,
            tellsTokens: true,
            ...(withTools ? { tools: [LOOK], parallelToolCalls: !isOneCall } : {}),
            ...(withLogprobs && !(withTools && isOneCall) ? { logprobs: { top: 0 } } : {}),
          })
          // How far an engine runs on behind a stop string or the one call before it hears of it is chance.
          const runsOn = withTools && isOneCall
          const isExact = stop.length === 0 && !runsOn
          const stays = content(await lived(request, scripts, []), isExact)
          expect(stays.choices).toHaveLength(scripts.length)
          expect(content(await lived(request, scripts, lives), isExact)).toEqual(stays)
        },
      ),
      { numRuns: RUNS },
    )
  }, 120_000)
})
