// What the admin API's handlers share. Owns the types of their context and the refusal they throw to end a request.
import type { Context } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import type { Actor } from '../auth/actor.ts'
import type { Session } from '../dashboard/session.ts'
import type { Env } from '../env.ts'
import type { Health } from '../routing/health.ts'

export type AdminEnv = {
  Bindings: Env
  Variables: {
    /** uuid of this request, on its response, in the logs and in the audit row. */
    requestId: string
    /** Who calls; set by the guard in front of every route. */
    actor: Actor
    /** Where the call came from, where the deployment can know it. */
    clientAddress: string | undefined
    /** What this isolate knows of its targets; set by the application that mounts this one. */
    health: Health | undefined
    /** Set where the caller is a browser that is signed in, and its cookie was the credential. */
    session: Session | undefined
  }
}

export type AdminContext = Context<AdminEnv>

/** Thrown by a handler, answered by the app's error handler: the request ends here. */
export class Refusal extends Error {
  override name = 'Refusal'
  readonly failure: Failure

  constructor(failure: Failure) {
    super(failure.message)
    this.failure = failure
  }
}

/** Something stands in the way that the administrator has to change first. */
export function conflict(message: string): Refusal {
  return new Refusal({ code: 'conflict', message })
}

/** The administrator's fault, with the path of the field. */
export function invalid(param: string, message: string): Refusal {
  return new Refusal({ code: 'invalid_request', message: `${param}: ${message}`, param })
}

/** @param what e.g. `organisation` */
export function notFound(what: string): Refusal {
  return new Refusal({ code: 'not_found', message: `There is no such ${what}.` })
}
