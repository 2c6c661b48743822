// One admitted dispatch, from SUBMIT to the last event. Owns the order of events, stops, cancellation, credits and counts;
// preparing the prompts is dispatch.ts, text is output.ts, the wire is server.ts.
import type { CapacityFrame } from '../protocol/capacity.ts'
import type { DispatchEvent, DispatchUsage, PrefillPlace } from '../protocol/dispatch.ts'
import type { SampledToken } from '../protocol/engine-frames.ts'
import type { Failure } from '../protocol/errors.ts'
import type { KvNews } from '../protocol/report.ts'
import { AnswerParts } from './answer-parts.ts'
import type { Prepared } from './dispatch.ts'
import type { EngineConnection, Sequence, SequenceEnd } from './engine/client.ts'
import { ChoiceOutput, type OutputPart } from './output.ts'
import { PartWriter } from './part-events.ts'
import { type Outcome, outcomeOf } from './sequence-end.ts'
import { pieces } from './text-pieces.ts'

/** Tokens the engine may be ahead of the reader, per sequence: hides the socket's latency, bounds memory. */
const CREDIT_TOKENS = 64
/** Granting in parcels saves frames. */
const GRANT_TOKENS_MIN = 16
/** The engine answers CANCEL within a step; a missing answer must not hold the request. */
export const CANCEL_WAIT_MS = 5000
/** Of an answer that began elsewhere, told again at once: its text fits into events, and the others have their turn between. */
const REPLAYED_TOKENS = 256
/** Load changes slowly beside tokens. */
const CAPACITY_EVENT_INTERVAL_MS = 1000

export type EventSink = {
  /** Sends events; resolves when more may be sent, or when `abandoned` fires. */
  write: (events: readonly DispatchEvent[]) => Promise<void>
}

/** What a dispatch runs in. */
export type SessionContext = {
  connection: Pick<EngineConnection, 'submit'>
  sink: EventSink
  capacity: () => CapacityFrame | undefined
  /** What changed in the caches since the last call, for a gateway that asked. */
  kvNews?: () => KvNews | undefined
  nowMs: () => number
  /** Fires at the deadline or when the caller is gone; its reason is the Failure. */
  signal: AbortSignal
  queuedMs: number
  deadlineAtMs: number
  /** Fires where this backend gives up what it has: another one can go on. */
  moving?: AbortSignal
  /** Where the prompts are computed, once that is known; absent: there is no choice. */
  prefillPlace?: () => PrefillPlace | undefined
}

type Plan = Prepared['choices'][number]
type MoveReason = Extract<DispatchEvent, { type: 'moved' }>['reason']

type Choice = {
  index: number
  prompt: number
  /** Absent where nothing is computed: what another backend sampled is the whole answer. */
  sequence?: Sequence
  output: ChoiceOutput
  /** Tells thoughts and calls from text; undefined where all is text. */
  parts: AnswerParts | undefined
  writer: PartWriter
  /** Received from the engine, not yet turned into events. */
  inbox: SampledToken[]
  tokensSeen: number
  /** Of the prompt, found in the prefix cache; absent until the engine has admitted the sequence. */
  cachedTokens?: number
  owedTokens: number
  cancelled: boolean
  end?: SequenceEnd
  finished: boolean
}

export type SessionResult = { usage: DispatchUsage; failure?: Failure }

/** Runs a dispatch to its end. Always writes exactly one closing event, `usage`, `error` or `moved`, unless the caller is gone. */
export async function runSession(prepared: Prepared, context: SessionContext): Promise<SessionResult> {
  const { sink, signal, connection } = context
  const wake = createWake()
  let failure: Failure | undefined
  const choices: Choice[] = []
  const aborted = () => {
    failure ??= signal.reason as Failure
    wake.call()
  }
  if (signal.aborted) aborted()
  else signal.addEventListener('abort', aborted, { once: true })
  const moving = prepared.tellsTokens ? context.moving : undefined
  const draining = () => {
    failure ??= DRAINING
    wake.call()
  }
  if (moving?.aborted === true) draining()
  else moving?.addEventListener('abort', draining, { once: true })

  const usage = { inputTokens: promptTokens(prepared), cachedInputTokens: 0, outputTokens: 0 }
  await sink.write([{ type: 'accepted', usage, queueMs: context.queuedMs }, ...capacityEvents(context)])
  if (failure === undefined) {
    for (const plan of prepared.choices) {
      const choice = beginChoice(prepared, plan)
      choices.push(choice)
      if (plan.output === undefined) submitChoice(choice, prepared, plan, connection, context, wake.call)
    }
    if (prepared.echo !== undefined) await writeEcho(prepared, choices, sink)
    for (const [at, plan] of prepared.choices.entries()) {
      const choice = choices[at]
      if (choice === undefined || plan.output === undefined) continue
      await replay(choice, plan.output, prepared, sink)
      if (failure !== undefined) break
      if (isOver(choice) || plan.output.length >= maxNewTokensOf(prepared, plan)) {
        choice.end = endOfReplay(plan.output.length)
        wake.call()
      } else submitChoice(choice, prepared, plan, connection, context, wake.call)
    }
  }

  let capacitySentMs = context.nowMs()
  let cachedSent = 0
  let placeSent: PrefillPlace | undefined
  while (failure === undefined && choices.some((choice) => !choice.finished)) {
    await wake.wait()
    const events: DispatchEvent[] = []
    const known = usageOf(prepared, choices)
    const prefill = context.prefillPlace?.()
    // Whatever breaks off later, what came from the cache is not charged as computed.
    if (known.cachedInputTokens > cachedSent || prefill !== placeSent) {
      const place = prefill === undefined ? {} : { prefill }
      events.push({ type: 'accepted', usage: { ...known, outputTokens: 0 }, queueMs: context.queuedMs, ...place })
    }
    cachedSent = known.cachedInputTokens
    placeSent = prefill
    for (const choice of choices) {
      const fault = drain(choice, events, prepared)
      failure ??= fault
    }
    if (events.length === 0) continue
    if (context.nowMs() - capacitySentMs >= CAPACITY_EVENT_INTERVAL_MS) {
      events.push(...capacityEvents(context))
      capacitySentMs = context.nowMs()
    }
    await sink.write(events)
    for (const choice of choices) grant(choice)
  }
  signal.removeEventListener('abort', aborted)
  moving?.removeEventListener('abort', draining)
  for (const choice of choices) cancel(choice)
  await allEnded(choices, wake)
  const total = usageOf(prepared, choices)
  if (failure === undefined) {
    await sink.write([...capacityEvents(context), { type: 'usage', usage: total }])
    return { usage: total }
  }
  // What was counted is also shown: text that had arrived when the failure struck.
  const last: DispatchEvent[] = []
  for (const choice of choices) takeInbox(choice, last, prepared)
  const moved = prepared.tellsTokens ? movedBecause(failure, choices) : undefined
  if (failure.code !== 'cancelled') {
    await sink.write([
      ...last,
      moved === undefined
        ? { type: 'error', ...failure, usage: total }
        : { type: 'moved', reason: moved, usage: total },
    ])
  }
  // What goes on elsewhere as it was meant to is no failure.
  return moved === 'draining' ? { usage: total } : { usage: total, failure }
}

/** Its grace is over, and it is given up. */
const DRAINING: Failure = { code: 'engine_lost', message: 'this backend is shutting down' }

/** Why another backend shall go on; undefined: there is nothing to go on with, or it would fare no better. */
function movedBecause(failure: Failure, choices: readonly Choice[]): MoveReason | undefined {
  if (failure === DRAINING) return 'draining'
  return failure.code === 'engine_lost' && choices.some(({ tokensSeen }) => tokensSeen > 0) ? 'engine_lost' : undefined
}

const maxNewTokensOf = (prepared: Prepared, { prompt }: Plan): number => prepared.prompts[prompt]?.maxNewTokens ?? 1

function beginChoice(prepared: Prepared, { index, prompt }: Plan): Choice {
  return {
    index,
    prompt,
    output: new ChoiceOutput(prepared.vocabulary, prepared.stop, prepared.withLogprobs, prepared.answer?.markerIds),
    parts: prepared.answer === undefined ? undefined : new AnswerParts(prepared.answer.plan),
    writer: new PartWriter(prepared.requestId, index),
    inbox: [],
    tokensSeen: 0,
    owedTokens: 0,
    cancelled: false,
    finished: false,
  }
}

/** Tells again, from the first character, what another backend has sampled; its probabilities were told there. */
async function replay(choice: Choice, output: readonly number[], prepared: Prepared, sink: EventSink): Promise<void> {
  for (let at = 0; at < output.length; at += REPLAYED_TOKENS) {
    const events: DispatchEvent[] = []
    const part = join(output.slice(at, at + REPLAYED_TOKENS).map((token) => choice.output.replay(token)))
    choice.tokensSeen = Math.min(output.length, at + REPLAYED_TOKENS)
    say(choice, part, events, prepared)
    await sink.write(events)
  }
}

/** What was sampled elsewhere is all: a stop string, a call, or as many tokens as there may be. */
const endOfReplay = (outputTokens: number): SequenceEnd => ({
  kind: 'finished',
  finished: { type: 'finished', id: 0n, reason: 'length', promptTokens: 0, cachedTokens: 0, outputTokens },
})

function submitChoice(
  choice: Choice,
  prepared: Prepared,
  plan: Plan,
  connection: SessionContext['connection'],
  context: SessionContext,
  wake: () => void,
): void {
  const leftMs = Math.max(1, Math.ceil(context.deadlineAtMs - context.nowMs()))
  const parameters = {
    ...prepared.parameters,
    prompt: prepared.prompts[plan.prompt]?.ids ?? [],
    chunks: prepared.prompts[plan.prompt]?.chunks ?? [],
    maxNewTokens: maxNewTokensOf(prepared, plan),
    creditTokens: CREDIT_TOKENS,
    seed: plan.seed,
    deadlineMs: Math.min(leftMs, 0xffff_ffff),
    ...(plan.output === undefined || plan.output.length === 0 ? {} : { output: plan.output }),
  }
  choice.sequence = connection.submit(parameters, {
    token: (token) => {
      choice.tokensSeen++
      choice.inbox.push(token)
      wake()
    },
    admitted: (cachedTokens) => {
      choice.cachedTokens = cachedTokens
      wake()
    },
    end: (end) => {
      choice.end = end
      wake()
    },
  })
}

/** Turns what arrived for a choice into events. Returns the failure that ends the whole dispatch, if any. */
function drain(choice: Choice, events: DispatchEvent[], prepared: Prepared): Failure | undefined {
  if (choice.finished) return undefined
  takeInbox(choice, events, prepared)
  if (isOver(choice)) cancel(choice)
  if (choice.end === undefined) return undefined
  const ended = outcome(choice, choice.end, prepared)
  if (ended.failure !== undefined) return ended.failure
  const rest = choice.output.flush()
  if (rest.text !== '' || rest.logprobs.length > 0) say(choice, rest, events, prepared)
  if (choice.parts !== undefined) events.push(...choice.writer.events(choice.parts.flush(), choice.tokensSeen))
  choice.finished = true
  const hasCalls = choice.parts !== undefined && choice.parts.calls > 0
  const reason = hasCalls && ended.reason === 'stop' ? 'tool_calls' : ended.reason
  events.push({ type: 'finish', choice: choice.index, reason, outputTokens: sampledTokens(choice) })
  return undefined
}

/** Nothing more of it is wanted: a stop string was found, or the one call was made. */
const isOver = (choice: Choice): boolean => choice.output.stopped || choice.parts?.isOver === true

function takeInbox(choice: Choice, events: DispatchEvent[], prepared: Prepared): void {
  if (choice.inbox.length === 0) return
  const taken = choice.inbox.splice(0)
  choice.owedTokens += taken.length
  if (prepared.tellsTokens) events.push({ type: 'tokens', choice: choice.index, ids: taken.map(({ token }) => token) })
  say(choice, join(taken.map((token) => choice.output.push(token))), events, prepared)
}

/** Tokens always make an event: their count goes on even while their text is held. */
function say(choice: Choice, part: OutputPart, events: DispatchEvent[], prepared: Prepared): void {
  if (choice.parts === undefined) {
    events.push(delta(choice, part, prepared))
    return
  }
  const told = choice.writer.events(choice.parts.push(part.text), choice.tokensSeen)
  // Probabilities are of all that was sampled, and go with text, be it none.
  if (prepared.withLogprobs || told.length === 0) told.unshift(delta(choice, { ...part, text: '' }, prepared))
  events.push(...told)
}

function delta(choice: Choice, part: OutputPart, prepared: Prepared): DispatchEvent {
  const event: DispatchEvent = { type: 'delta', choice: choice.index, text: part.text, outputTokens: choice.tokensSeen }
  if (prepared.withLogprobs) event.logprobs = part.logprobs
  return event
}

const join = (parts: readonly OutputPart[]): OutputPart => ({
  text: parts.map((part) => part.text).join(''),
  logprobs: parts.flatMap((part) => part.logprobs),
})

/** A stop string that was found stands, whatever became of the sequence after it. */
function outcome(choice: Choice, end: SequenceEnd, prepared: Prepared): Outcome {
  if (isOver(choice)) return { reason: 'stop' }
  return outcomeOf(end, prepared.prompts[choice.prompt]?.ids.length ?? 0, prepared.grammarParam)
}

function cancel(choice: Choice): void {
  if (choice.cancelled || choice.end !== undefined) return
  choice.cancelled = true
  choice.sequence?.cancel()
}

function grant(choice: Choice): void {
  if (choice.cancelled || choice.end !== undefined || choice.owedTokens < GRANT_TOKENS_MIN) return
  choice.sequence?.grant(choice.owedTokens)
  choice.owedTokens = 0
}

/** Waits for the engine's final counts, at most `CANCEL_WAIT_MS`. */
async function allEnded(choices: readonly Choice[], wake: Wake): Promise<void> {
  let late = false
  const timer = setTimeout(() => {
    late = true
    wake.call()
  }, CANCEL_WAIT_MS)
  const isOpen = ({ sequence, end }: Choice) => sequence !== undefined && end === undefined
  while (!late && choices.some(isOpen)) await wake.wait()
  clearTimeout(timer)
}

/** The engine's own count where it gave one, else what was received. */
function sampledTokens(choice: Choice): number {
  return choice.end?.kind === 'finished' ? choice.end.finished.outputTokens : choice.tokensSeen
}

/** As of the sequence's first run: what it finds again after a preemption is its own. */
const cachedTokensOf = (choice: Choice): number | undefined =>
  choice.end?.kind === 'finished' ? choice.end.finished.cachedTokens : choice.cachedTokens

const promptTokens = (prepared: Prepared) => prepared.prompts.reduce((sum, prompt) => sum + prompt.ids.length, 0)

/**
 * Prompts count once each; one that was never submitted, or refused, counts nothing. What a prompt's other choices found
 * in the cache was put there by this same request.
 */
function usageOf(prepared: Prepared, choices: readonly Choice[]): DispatchUsage {
  const usage: DispatchUsage = { inputTokens: 0, cachedInputTokens: 0, outputTokens: 0 }
  prepared.prompts.forEach((prompt, index) => {
    const own = choices.filter((choice) => choice.prompt === index)
    if (own.every(({ sequence, end }) => sequence === undefined || end?.kind === 'rejected')) return
    const cached = own.flatMap((choice) => cachedTokensOf(choice) ?? [])
    const cachedTokens = Math.min(prompt.ids.length, ...(cached.length === 0 ? [0] : cached))
    usage.cachedInputTokens += cachedTokens
    usage.inputTokens += prompt.ids.length - cachedTokens
  })
  for (const choice of choices) usage.outputTokens += sampledTokens(choice)
  return usage
}

async function writeEcho(prepared: Prepared, choices: readonly Choice[], sink: EventSink): Promise<void> {
  for (const choice of choices) {
    for (const text of pieces(prepared.echo?.[choice.prompt] ?? ''))
      await sink.write([{ type: 'delta', choice: choice.index, text, outputTokens: 0 }])
  }
}

export function capacityEvents(context: SessionContext): DispatchEvent[] {
  const frame = context.capacity()
  if (frame === undefined) return []
  const kv = context.kvNews?.()
  return [kv === undefined ? { type: 'capacity', frame } : { type: 'capacity', frame, kv }]
}

type Wake = { call: () => void; wait: () => Promise<void> }

/** A flag that one loop waits on; calls before the wait are not lost. */
function createWake(): Wake {
  let called = false
  let resolve: (() => void) | undefined
  return {
    call: () => {
      called = true
      resolve?.()
    },
    wait: async () => {
      if (!called)
        await new Promise<void>((done) => {
          resolve = done
        })
      called = false
      resolve = undefined
    },
  }
}
