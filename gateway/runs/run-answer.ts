// What a run says, in the dialect that it was asked in. Owns what runs need of a dialect beside the answer itself: the events before
// it, and how one ends that was cancelled, refused or interrupted.
import * as z from 'zod'
import type { ResponseErrorCode, ResponseObject } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import { late } from '../../protocol/late.ts'
import type { ErrorDialect } from '../errors.ts'
import { errorText, log } from '../observe/log.ts'
import { jsonOrUndefined } from '../providers/json-text.ts'
import type { AnswerEncoder } from '../routes/answer.ts'
import { ChatAnswer } from '../routes/chat-answer.ts'
import { CompletionAnswer } from '../routes/completion-answer.ts'
import { MessagesAnswer } from '../routes/messages-answer.ts'
import { ResponseAnswer } from '../routes/responses-answer.ts'
import type { RunJob } from './runner.ts'

export type RunAnswer = {
  encoder: AnswerEncoder
  /** As it stands, as JSON; empty in dialects whose streams are no objects. */
  response: () => string
  /** The first events; before the work begins, and when it does. */
  begin: () => string
  start: () => string
  /** The last event of one that its caller ended. */
  cancelled: () => string
  /** The last event of one that does not go on. */
  interrupted: (failure: Failure) => string
  /** The last event of one that produced nothing more. @param body What a caller who waits would have been answered. */
  refused: (status: number, body: string) => string
}

export const FAILED: Failure = { code: 'internal', message: 'The gateway failed to serve this request.' }
export const CANCELLED: Failure = { code: 'cancelled', message: 'The stream was cancelled.' }

export function answerOf({ name, echo, stream, carried }: RunJob): RunAnswer {
  if (echo !== undefined) {
    const answer = new ResponseAnswer({ name, echo, createdAtMs: carried.receivedAtMs, nowMs: () => Date.now() })
    return {
      encoder: answer,
      response: () => JSON.stringify(answer.response()),
      begin: () => answer.begin(),
      start: () => answer.start(),
      cancelled: () => answer.cancelled(),
      interrupted: ({ message }) => answer.failed({ code: 'server_error', message }),
      refused: (status, body) => answer.failed({ code: responseCode(status), message: messageOf(body) }),
    }
  }
  if (stream?.meta === undefined) throw new Error('a run in no dialect')
  const { dialect, meta } = stream
  const encoder =
    dialect === 'chat'
      ? new ChatAnswer(meta)
      : dialect === 'completions'
        ? new CompletionAnswer(meta)
        : new MessagesAnswer(meta)
  return {
    encoder,
    response: () => '',
    begin: () => '',
    start: () => '',
    cancelled: () => encoder.failure(CANCELLED),
    interrupted: (failure) => encoder.failure(failure),
    refused: (_status, body) => errorEvent(encoder.errorDialect, body),
  }
}

/**
 * The last event of a run that is found without its work, and its response as it stands then; empty where there is none. Never throws:
 * what another release has left of one must not keep the others that are stored beside it.
 * @param number Of that event. @param job Absent: not known any more.
 */
export function interruptedEnd(
  stored: string,
  number: number,
  job: RunJob | undefined,
  failure: Failure,
): { event: string; text: string } {
  try {
    if (stored !== '') return interruptedResponse(stored, number, failure)
    return { event: job === undefined ? '' : answerOf(job).interrupted(failure), text: '' }
  } catch (error) {
    log('error', 'run_end_untold', { error: errorText(error) })
    return { event: '', text: '' }
  }
}

/** Of a response, whose events are numbered: failed, or cancelled by its caller. */
function interruptedResponse(
  stored: string,
  number: number,
  { code, message }: Failure,
): { event: string; text: string } {
  // Written by the run itself.
  const before = JSON.parse(stored) as ResponseObject
  const isCancelled = code === CANCELLED.code
  const response: ResponseObject = isCancelled
    ? { ...before, status: 'cancelled' }
    : { ...before, status: 'failed', error: { code: 'server_error', message } }
  // As the answer itself says it (routes/responses-answer.ts).
  const type = isCancelled ? 'response.incomplete' : 'response.failed'
  const event = { type, sequence_number: number, response }
  return { event: `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`, text: JSON.stringify(response) }
}

const responseCode = (status: number): ResponseErrorCode =>
  status === 429 ? 'rate_limit_exceeded' : status < 500 ? 'invalid_prompt' : 'server_error'

/** An error's body is its event's data. */
const errorEvent = (dialect: ErrorDialect, body: string): string =>
  dialect === 'messages' ? `event: error\ndata: ${body}\n\n` : `data: ${body}\n\n`

/** The error of a request that produced nothing; what is cut or of another shape is told in general words. */
const Refusal = late(() => z.object({ error: z.object({ message: z.string() }) }))

function messageOf(body: string): string {
  const parsed = Refusal.safeParse(jsonOrUndefined(body))
  return parsed.success ? parsed.data.error.message : FAILED.message
}
