// What the events and bodies of each dialect say that matters here ○: whether content has come, whether it is over, an error, the
// text, the usage. Owns reading them, and nothing else of their meaning: they pass through as they are.
import type { Usage } from './errors.ts'
import type { SseEvent } from './sse.ts'
import { field } from './verdict.ts'

/**
 * What a provider can speak.
 *
 * @example
 * ```ts
 * const dialects: readonly Dialect[] = ['chat', 'messages']
 * ```
 */
export type Dialect = 'chat' | 'completions' | 'responses' | 'messages' | 'embeddings'

export type Reading = {
  /** Something that a reader would see. */
  isContent?: boolean
  /** The end mark: without one a stream broke off. */
  isEnd?: boolean
  /** An error in place of the rest. */
  isError?: boolean
  text?: string
  usage?: Usage
  /** Responses: their id, and the number of this event, by which a stream is continued. */
  responseId?: string
  sequence?: number
}

const PATHS: readonly (readonly [RegExp, Dialect])[] = [
  [/\/chat\/completions$/, 'chat'],
  [/\/completions$/, 'completions'],
  [/\/responses(\/[^/]+)?$/, 'responses'],
  [/\/messages$/, 'messages'],
  [/\/embeddings$/, 'embeddings'],
]

/** The dialect of a path; undefined for other routes, whose answers are not looked into. */
export function dialectOf(pathname: string): Dialect | undefined {
  return PATHS.find(([pattern]) => pattern.test(pathname))?.[1]
}

/** @param event An event of a stream; data that is no JSON says nothing. */
export function readEvent(dialect: Dialect, event: SseEvent): Reading {
  if (event.data === '[DONE]') return { isEnd: true }
  const value = jsonOf(event.data)
  if (value === undefined) return {}
  const type = field(value, 'type')
  if (field(value, 'error') !== undefined && field(value, 'error') !== null && dialect !== 'responses')
    return { isError: true }
  switch (dialect) {
    case 'chat':
    case 'completions':
      return readChoices(value)
    case 'messages':
      return readMessageEvent(value, type)
    case 'responses':
      return readResponseEvent(value, type)
    case 'embeddings':
      return {}
    default:
      return dialect satisfies never
  }
}

/** The usage of a whole answer. */
export const readUsage = (body: unknown): Usage | undefined => usageOf(field(body, 'usage'))

function readChoices(value: unknown): Reading {
  const reading: Reading = {}
  const usage = usageOf(field(value, 'usage'))
  if (usage !== undefined) reading.usage = usage
  for (const choice of list(field(value, 'choices'))) {
    const delta = field(choice, 'delta')
    const text = field(delta, 'content') ?? field(choice, 'text')
    if (typeof text === 'string' && text !== '') {
      reading.isContent = true
      if ((field(choice, 'index') ?? 0) === 0) reading.text = (reading.text ?? '') + text
    }
    const others = ['tool_calls', 'refusal', 'reasoning', 'reasoning_content', 'function_call']
    if (others.some((name) => !isEmpty(field(delta, name)))) reading.isContent = true
  }
  return reading
}

function readMessageEvent(value: unknown, type: unknown): Reading {
  switch (type) {
    case 'error':
      return { isError: true }
    case 'message_stop':
      return { isEnd: true }
    case 'content_block_delta': {
      const text = field(field(value, 'delta'), 'text')
      return { isContent: true, ...(typeof text === 'string' ? { text } : {}) }
    }
    case 'content_block_start':
      return { isContent: field(field(value, 'content_block'), 'type') === 'tool_use' }
    case 'message_start':
      return withUsage(usageOf(field(field(value, 'message'), 'usage')))
    case 'message_delta':
      return withUsage(usageOf(field(value, 'usage')))
    default:
      return {}
  }
}

function readResponseEvent(value: unknown, type: unknown): Reading {
  const reading: Reading = {}
  const sequence = field(value, 'sequence_number')
  if (typeof sequence === 'number') reading.sequence = sequence
  const id = field(field(value, 'response'), 'id')
  if (typeof id === 'string') reading.responseId = id
  if (typeof type !== 'string') return reading
  if (type === 'error' || type === 'response.failed') return { ...reading, isError: true }
  if (['response.completed', 'response.incomplete', 'response.cancelled'].includes(type)) {
    return { ...reading, isEnd: true, ...withUsage(usageOf(field(field(value, 'response'), 'usage'))) }
  }
  if (!type.endsWith('.delta')) return reading
  const delta = field(value, 'delta')
  const isText = type === 'response.output_text.delta' && typeof delta === 'string'
  return { ...reading, isContent: true, ...(isText ? { text: delta } : {}) }
}

const withUsage = (usage: Usage | undefined): Reading => (usage === undefined ? {} : { usage })

/** All three forms: chat and completions, responses, messages. */
function usageOf(usage: unknown): Usage | undefined {
  if (typeof usage !== 'object' || usage === null) return undefined
  const number = (value: unknown): number => (typeof value === 'number' && value > 0 ? value : 0)
  const prompt = field(usage, 'prompt_tokens')
  const isMessages =
    field(usage, 'cache_read_input_tokens') !== undefined || field(usage, 'cache_creation_input_tokens') !== undefined
  const inputDetails = field(usage, 'prompt_tokens_details') ?? field(usage, 'input_tokens_details')
  const outputDetails = field(usage, 'completion_tokens_details') ?? field(usage, 'output_tokens_details')
  const input = number(prompt ?? field(usage, 'input_tokens'))
  const output = number(field(usage, 'completion_tokens') ?? field(usage, 'output_tokens'))
  const cached = isMessages
    ? number(field(usage, 'cache_read_input_tokens'))
    : number(field(inputDetails, 'cached_tokens'))
  const written = isMessages
    ? number(field(usage, 'cache_creation_input_tokens'))
    : number(field(inputDetails, 'cache_write_tokens'))
  const reasoning = Math.min(output, number(field(outputDetails, 'reasoning_tokens')))
  return {
    // In the messages dialect the input is what no cache had; elsewhere it is all.
    inputTokens: isMessages ? input : Math.max(0, input - cached - written),
    cachedInputTokens: cached,
    cacheWriteTokens: written,
    outputTokens: output - reasoning,
    reasoningTokens: reasoning,
  }
}

/** Parts of a stream tell usage more than once, each the whole of what it knows. */
export function mergedUsage(before: Usage | undefined, now: Usage | undefined): Usage | undefined {
  if (before === undefined || now === undefined) return now ?? before
  const most = (name: keyof Usage): number => Math.max(before[name], now[name])
  return {
    inputTokens: most('inputTokens'),
    cachedInputTokens: most('cachedInputTokens'),
    cacheWriteTokens: most('cacheWriteTokens'),
    outputTokens: most('outputTokens'),
    reasoningTokens: most('reasoningTokens'),
  }
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])
const isEmpty = (value: unknown): boolean =>
  value === undefined || value === null || value === '' || (Array.isArray(value) && value.length === 0)
