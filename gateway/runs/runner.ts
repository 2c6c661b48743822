// The work of one background response. Owns that it goes through the same life as every request (lifecycle.ts: plan, hold,
// targets, settlement), with the run as its client, and that it ends exactly once. What becomes of its events is runs.ts.
import * as z from 'zod'
import type { ResponseEcho, ResponseErrorCode, ResponseObject } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Job, Ports } from '../attempts.ts'
import type { Env } from '../env.ts'
import { guardCall } from '../guard/guard.ts'
import { type Call, serve } from '../lifecycle.ts'
import { NO_USAGE } from '../meter/usage.ts'
import { errorText, log } from '../observe/log.ts'
import type { AnswerEncoder } from '../routes/answer.ts'
import { inCallersWords } from '../routes/field-names.ts'
import { systemPorts } from '../routes/generate.ts'
import { ResponseAnswer } from '../routes/responses-answer.ts'
import type { Owner } from './stored-run.ts'

/** What is learned of targets in one run is known to the next: all runs of an isolate share their ports. */
let shared: Ports | undefined

function portsOfRuns(): Ports {
  shared ??= systemPorts()
  return shared
}

/** All that a run needs of the request that asked for it. */
export type RunJob = {
  name: string
  owner: Owner
  echo: ResponseEcho
  /** The items of its conversation, as JSON. */
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

export type RunnerPorts = {
  /** Takes events as they come. */
  append: (text: string) => void
  /** Takes the response as JSON when the work on it begins. */
  started: (response: string) => void
  /**
   * Takes the response as JSON when it has ended; called once, after the last event.
   * @param wasRefused Nothing was ever begun for it.
   */
  ended: (response: string, wasRefused: boolean) => void
}

/** The error of a request that produced nothing; what is cut or of another shape is told in general words. */
const Refusal = z.object({ error: z.object({ message: z.string() }) })

export class Runner {
  readonly #job: RunJob
  readonly #env: Env
  readonly #waitUntil: (work: Promise<unknown>) => void
  readonly #ports: RunnerPorts
  readonly #answer: ResponseAnswer
  readonly #gone = new AbortController()
  readonly #verdict = Promise.withResolvers<Failure | undefined>()
  #refusal: Failure | undefined
  #isDecided = false
  #hasEnded = false

  constructor(job: RunJob, env: Env, waitUntil: (work: Promise<unknown>) => void, ports: RunnerPorts) {
    this.#job = job
    this.#env = env
    this.#waitUntil = waitUntil
    this.#ports = ports
    const { name, echo, carried } = job
    this.#answer = new ResponseAnswer({ name, echo, createdAtMs: carried.receivedAtMs, nowMs: () => Date.now() })
  }

  response(): ResponseObject {
    return this.#answer.response()
  }

  /** Undefined as soon as it is certain that the work begins; a failure where the request is refused before. */
  get verdict(): Promise<Failure | undefined> {
    return this.#verdict.promise
  }

  /** The first events. */
  begin(): string {
    return this.#answer.begin()
  }

  /** Resolves when the response has ended and the request is settled. Never rejects. */
  async run(): Promise<void> {
    this.#ports.append(this.#answer.start())
    this.#ports.started(JSON.stringify(this.#answer.response()))
    try {
      const call = await guardCall(this.#call(), { isChecked: true })
      if (!call.ok) {
        this.#decide(call.error)
        this.#end(await this.#answer.failure(call.error, NO_USAGE))
        return
      }
      const response = await serve(call.value)
      if (response.ok) await drained(response)
      else if (!this.#hasEnded) await this.#refused(response)
      // A stream that ended without its last word was ended by its client, and here that is the run itself.
      if (!this.#hasEnded) this.#failed('server_error', 'The gateway failed to serve this request.')
    } catch (error) {
      log('error', 'run_threw', { requestId: this.#job.carried.requestId, error: errorText(error) })
      this.#failed('server_error', 'The gateway failed to serve this request.')
    } finally {
      this.#decide(undefined)
    }
  }

  /** The caller's own end: the upstream is let go, and the hold is settled as for a client that leaves. */
  cancel(): void {
    if (this.#hasEnded) return
    this.#decide(undefined)
    this.#end(this.#answer.cancelled())
    this.#gone.abort()
  }

  #call(): Call {
    return {
      ...this.#job.carried,
      env: this.#env,
      waitUntil: this.#waitUntil,
      isStream: true,
      ports: portsOfRuns(),
      encoder: this.#encoder(),
      clientGone: this.#gone.signal,
      onVerdict: (refusal) => this.#decide(refusal),
    }
  }

  /** The first word counts. */
  #decide(refusal: Failure | undefined): void {
    if (this.#isDecided) return
    this.#isDecided = true
    this.#refusal = refusal === undefined ? undefined : inCallersWords(refusal, this.#answer.fieldNames)
    this.#verdict.resolve(this.#refusal)
  }

  /** Gives every event to the run and none to the response's own body. */
  #encoder(): AnswerEncoder {
    const answer = this.#answer
    return {
      errorDialect: answer.errorDialect,
      fieldNames: answer.fieldNames,
      events: (batch) => {
        if (!this.#hasEnded) this.#ports.append(answer.events(batch))
        return ''
      },
      end: async (usage) => {
        this.#end(await answer.end(usage))
        return ''
      },
      failure: async (failure, usage) => {
        this.#end(await answer.failure(failure, usage))
        return ''
      },
      whole: () => {
        throw new Error('a run is served as a stream')
      },
    }
  }

  async #refused(response: Response): Promise<void> {
    const body = Refusal.safeParse(await response.json().catch(() => undefined))
    const message = body.success ? body.data.error.message : 'The gateway failed to serve this request.'
    if (response.status === 429) this.#failed('rate_limit_exceeded', message)
    else this.#failed(response.status < 500 ? 'invalid_prompt' : 'server_error', message)
  }

  #failed(code: ResponseErrorCode, message: string): void {
    this.#end(this.#hasEnded ? '' : this.#answer.failed({ code, message }))
  }

  #end(text: string): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    this.#ports.append(text)
    this.#ports.ended(JSON.stringify(this.#answer.response()), this.#refusal !== undefined)
  }
}

/** Reads what the pump writes, so that it goes on; only keep-alive comments come this way. */
async function drained(response: Response): Promise<void> {
  await response.body?.pipeTo(new WritableStream()).catch(() => {})
}
