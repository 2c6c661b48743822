// The events of a call after its first content: passed on as they are, until the end mark. Owns what happens when they break off:
// a background response and a stream that the gateway keeps are continued where they stopped, an answer is begun anew where the caller
// allows it, else the error says what had come.
import { answer, type Call, stopped, type Won } from './call.ts'
import type { Core } from './core.ts'
import { pause } from './deadline.ts'
import { mergedUsage } from './dialect.ts'
import { PenstockError, StreamInterruptedError, type Usage } from './errors.ts'
import { tell } from './report.ts'
import { cancelStream, streamIdOf, takenUp } from './resume.ts'
import { pauseMs } from './retry-after.ts'
import type { SseEvent } from './sse.ts'
import { dialectFor } from './target.ts'

/** How often one stream is taken up again at the same event. */
const RESUMES_MAX = 10
/** Begun anew so often: an answer that never comes through is better an error. */
const RESTARTS_MAX = 2
export const RESTART_EVENT = 'penstock.restart'

type Progress = {
  /** Its usage was told. */
  isTold: boolean
  text: string
  usage: Usage | undefined
  hasEnded: boolean
  /** An error of the answer itself has ended it. */
  hasFailed: boolean
  responseId: string | undefined
  sequence: number | undefined
  lastEventId: string | undefined
}

/** The answer that is passed on now, and how far it has come. */
type Passing = { current: Won; progress: Progress /** Nobody has to end it. */; isLeft: boolean }

/**
 * Everything of the answer, from its first event.
 * @throws StreamInterruptedError, or PenstockError `aborted` or `timeout`.
 */
export function eventsOf(core: Core, call: Call, won: Won): AsyncGenerator<SseEvent, void, undefined> {
  const passing: Passing = { current: won, progress: newProgress(), isLeft: false }
  // A stream that nobody reads, or that is left in the middle, was computed all the same.
  const onAbort = () => {
    report(core, call, passing)
    leave(core, passing)
  }
  call.scope.signal.addEventListener('abort', onAbort, { once: true })
  return passAll(core, call, passing)
}

async function* passAll(core: Core, call: Call, passing: Passing): AsyncGenerator<SseEvent, void, undefined> {
  const asked = call.request
  let resumes = 0
  let stoodAt = ''
  let restarts = 0
  try {
    for (;;) {
      const { current, progress } = passing
      const broken = yield* passOn(current, progress)
      if (broken === undefined) return
      call.scope.signal.throwIfAborted()
      const standsAt = `${progress.lastEventId} ${progress.sequence}`
      if (standsAt !== stoodAt) resumes = 0
      stoodAt = standsAt
      const streamId = streamIdOf(current)
      if (streamId !== undefined && !progress.hasFailed && resumes < RESUMES_MAX) {
        const next = await takenUp(core, call, { streamId, lastEventId: progress.lastEventId, resumes: resumes++ })
        if (next === 'gone') passing.isLeft = true
        else if (next !== 'lost') {
          passing.current = { ...next, requestId: current.requestId }
          continue
        }
        call.request = asked
      }
      const isBackground =
        call.request.body?.background === true || (call.request.method === 'GET' && call.request.began === undefined)
      if (isBackground && progress.responseId !== undefined && resumes < RESUMES_MAX) {
        passing.current = await resumed(core, call, progress.responseId, progress.sequence, resumes++)
        continue
      }
      const afterContent = call.options.afterContent ?? core.afterContent
      if (afterContent === 'error' || restarts++ >= RESTARTS_MAX) throw interrupted(call, current, progress, broken)
      report(core, call, passing)
      // The old answer costs as long as it goes on, and nobody reads it any more.
      leave(core, passing)
      yield { event: RESTART_EVENT, data: JSON.stringify({ type: RESTART_EVENT, restart: restarts }) }
      if (current.target.isGateway) call.isGatewayDown = true
      // What was begun under the old key is over: the ledger has it as broken off, and this is another answer.
      call.idempotencyKey = core.newId()
      passing.current = await answer(core, call)
      passing.progress = newProgress()
      passing.isLeft = false
    }
  } catch (error) {
    throw error instanceof PenstockError ? error : stopped(call, error)
  } finally {
    if (passing.current.kind === 'stream') passing.current.reader.close()
    report(core, call, passing)
    leave(core, passing)
    call.scope.abort(new Error('the call is over'))
  }
}

const newProgress = (): Progress => ({
  isTold: false,
  text: '',
  usage: undefined,
  hasEnded: false,
  hasFailed: false,
  responseId: undefined,
  sequence: undefined,
  lastEventId: undefined,
})

/** @returns what broke it off; undefined at its proper end. */
async function* passOn(won: Won, progress: Progress): AsyncGenerator<SseEvent, unknown, undefined> {
  if (won.kind === 'whole') return undefined
  let batch: Awaited<ReturnType<typeof won.reader.next>> = won.first
  try {
    while (batch !== undefined) {
      for (const { event, reading } of batch) {
        if (reading.isError === true) {
          progress.hasFailed = true
          return new Error(`the stream ended with an error: ${event.data.slice(0, 500)}`)
        }
        progress.text += reading.text ?? ''
        progress.usage = mergedUsage(progress.usage, reading.usage)
        progress.responseId = reading.responseId ?? progress.responseId
        progress.sequence = reading.sequence ?? progress.sequence
        progress.lastEventId = event.id ?? progress.lastEventId
        if (reading.isEnd === true) progress.hasEnded = true
        yield event
      }
      if (progress.hasEnded) return undefined
      batch = await won.reader.next()
    }
    return new Error('the stream ended without its end mark')
  } catch (error) {
    return error
  }
}

/** A kept response goes on behind the last event that was seen. */
async function resumed(
  core: Core,
  call: Call,
  id: string,
  sequence: number | undefined,
  resumes: number,
): Promise<Won> {
  await pause(pauseMs(resumes, undefined, core.random()), call.scope.signal)
  const query = sequence === undefined ? 'stream=true' : `stream=true&starting_after=${sequence}`
  call.request = {
    method: 'GET',
    path: `/responses/${encodeURIComponent(id)}?${query}`,
    headers: call.request.headers,
    isStream: true,
  }
  call.isGatewayDown = false
  return await answer(core, call)
}

function interrupted(call: Call, won: Won, progress: Progress, cause: unknown): StreamInterruptedError {
  const { responseId, sequence } = progress
  const isKept = dialectFor(call.request) === 'responses' && responseId !== undefined && won.target.isGateway
  return new StreamInterruptedError(
    'the stream broke off after content had come',
    {
      origin: won.target.isGateway ? 'gateway' : 'provider',
      target: won.target.name,
      attempts: call.attempts,
      ...(won.requestId === undefined ? {} : { requestId: won.requestId }),
      cause,
    },
    {
      text: progress.text,
      usage: progress.usage,
      resumeToken: isKept ? `${responseId}:${sequence ?? -1}` : undefined,
    },
  )
}

/** A stream that the gateway keeps would go on without us. */
function leave(core: Core, passing: Passing): void {
  const { current, progress } = passing
  const streamId = streamIdOf(current)
  if (streamId === undefined || passing.isLeft || progress.hasEnded || progress.hasFailed) return
  passing.isLeft = true
  cancelStream(core, streamId)
}

/** Each answer is told once. */
function report(core: Core, call: Call, { current, progress }: Passing): void {
  if (progress.isTold) return
  progress.isTold = true
  const isWhole = progress.hasEnded || current.kind === 'whole'
  tell(core, call, current, isWhole ? 'answered' : 'interrupted', progress.usage)
}
