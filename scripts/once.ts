// One prompt through the whole system, as any client would send it. Owns the request, the printing and the comparison of
// what the response says with what was written down about it.
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { type AdminClient, AdminError } from './admin-client.ts'

export type OnceOptions = {
  prompt: string
  maxTokens: number
  json: boolean
  signal: AbortSignal
}

export type OnceSystem = { baseUrl: string; apiKey: string; orgId: string; model: string; admin: AdminClient }

/** Where the answer goes; the default is standard output. */
export type OnceOutput = (text: string) => void

export type Answer = {
  requestId: string
  text: string
  finishReason: string | null
  inputTokens: number
  outputTokens: number
  firstTokenMs: number
  /** Between the first and the last token; undefined for an answer of one token. */
  tokensPerSecond: number | undefined
}

/** The usage row is written behind the answer, in batches; far above what that takes. */
const USAGE_ROW_TIMEOUT_MS = 15_000
const USAGE_ROW_POLL_MS = 50

const Chunk = z.object({
  choices: z
    .array(
      z.object({ delta: z.object({ content: z.string().nullish() }).optional(), finish_reason: z.string().nullish() }),
    )
    .default([]),
  usage: z.object({ prompt_tokens: z.number(), completion_tokens: z.number() }).nullish(),
  error: z.object({ message: z.string() }).nullish(),
})

/**
 * Streams the answer, then prints tokens, cost and speed. Temperature 0: the same prompt gives the same answer.
 * @throws Error when the answer or its usage row is not what it should be
 */
export async function answerOnce(
  system: OnceSystem,
  options: OnceOptions,
  write: OnceOutput = (text) => void process.stdout.write(text),
): Promise<void> {
  let printed = ''
  const show = (text: string) => {
    printed = text
    write(text)
  }
  const answer = await ask(system, options, options.json ? () => {} : show).finally(() => {
    if (printed !== '' && !printed.endsWith('\n')) write('\n')
  })
  const row = await usageRow(system, answer.requestId, options.signal)
  if (row.inputTokens !== answer.inputTokens || row.outputTokens !== answer.outputTokens) {
    throw new Error(
      `request ${answer.requestId}: the response counts ${answer.inputTokens} + ${answer.outputTokens} tokens, ` +
        `the usage row ${row.inputTokens} + ${row.outputTokens}`,
    )
  }
  if (options.json) {
    write(`${JSON.stringify({ event: 'answer', model: system.model, ...answer, costUsd: row.costUsd })}\n`)
    return
  }
  const speed = answer.tokensPerSecond === undefined ? '' : `, ${answer.tokensPerSecond.toFixed(1)} tokens/s`
  const cut = answer.finishReason === 'length' ? `(cut at ${options.maxTokens} tokens; --max-tokens allows more)\n` : ''
  write(
    `${cut}\n${system.model}: ${answer.inputTokens} input + ${answer.outputTokens} output tokens, $${row.costUsd}, ` +
      `first token after ${Math.round(answer.firstTokenMs)} ms${speed}\n`,
  )
}

async function ask(system: OnceSystem, options: OnceOptions, write: OnceOutput): Promise<Answer> {
  const startedMs = performance.now()
  const response = await fetch(`${system.baseUrl}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${system.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      model: system.model,
      messages: [{ role: 'user', content: options.prompt }],
      max_tokens: options.maxTokens,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    }),
    signal: options.signal,
  })
  if (!response.ok || response.body === null) {
    throw new Error(`the gateway answered ${response.status}: ${await response.text()}`)
  }
  const requestId = response.headers.get('x-request-id')
  if (requestId === null) throw new Error('the response has no x-request-id')
  let text = ''
  let finishReason: string | null = null
  let usage: { prompt_tokens: number; completion_tokens: number } | undefined
  let firstMs: number | undefined
  let lastMs = startedMs
  let ended = false
  for await (const data of serverSentData(response.body)) {
    if (data === '[DONE]') {
      ended = true
      break
    }
    const chunk = Chunk.parse(JSON.parse(data))
    if (chunk.error) throw new Error(`the stream broke off: ${chunk.error.message}`)
    if (chunk.usage) usage = chunk.usage
    const choice = chunk.choices[0]
    if (choice?.finish_reason) finishReason = choice.finish_reason
    const content = choice?.delta?.content
    if (!content) continue
    lastMs = performance.now()
    firstMs ??= lastMs
    text += content
    write(content)
  }
  if (!ended) throw new Error('the stream ended without [DONE]')
  if (usage === undefined) throw new Error('the stream ended without usage')
  const decodeMs = lastMs - (firstMs ?? lastMs)
  const outputTokens = usage.completion_tokens
  return {
    requestId,
    text,
    finishReason,
    inputTokens: usage.prompt_tokens,
    outputTokens,
    firstTokenMs: (firstMs ?? lastMs) - startedMs,
    tokensPerSecond: outputTokens > 1 && decodeMs > 0 ? (outputTokens - 1) / (decodeMs / 1000) : undefined,
  }
}

/** The data of each server-sent event, in order. */
export async function* serverSentData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true })
    const events = rest.split(/\r?\n\r?\n/)
    rest = events.pop() ?? ''
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith('data:'))
      if (lines.length > 0) yield lines.map((line) => line.slice(5).replace(/^ /, '')).join('\n')
    }
  }
}

const UsageRow = z.object({
  input_tokens: z.number(),
  output_tokens: z.number(),
  cost_usd: z.string(),
})

async function usageRow({ admin, orgId }: OnceSystem, requestId: string, signal: AbortSignal) {
  const until = performance.now() + USAGE_ROW_TIMEOUT_MS
  for (;;) {
    signal.throwIfAborted()
    try {
      const row = await admin.call('GET', `/usage/requests/${requestId}?org=${orgId}`, UsageRow)
      return { inputTokens: row.input_tokens, outputTokens: row.output_tokens, costUsd: row.cost_usd }
    } catch (error) {
      if (!(error instanceof AdminError) || error.status !== 404) throw error
      if (performance.now() > until) {
        throw new Error(`no usage row for request ${requestId} after ${USAGE_ROW_TIMEOUT_MS / 1000} s`)
      }
      await sleep(USAGE_ROW_POLL_MS, undefined, { signal })
    }
  }
}
