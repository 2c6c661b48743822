// The way to the object that has a response. Owns which object that is, and what a caller is told where it cannot be reached.
import type { Failure } from '../../protocol/errors.ts'
import { err, type Result } from '../../protocol/result.ts'
import type { Env } from '../env.ts'
import { errorText, log } from '../observe/log.ts'
import type { Runs } from './runs.ts'
import type { Owner } from './stored-run.ts'

/** Hex digits of a response's name that choose the object: 256 objects of 10 GB for an organisation. */
const SHARE_DIGITS = 2

/** An object that restarts is back within a moment; one that stays away is not asked for ever. */
const TRIES_MAX = 3
const RETRY_MS = 500
const unreachable: Failure = {
  code: 'unavailable',
  message: 'Stored responses cannot be reached right now; try again.',
  retryAfterMs: 1000,
}

/**
 * The object of a response. An id of another organisation leads to an object of the asking one's own, where it is unknown.
 * A fresh stub each time: one that has seen an exception may stay broken.
 */
export const runsOf = (env: Env, owner: Owner, name: string): DurableObjectStub<Runs> =>
  env.RUNS.getByName(`${owner.orgId}/${name.slice(0, SHARE_DIGITS)}`)

/** @param again Where the object dies in the middle of it: what is asked is safe to repeat, and its caller waits for it. */
export async function reachRuns<T>(
  env: Env,
  owner: Owner,
  name: string,
  ask: (runs: DurableObjectStub<Runs>) => Promise<Result<T, Failure>>,
  { again = false } = {},
): Promise<Result<T, Failure>> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask(runsOf(env, owner, name))
    } catch (error) {
      log('error', 'runs_unreachable', { run: name, error: errorText(error) })
    }
    if (!again || attempt >= TRIES_MAX) return err(unreachable)
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}
