// What went wrong, for a person and for a script. Owns the exit codes and how an answer of the gateway becomes one. Pure.
import { z } from 'zod'

/** By class, so that a script knows what to do next without reading words. Never renumbered. */
export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  refused: 3,
  notFound: 4,
  conflict: 5,
  limit: 6,
  unavailable: 7,
  changes: 8,
} as const
export type ExitCode = (typeof EXIT)[keyof typeof EXIT]

/** For the help text and docs/cli.md. */
export const EXIT_MEANINGS: Readonly<Record<keyof typeof EXIT, string>> = {
  done: 'done, or nothing to do',
  failed: 'it failed',
  usage: 'the command line is wrong, or a question needs a flag that answers it',
  refused: 'not signed in, or not permitted',
  notFound: 'there is no such thing',
  conflict: 'the state of things forbids it',
  limit: 'a limit or budget refused it; wait, or raise it',
  unavailable: 'the gateway, or what it needs, cannot be reached; try again',
  changes: 'a plan or dry run has found something to change',
}

/** Ends a command. `message` says what and why, `hint` what to do next. */
export class CliFailure extends Error {
  override name = 'CliFailure'
  readonly exitCode: ExitCode
  readonly code: string
  readonly hint: string | undefined
  readonly requestId: string | undefined

  constructor(
    exitCode: ExitCode,
    message: string,
    more: { code?: string; hint?: string | undefined; requestId?: string | undefined } = {},
  ) {
    super(message)
    this.exitCode = exitCode
    this.code = more.code ?? 'failed'
    this.hint = more.hint
    this.requestId = more.requestId
  }
}

export const wrongUsage = (message: string, hint?: string): CliFailure =>
  new CliFailure(EXIT.usage, message, { code: 'usage', hint })

/** All dialects have these two fields; an answer of something in between has none of them. */
const ErrorBody = z.object({ error: z.object({ message: z.string(), code: z.string().nullish() }) })

/** From an answer that is no success. */
export function failureOf(status: number, body: string, requestId: string | undefined): CliFailure {
  const told = ErrorBody.safeParse(jsonOf(body))
  const message = told.success ? told.data.error.message : `The gateway answered ${status} and no error of its own.`
  const code = told.success ? (told.data.error.code ?? `http_${status}`) : `http_${status}`
  return new CliFailure(exitCodeOf(status), message, { code, requestId, hint: hintOf(status, told.success) })
}

function exitCodeOf(status: number): ExitCode {
  if (status === 401 || status === 403) return EXIT.refused
  if (status === 404) return EXIT.notFound
  if (status === 409) return EXIT.conflict
  if (status === 429) return EXIT.limit
  if (status >= 500) return EXIT.unavailable
  return EXIT.failed
}

function hintOf(status: number, isOurs: boolean): string | undefined {
  if (!isOurs) return 'Is --url the address of a Penstock gateway? `penstock doctor` looks.'
  if (status === 401)
    return 'Set PENSTOCK_TOKEN, or name the data folder with --data; `penstock doctor` says what is used.'
  if (status >= 500) return 'Try again in a moment; what makes something new may have been done: look first.'
  return undefined
}

function jsonOf(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch {
    return undefined
  }
}
