// One item of an answer of the Responses API. Owns where in it texts, refusals, thoughts and probabilities stand, and the API's
// words for how a response ended; what follows from them is openai-responses-decoder.ts. Pure.
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import { isJson, type Json } from '../meter/normalise.ts'
import type { FinishReason } from './event.ts'

/** `thought`: as it was thought; `summary`: in other words. */
export type PartKind = 'text' | 'refusal' | 'thought' | 'summary'

/** `part`: its number among those of its kind of list. */
export type Part = { kind: PartKind; part: number; text: string; logprobs?: LogprobEntry[] }

export const textIn = (value: unknown): string => (typeof value === 'string' ? value : '')

const listIn = (value: unknown): Json[] => (Array.isArray(value) ? value.map((one) => (isJson(one) ? one : {})) : [])

/** All that an item says, in its order. @param first Number of the first part of its content. */
export function itemParts(item: Json, first = 0): Part[] {
  const content = listIn(item.content).flatMap((one, at): Part[] => {
    const part = first + at
    switch (one.type) {
      case 'output_text':
        return [{ kind: 'text', part, text: textIn(one.text), logprobs: logprobsIn(one.logprobs) }]
      case 'refusal':
        return [{ kind: 'refusal', part, text: textIn(one.refusal) }]
      case 'reasoning_text':
        return [{ kind: 'thought', part, text: textIn(one.text) }]
      default:
        return []
    }
  })
  const summary = listIn(item.summary).map((one, part): Part => ({ kind: 'summary', part, text: textIn(one.text) }))
  return [...content, ...summary]
}

const encoder = new TextEncoder()

/** Probabilities are an extra: those of an unknown shape are none. */
export function logprobsIn(value: unknown): LogprobEntry[] {
  const entries: LogprobEntry[] = []
  for (const one of listIn(value)) {
    const token = tokenIn(one)
    if (token === undefined) return []
    entries.push({ ...token, top: listIn(one.top_logprobs).flatMap((top) => tokenIn(top) ?? []) })
  }
  return entries
}

function tokenIn({ token, logprob, bytes }: Json): Omit<LogprobEntry, 'top'> | undefined {
  if (typeof token !== 'string' || typeof logprob !== 'number') return undefined
  const isBytes = Array.isArray(bytes) && bytes.every((byte) => typeof byte === 'number')
  return { text: token, bytes: isBytes ? bytes : [...encoder.encode(token)], logprob }
}

/** Undefined where it did not end. @param reason Why it is incomplete. */
export function finishOf(status: string, reason: string): FinishReason | undefined {
  switch (status) {
    case 'completed':
      return 'stop'
    case 'incomplete':
      return reason === 'content_filter' ? 'content_filter' : 'length'
    default:
      return undefined
  }
}
