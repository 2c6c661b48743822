// Answers of /v1/responses, whole and streamed. Owns the response object, its states and the numbers of its events; its
// output is responses-output.ts. Pure.
//
//   (queued) ──▶ in_progress ──finish──▶ completed | incomplete      (queued: in the background only)
//                     └──────────────────▶ failed | cancelled
import type {
  ResponseEcho,
  ResponseErrorCode,
  ResponseEventBody,
  ResponseObject,
  ResponseState,
  ResponseUsage,
} from '../../protocol/dialects/responses.ts'
import type { ErrorCode, Failure } from '../../protocol/errors.ts'
import { failureBody } from '../errors.ts'
import { inputTokens, outputTokens, type Usage } from '../meter/usage.ts'
import type { FinishReason, ProviderEvent } from '../providers/event.ts'
import type { CollectedChoice } from '../stream/collect.ts'
import type { AnswerEncoder } from './answer.ts'
import { inCallersWords, RESPONSE_NAMES } from './field-names.ts'
import { ResponseOutput } from './responses-output.ts'

export type ResponseMeta = {
  /** Of the response: its id without the prefix. */
  name: string
  createdAtMs: number
  echo: ResponseEcho
  nowMs: () => number
  /** Takes the finished response before the client learns that it is finished. Absent: nothing is kept. Never rejects. */
  keep?: (response: ResponseObject) => Promise<void>
}

const ID_PREFIX = 'resp_'

export const responseId = (name: string): string => `${ID_PREFIX}${name}`

export class ResponseAnswer implements AnswerEncoder {
  readonly errorDialect = 'openai'
  readonly fieldNames = RESPONSE_NAMES
  readonly #meta: ResponseMeta
  readonly #output: ResponseOutput
  #state: ResponseState
  #finish: FinishReason | undefined
  #error: ResponseObject['error'] = null
  #usage: ResponseUsage | null = null
  #completedAt: number | null = null
  #sequence = 0
  #text = ''
  #isWhole = false
  #hasBegun = false
  #hasStarted = false

  constructor(meta: ResponseMeta) {
    this.#meta = meta
    this.#state = meta.echo.background ? 'queued' : 'in_progress'
    this.#output = new ResponseOutput(meta.name, meta.echo.reasoning.summary !== null, (event) => this.#emit(event))
  }

  /** The response as it is now. */
  response(): ResponseObject {
    const { name, createdAtMs, echo } = this.#meta
    const { incomplete } = endingOf(this.#finish)
    return {
      id: responseId(name),
      object: 'response',
      created_at: Math.floor(createdAtMs / 1000),
      completed_at: this.#completedAt,
      status: this.#state,
      error: this.#error,
      incomplete_details: this.#state === 'incomplete' && incomplete !== undefined ? { reason: incomplete } : null,
      output: this.#output.items,
      usage: this.#usage,
      ...echo,
    }
  }

  /** The first events, for a stream that begins before there is content. Without effect the second time. */
  begin(): string {
    if (this.#hasBegun) return ''
    this.#hasBegun = true
    this.#emit({ type: 'response.created', response: this.response() })
    if (this.#state === 'queued') this.#emit({ type: 'response.queued', response: this.response() })
    return this.#take()
  }

  /** The work on it has begun. Without effect the second time. */
  start(): string {
    const begun = this.begin()
    if (this.#hasStarted) return begun
    this.#hasStarted = true
    this.#state = 'in_progress'
    this.#emit({ type: 'response.in_progress', response: this.response() })
    return begun + this.#take()
  }

  events(batch: ProviderEvent[]): string {
    let text = ''
    for (const event of batch) {
      switch (event.type) {
        case 'delta':
        case 'thought':
        case 'refusal':
        case 'tool_call':
          text += this.start()
          this.#output.see(event)
          break
        case 'finish':
          text += this.start()
          this.#finish = event.reason
          this.#output.close(endingOf(event.reason).incomplete === undefined ? 'completed' : 'incomplete')
          break
        case 'accepted':
        case 'usage':
        case 'error':
        case 'embedding':
          break
        default:
          event satisfies never
      }
    }
    return text + this.#take()
  }

  end(usage: Usage): string | Promise<string> {
    const begun = this.start()
    this.#complete(usage)
    const type = this.#state === 'incomplete' ? 'response.incomplete' : 'response.completed'
    return this.#last(begun, { type, response: this.response() })
  }

  /**
   * Before anything was said there is no response that could have failed, and the stream has an error event alone;
   * afterwards the response itself fails.
   */
  failure(failure: Failure, usage: Usage): string | Promise<string> {
    if (!this.#hasBegun) {
      const { code, message, param } = failureBody(inCallersWords(failure, this.fieldNames)).error
      this.#emit({ type: 'error', code, message, param })
      return this.#take()
    }
    this.#fail({ code: ERROR_CODES[failure.code], message: failure.message })
    this.#usage = usageOf(usage)
    return this.#last('', { type: 'response.failed', response: this.response() })
  }

  whole(choices: CollectedChoice[], usage: Usage): ResponseObject {
    this.#isWhole = true
    const [choice] = choices
    if (choice === undefined) throw new Error('an answer without a choice')
    let logprobs = choice.logprobs
    let call = 0
    for (const part of choice.parts) {
      const at = { choice: 0, outputTokens: 0 }
      switch (part.type) {
        case 'text':
          this.#output.see({ type: 'delta', ...at, text: part.text, logprobs })
          logprobs = []
          break
        case 'thought':
        case 'refusal':
          this.#output.see({ ...part, ...at })
          break
        case 'tool_call':
          this.#output.see({ ...part, ...at, call })
          call++
          break
        default:
          part satisfies never
      }
    }
    this.#finish = choice.finish
    this.#output.close(endingOf(choice.finish).incomplete === undefined ? 'completed' : 'incomplete')
    this.#complete(usage)
    return this.response()
  }

  /** The last event of a response that produced nothing more. */
  failed(error: NonNullable<ResponseObject['error']>): string {
    const begun = this.begin()
    this.#fail(error)
    this.#emit({ type: 'response.failed', response: this.response() })
    return begun + this.#take()
  }

  /** The last event of a response that its caller ended. */
  cancelled(): string {
    const begun = this.begin()
    this.#state = 'cancelled'
    this.#output.cut()
    // The dialect names no event of its own for this; the response's status tells.
    this.#emit({ type: 'response.incomplete', response: this.response() })
    return begun + this.#take()
  }

  #fail(error: NonNullable<ResponseObject['error']>): void {
    this.#state = 'failed'
    this.#output.cut()
    this.#error = error
  }

  #complete(usage: Usage): void {
    const { incomplete } = endingOf(this.#finish)
    this.#state = incomplete === undefined ? 'completed' : 'incomplete'
    this.#usage = usageOf(usage)
    if (incomplete === undefined) this.#completedAt = Math.floor(this.#meta.nowMs() / 1000)
  }

  #last(before: string, event: ResponseEventBody & { response: ResponseObject }): string | Promise<string> {
    this.#emit(event)
    const text = before + this.#take()
    const { keep } = this.#meta
    return keep === undefined ? text : keep(event.response).then(() => text)
  }

  #emit(event: ResponseEventBody): void {
    const sequence_number = this.#sequence++
    if (this.#isWhole) return
    const { type, ...rest } = event
    this.#text += `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number, ...rest })}\n\n`
  }

  #take(): string {
    const text = this.#text
    this.#text = ''
    return text
  }
}

function endingOf(finish: FinishReason | undefined): {
  incomplete: 'max_output_tokens' | 'content_filter' | undefined
} {
  switch (finish) {
    case 'length':
      return { incomplete: 'max_output_tokens' }
    case 'content_filter':
      return { incomplete: 'content_filter' }
    case 'stop':
    case 'tool_calls':
    case undefined:
      return { incomplete: undefined }
    default:
      return finish satisfies never
  }
}

function usageOf(usage: Usage): ResponseUsage {
  const input = inputTokens(usage)
  const output = outputTokens(usage)
  return {
    input_tokens: input,
    input_tokens_details: {
      cached_tokens: usage.inputCacheRead,
      cache_write_tokens: usage.inputCacheWrite5m + usage.inputCacheWrite1h,
    },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: usage.outputReasoning },
    total_tokens: input + output,
  }
}

/** A response knows a few words for what went wrong; the message says the rest. */
const ERROR_CODES: Record<ErrorCode, ResponseErrorCode> = {
  invalid_request: 'invalid_prompt',
  invalid_api_key: 'server_error',
  permission_denied: 'invalid_prompt',
  not_found: 'invalid_prompt',
  conflict: 'invalid_prompt',
  model_not_found: 'invalid_prompt',
  context_length_exceeded: 'invalid_prompt',
  request_too_large: 'invalid_prompt',
  content_filtered: 'invalid_prompt',
  rate_limited: 'rate_limit_exceeded',
  concurrency_limited: 'rate_limit_exceeded',
  budget_exhausted: 'rate_limit_exceeded',
  price_unknown: 'server_error',
  overloaded: 'server_error',
  no_target: 'server_error',
  deadline_exceeded: 'server_error',
  upstream_error: 'server_error',
  engine_lost: 'server_error',
  backend_lost: 'server_error',
  unavailable: 'server_error',
  cancelled: 'server_error',
  internal: 'server_error',
}
