// The work of one run: a background response, or a stream that its client can come back to. Owns that it goes through the same life as
// every request (lifecycle.ts: plan, hold, targets, settlement), with the run as its client, and that it ends exactly once. What
// becomes of its events is runs.ts.
import type { ResponseEcho } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Job, Ports } from '../attempts.ts'
import type { Env } from '../env.ts'
import { failureResponse } from '../errors.ts'
import { guardCall } from '../guard/guard.ts'
import { type Call, serve } from '../lifecycle.ts'
import { errorText, log } from '../observe/log.ts'
import type { AnswerJournal, KeptAnswer } from '../providers/answer-journal.ts'
import type { AnswerEncoder, AnswerMeta } from '../routes/answer.ts'
import { inCallersWords } from '../routes/field-names.ts'
import { systemPorts } from '../routes/generate.ts'
import { answerOf, FAILED, type RunAnswer } from './run-answer.ts'
import type { Owner } from './stored-run.ts'

/** What is learned of targets in one run is known to the next: all runs of an isolate share their ports. */
let shared: Ports | undefined

function portsOfRuns(): Ports {
  shared ??= systemPorts()
  return shared
}

/** A stream that its client can come back to. */
export type StreamForm =
  | { dialect: 'chat' | 'completions' | 'messages'; meta: AnswerMeta }
  | { dialect: 'responses'; meta?: undefined }

/** All that a run needs of the request that asked for it. */
export type RunJob = {
  name: string
  owner: Owner
  /** Of a response. */
  echo?: ResponseEcho
  /** Absent: a background response. */
  stream?: StreamForm
  /** The items of a response's conversation, as JSON. */
  items: string
  carried: Pick<
    Job,
    | 'requestId'
    | 'receivedAtMs'
    | 'deadlineAtMs'
    | 'deadlineIsCallers'
    | 'principal'
    | 'request'
    | 'tenant'
    | 'idempotency'
    | 'hints'
    | 'tags'
  >
}

/** What a caller who waits is answered first. `body`: of a refusal. */
export type RunHead = { status: number; headers: [string, string][]; body?: string }

/** `response`: as JSON. `isRefused`: nothing was begun for it. `isAnswered`: whoever waits for its head has got its failure by that. */
export type RunEnd = { response: string; isRefused: boolean; isAnswered: boolean }

type RunnerPorts = {
  /** Takes events as they come. */
  append: (text: string) => void
  /** Takes the response as JSON when the work on it begins. */
  started: (response: string) => void
  /** Called once, after the last event. */
  ended: (end: RunEnd) => void
  journal: AnswerJournal
}

export class Runner {
  readonly #job: RunJob
  readonly #env: Env
  readonly #waitUntil: (work: Promise<unknown>) => void
  readonly #ports: RunnerPorts
  readonly #kept: KeptAnswer | undefined
  readonly #answer: RunAnswer
  readonly #gone = new AbortController()
  readonly #verdict = Promise.withResolvers<Failure | undefined>()
  readonly #head = Promise.withResolvers<RunHead>()
  #refusal: Failure | undefined
  #isDecided = false
  #isAnswered = false
  #hasEnded = false
  #isCancelled = false

  /** @param kept Of an earlier life. */
  constructor(
    job: RunJob,
    env: Env,
    waitUntil: (work: Promise<unknown>) => void,
    ports: RunnerPorts,
    kept?: KeptAnswer,
  ) {
    this.#job = job
    this.#env = env
    this.#waitUntil = waitUntil
    this.#ports = ports
    this.#kept = kept
    this.#answer = answerOf(job)
  }

  /** As JSON. */
  response(): string {
    return this.#answer.response()
  }

  /** Undefined as soon as it is certain that the work begins; a failure where the request is refused before. */
  get verdict(): Promise<Failure | undefined> {
    return this.#verdict.promise
  }

  /** As soon as a caller would have been answered. */
  get head(): Promise<RunHead> {
    return this.#head.promise
  }

  /** The first events. */
  begin(): string {
    return this.#answer.begin()
  }

  /** Resolves when the run has ended and the request is settled. Never rejects. @param first Events to be told before all others. */
  async run(first = ''): Promise<void> {
    this.#ports.append(first + this.#answer.start())
    this.#ports.started(this.#answer.response())
    try {
      const call = await guardCall(this.#call(), { isChecked: true })
      if (!call.ok) {
        this.#decide(call.error)
        await this.#answered(this.#failureOf(call.error))
        return
      }
      const response = await serve(call.value)
      if (!response.ok) await this.#answered(response)
      else {
        this.#head.resolve({ status: response.status, headers: [...response.headers] })
        await drained(response)
      }
    } catch (error) {
      log('error', 'run_threw', { requestId: this.#job.carried.requestId, error: errorText(error) })
    } finally {
      // A stream that ended without its last word was ended by its client, and here that is the run itself.
      if (!this.#hasEnded) await this.#answered(this.#failureOf(FAILED))
      this.#decide(undefined)
      this.#head.resolve({ status: 200, headers: [] })
    }
  }

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** Why nothing was begun in this life; undefined where something was. */
  get refusal(): Failure | undefined {
    return this.#refusal
  }

  get isCancelled(): boolean {
    return this.#isCancelled
  }

  /** The caller's own end: the upstream is let go, and the hold is settled as for a client that leaves. */
  cancel(): void {
    if (this.#hasEnded) return
    this.#isCancelled = true
    this.#decide(undefined)
    this.#head.resolve({ status: 200, headers: [] })
    this.#end(this.#answer.cancelled())
    this.#gone.abort()
  }

  /** Says nothing more. */
  stop(): void {
    this.#hasEnded = true
    this.#gone.abort()
  }

  #call(): Call {
    const { carried, stream } = this.#job
    const kept = this.#kept
    const { hedge: _, ...hints } = carried.hints
    return {
      ...carried,
      // Its next life goes on with one answer, and not with two.
      hints,
      env: this.#env,
      waitUntil: this.#waitUntil,
      isStream: true,
      ports: portsOfRuns(),
      encoder: this.#encoder(),
      clientGone: this.#gone.signal,
      onVerdict: (refusal) => this.#decide(refusal),
      journal: this.#ports.journal,
      ...(kept === undefined ? {} : { kept }),
      ...(stream?.dialect === 'messages' ? { errorDialect: 'messages' } : {}),
    }
  }

  /** The first word counts. */
  #decide(refusal: Failure | undefined): void {
    if (this.#isDecided) return
    this.#isDecided = true
    this.#refusal = refusal === undefined ? undefined : inCallersWords(refusal, this.#answer.encoder.fieldNames)
    this.#verdict.resolve(this.#refusal)
  }

  /** Gives every event to the run and none to the response's own body. */
  #encoder(): AnswerEncoder {
    const { encoder } = this.#answer
    return {
      errorDialect: encoder.errorDialect,
      ...(encoder.fieldNames === undefined ? {} : { fieldNames: encoder.fieldNames }),
      events: (batch) => {
        if (!this.#hasEnded) this.#ports.append(encoder.events(batch))
        return ''
      },
      end: async (usage) => {
        this.#end(await encoder.end(usage))
        return ''
      },
      failure: async (failure, usage) => {
        this.#end(await encoder.failure(failure, usage))
        return ''
      },
      whole: () => {
        throw new Error('a run is served as a stream')
      },
    }
  }

  /** With a failure, by its status: nothing of an answer has come. */
  async #answered(response: Response): Promise<void> {
    const { status, headers } = response
    const body = await response.text()
    if (this.#hasEnded) return
    this.#head.resolve({ status, headers: [...headers], body })
    this.#isAnswered = true
    this.#end(this.#answer.refused(status, body))
  }

  #failureOf(failure: Failure): Response {
    const { errorDialect: dialect, fieldNames } = this.#answer.encoder
    return failureResponse(inCallersWords(failure, fieldNames), this.#job.carried.requestId, { dialect })
  }

  #end(text: string): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    this.#ports.append(text)
    const isAnswered = this.#isAnswered && this.#job.stream !== undefined
    this.#ports.ended({ response: this.#answer.response(), isRefused: this.#refusal !== undefined, isAnswered })
  }
}

/** Reads what the pump writes, so that it goes on; only keep-alive comments come this way. */
async function drained(response: Response): Promise<void> {
  await response.body?.pipeTo(new WritableStream()).catch(() => {})
}
