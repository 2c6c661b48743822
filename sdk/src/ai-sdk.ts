// A provider for the `ai` package: its models answer with the fallback of this one. Owns the translation of answers; prompts are
// ai-sdk-prompt.ts, the loop call.ts.
import type {
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4StreamPart,
  LanguageModelV4Usage,
} from '@ai-sdk/provider'
import { chatRequestOf } from './ai-sdk-prompt.ts'
import { answeredBy, type EventStream, Penstock } from './client.ts'
import type { Surroundings } from './core.ts'
import type { CallOptions, ClientOptions } from './options.ts'
import type { ChatChunk, ChatCompletion, ChatUsage } from './types.ts'
import type { UsageReport } from './usage-queue.ts'

/**
 * Gives a model by its name; posts the usage of direct calls to the gateway when told to, as `Penstock.flushUsage` does.
 *
 * @example
 * ```ts
 * const penstock: PenstockProvider = createPenstock(options)
 * await penstock.flushUsage()
 * ```
 */
export type PenstockProvider = ((modelId: string) => LanguageModelV4) & { flushUsage: () => Promise<UsageReport> }

/**
 * Set `maxRetries: 0` in calls of the `ai` package: two loops of retries multiply. Further fields of the gateway's chat route go
 * in `providerOptions.penstock`, by their own names.
 *
 * @param defaults For each call.
 * @example
 * ```ts
 * const penstock = createPenstock({ gateway: { baseUrl: 'http://127.0.0.1:8787', apiKey } })
 * const { text } = await generateText({ model: penstock('small'), prompt: 'Hi', maxRetries: 0 })
 * ```
 */
export function createPenstock(
  options: ClientOptions,
  defaults: CallOptions = {},
  surroundings?: Surroundings,
): PenstockProvider {
  // An answer that begins anew has no place in a stream of the `ai` package: it would be shown twice.
  const client = new Penstock({ ...options, afterContent: 'error' }, surroundings)
  const provider = (modelId: string) => modelOf(client, modelId, { ...defaults, afterContent: 'error' })
  return Object.assign(provider, { flushUsage: () => client.flushUsage() })
}

function modelOf(client: Penstock, modelId: string, defaults: CallOptions): LanguageModelV4 {
  return {
    specificationVersion: 'v4',
    provider: 'penstock',
    modelId,
    supportedUrls: { 'image/*': [/^https?:\/\/.+$/] },
    doGenerate: async (options) => {
      const { request, warnings } = chatRequestOf(modelId, options)
      const answer = await client.chat.completions.create({ ...request, stream: false }, callOptions(options, defaults))
      return {
        content: contentOf(answer),
        finishReason: reasonOf(answer.choices[0]?.finish_reason),
        usage: usageOf(answer.usage),
        warnings,
        request: { body: request },
        response: { id: answer.id, modelId: answer.model, timestamp: new Date(answer.created * 1000), body: answer },
        providerMetadata: { penstock: { ...answeredBy(answer) } },
      }
    },
    doStream: async (options) => {
      const { request, warnings } = chatRequestOf(modelId, options)
      const stream = await client.chat.completions.create({ ...request, stream: true }, callOptions(options, defaults))
      const parts = partsOf(stream, options.includeRawChunks === true)
      return {
        stream: new ReadableStream<LanguageModelV4StreamPart>({
          start: (controller) => controller.enqueue({ type: 'stream-start', warnings }),
          async pull(controller) {
            const { done, value } = await parts.next()
            if (done === true) controller.close()
            else controller.enqueue(value)
          },
          cancel: () => stream.abort(),
        }),
        request: { body: request },
      }
    },
  }
}

function callOptions(options: LanguageModelV4CallOptions, defaults: CallOptions): CallOptions {
  const given = Object.entries(options.headers ?? {}).filter((pair): pair is [string, string] => pair[1] !== undefined)
  return {
    ...defaults,
    headers: { ...defaults.headers, ...Object.fromEntries(given) },
    ...(options.abortSignal === undefined ? {} : { signal: options.abortSignal }),
  }
}

function contentOf(answer: ChatCompletion): LanguageModelV4Content[] {
  const message = answer.choices[0]?.message
  const content: LanguageModelV4Content[] = []
  const thought = thoughtOf(message)
  if (thought !== '') content.push({ type: 'reasoning', text: thought })
  const text = message?.content ?? message?.refusal ?? ''
  if (text !== '') content.push({ type: 'text', text })
  for (const call of message?.tool_calls ?? []) {
    content.push({
      type: 'tool-call',
      toolCallId: call.id,
      toolName: call.function.name,
      input: call.function.arguments,
    })
  }
  return content
}

/** Servers call it either way. */
function thoughtOf(value: object | undefined): string {
  const { reasoning_content: content, reasoning } = (value ?? {}) as {
    reasoning_content?: unknown
    reasoning?: unknown
  }
  if (typeof content === 'string') return content
  return typeof reasoning === 'string' ? reasoning : ''
}

const REASONS: Record<string, LanguageModelV4FinishReason['unified']> = {
  stop: 'stop',
  length: 'length',
  tool_calls: 'tool-calls',
  content_filter: 'content-filter',
}

const reasonOf = (raw: string | null | undefined): LanguageModelV4FinishReason => ({
  unified: REASONS[raw ?? ''] ?? 'other',
  raw: raw ?? undefined,
})

function usageOf(usage: ChatUsage | null | undefined): LanguageModelV4Usage {
  const input = usage?.prompt_tokens
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0
  const output = usage?.completion_tokens
  const reasoning = usage?.completion_tokens_details?.reasoning_tokens ?? 0
  return {
    inputTokens: {
      total: input,
      noCache: input === undefined ? undefined : input - cached,
      cacheRead: input === undefined ? undefined : cached,
      cacheWrite: undefined,
    },
    outputTokens: {
      total: output,
      text: output === undefined ? undefined : output - reasoning,
      reasoning: output === undefined ? undefined : reasoning,
    },
  }
}

type OpenCall = { id: string; name: string; text: string; isTold: boolean }

async function* partsOf(
  stream: EventStream<ChatChunk>,
  withRaw: boolean,
): AsyncGenerator<LanguageModelV4StreamPart, void> {
  let open: 'text' | 'reasoning' | undefined
  let blocks = 0
  let hasMetadata = false
  let reason: string | undefined
  let usage: ChatUsage | undefined
  const calls = new Map<number, OpenCall>()
  const close = function* (): Generator<LanguageModelV4StreamPart> {
    if (open !== undefined) yield { type: `${open}-end`, id: String(blocks) }
    open = undefined
  }
  const say = function* (kind: 'text' | 'reasoning', delta: string): Generator<LanguageModelV4StreamPart> {
    if (delta === '') return
    if (open !== kind) {
      yield* close()
      open = kind
      yield { type: `${kind}-start`, id: String(++blocks) }
    }
    yield { type: `${kind}-delta`, id: String(blocks), delta }
  }
  try {
    for await (const chunk of stream) {
      if (withRaw) yield { type: 'raw', rawValue: chunk }
      if (!hasMetadata) {
        hasMetadata = true
        yield {
          type: 'response-metadata',
          id: chunk.id,
          modelId: chunk.model,
          timestamp: new Date(chunk.created * 1000),
        }
      }
      usage = chunk.usage ?? usage
      const choice = chunk.choices[0]
      if (choice === undefined) continue
      reason = choice.finish_reason ?? reason
      const { delta } = choice
      yield* say('reasoning', thoughtOf(delta))
      yield* say('text', delta.content ?? delta.refusal ?? '')
      for (const { index, id, function: called } of delta.tool_calls ?? []) {
        const known = calls.get(index) ?? { id: id ?? `call_${index}`, name: '', text: '', isTold: false }
        calls.set(index, known)
        known.name += called?.name ?? ''
        const text = called?.arguments ?? ''
        known.text += text
        if (!known.isTold && known.name !== '') {
          yield* close()
          known.isTold = true
          yield { type: 'tool-input-start', id: known.id, toolName: known.name }
        }
        if (text !== '') yield { type: 'tool-input-delta', id: known.id, delta: text }
      }
    }
    yield* close()
    for (const { id, name, text } of calls.values()) {
      yield { type: 'tool-input-end', id }
      yield { type: 'tool-call', toolCallId: id, toolName: name, input: text === '' ? '{}' : text }
    }
    const metadata = {
      penstock: { target: stream.target, ...(stream.requestId === undefined ? {} : { requestId: stream.requestId }) },
    }
    yield { type: 'finish', finishReason: reasonOf(reason), usage: usageOf(usage), providerMetadata: metadata }
  } catch (error) {
    yield* close()
    yield { type: 'error', error }
    yield { type: 'finish', finishReason: { unified: 'error', raw: undefined }, usage: usageOf(usage) }
  }
}
