// One answer as it comes. Owns the reading of the stream's events and what they make of an answer; times are given, in milliseconds
// of one clock. ○ Pure.
import type { ChatCompletionChunk } from '../../../protocol/dialects/openai.ts'

/** What the head of the response said. */
export type Head = {
  requestId: string | undefined
  target: string | undefined
  attempts: string | undefined
  route: string | undefined
  cache: string | undefined
  warning: string | undefined
}

export type Answer = {
  model: string
  state: 'waiting' | 'streaming' | 'done' | 'stopped' | 'failed'
  text: string
  thought: string
  failure: string | undefined
  finish: string | undefined
  head: Head | undefined
  startedMs: number
  firstMs: number | undefined
  endedMs: number | undefined
  usage: { input: number; cached: number; output: number; reasoning: number } | undefined
}

export const begun = (model: string, nowMs: number): Answer => ({
  model,
  state: 'waiting',
  text: '',
  thought: '',
  failure: undefined,
  finish: undefined,
  head: undefined,
  startedMs: nowMs,
  firstMs: undefined,
  endedMs: undefined,
  usage: undefined,
})

/** Data of the whole events in a piece of a stream, and what begins an event that is not whole yet. */
export function takeEvents(buffer: string): { events: string[]; rest: string } {
  const blocks = buffer.replaceAll('\r\n', '\n').split('\n\n')
  const rest = blocks.pop() ?? ''
  const events = blocks.flatMap((block) => {
    const lines = block.split('\n').filter((line) => line.startsWith('data:'))
    return lines.length === 0 ? [] : [lines.map((line) => line.slice(5).replace(/^ /, '')).join('\n')]
  })
  return { events, rest }
}

type Delta = ChatCompletionChunk['choices'][number]['delta'] & { content?: string | null; refusal?: string | null }
type ErrorEvent = { error?: { message?: string } }

/** The answer with one event more. `[DONE]` ends it; what cannot be read is a failure, never text. */
export function withEvent(answer: Answer, data: string, nowMs: number): Answer {
  if (data === '[DONE]') return { ...answer, state: 'done', endedMs: answer.endedMs ?? nowMs }
  let chunk: Partial<ChatCompletionChunk> & ErrorEvent
  try {
    chunk = JSON.parse(data) as Partial<ChatCompletionChunk> & ErrorEvent
  } catch {
    return failed(answer, 'The stream held something that is no event of it.', nowMs)
  }
  if (chunk.error !== undefined) return failed(answer, chunk.error.message ?? 'The stream ended with an error.', nowMs)
  const next = { ...answer }
  const choice = chunk.choices?.[0]
  if (choice !== undefined) {
    const delta: Delta = choice.delta
    next.text += (delta.content ?? '') + (delta.refusal ?? '')
    next.thought += delta.reasoning_content ?? ''
    const isContent = next.text.length + next.thought.length > answer.text.length + answer.thought.length
    if (isContent && next.firstMs === undefined) {
      next.firstMs = nowMs
      next.state = 'streaming'
    }
    if (choice.finish_reason !== null && choice.finish_reason !== undefined) {
      next.finish = choice.finish_reason
      next.endedMs = nowMs
    }
  }
  if (chunk.usage !== null && chunk.usage !== undefined) {
    next.usage = {
      input: chunk.usage.prompt_tokens,
      cached: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0,
      output: chunk.usage.completion_tokens,
      reasoning: chunk.usage.completion_tokens_details?.reasoning_tokens ?? 0,
    }
  }
  return next
}

export const failed = (answer: Answer, failure: string, nowMs: number): Answer => ({
  ...answer,
  state: 'failed',
  failure,
  endedMs: nowMs,
})

export const stopped = (answer: Answer, nowMs: number): Answer => ({ ...answer, state: 'stopped', endedMs: nowMs })

export const isOver = ({ state }: Answer): boolean => state === 'done' || state === 'stopped' || state === 'failed'

/** Tokens per second behind the first one; undefined where they came at once, or nobody counted them. */
export function tokensPerSecond(answer: Answer, outputTokens: number | undefined): number | undefined {
  const { firstMs, endedMs } = answer
  if (firstMs === undefined || endedMs === undefined || outputTokens === undefined || outputTokens < 2) return undefined
  // Below this the clock measures how the network cut the stream into pieces.
  return endedMs - firstMs < 20 ? undefined : ((outputTokens - 1) / (endedMs - firstMs)) * 1_000
}

/** A step of `x-penstock-route`: `fleet/small:ok(120ms;75%)`. */
export type RouteStep = { target: string; outcome: string; prediction: string | undefined }

export function routeSteps(route: string): RouteStep[] {
  return route.split('>').map((word) => {
    const [, target = word, outcome = '', prediction] = /^(.*):([^:(]+)(?:\((.*)\))?$/.exec(word) ?? []
    return { target, outcome, prediction }
  })
}
