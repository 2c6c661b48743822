// The way to the object that has a response. Owns which object that is, and what a caller is told where it cannot be reached.
import type { Failure } from '../../protocol/errors.ts'
import { err, type Result } from '../../protocol/result.ts'
import type { Env } from '../env.ts'
import { errorText, log } from '../observe/log.ts'
import type { Runs } from './runs.ts'
import type { Owner } from './stored-run.ts'

/** Hex digits of a response's name that choose the object: 256 objects of 10 GB for an organisation. */
const SHARE_DIGITS = 2

/**
 * The object of a response. An id of another organisation leads to an object of the asking one's own, where it is unknown.
 * A fresh stub each time: one that has seen an exception may stay broken.
 */
export const runsOf = (env: Env, owner: Owner, name: string): DurableObjectStub<Runs> =>
  env.RUNS.getByName(`${owner.orgId}/${name.slice(0, SHARE_DIGITS)}`)

export async function reachRuns<T>(
  env: Env,
  owner: Owner,
  name: string,
  ask: (runs: DurableObjectStub<Runs>) => Promise<Result<T, Failure>>,
): Promise<Result<T, Failure>> {
  try {
    return await ask(runsOf(env, owner, name))
  } catch (error) {
    log('error', 'runs_unreachable', { run: name, error: errorText(error) })
    const message = 'Stored responses cannot be reached right now; try again.'
    return err({ code: 'unavailable', message, retryAfterMs: 1000 })
  }
}
