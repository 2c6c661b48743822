// What happens to a call between its reading and its serving. Owns the order: guards first, so that what they mask is masked in
// the cache too and what they refuse is refused with a kept answer as well; then the response cache.
import type { Failure } from '../../protocol/errors.ts'
import type { Result } from '../../protocol/result.ts'
import type { Job } from '../attempts/job.ts'
import { prepareCache } from '../cache/use.ts'
import { guardCall } from '../guard/guard.ts'

export type Preparation = {
  /** Default: true. False for what is kept elsewhere, such as a response that its caller stores or runs in the background. */
  mayCache?: boolean
}

/**
 * The call with what its guards masked, the filters of its answer, and a kept answer where there is one.
 * @returns Failure to answer with: nothing was sent, nothing is charged.
 */
export async function prepare<C extends Job>(
  call: C,
  headers: Headers,
  { mayCache = true }: Preparation = {},
): Promise<Result<C, Failure>> {
  const guarded = await guardCall(call)
  return guarded.ok && mayCache ? prepareCache(guarded.value, headers) : guarded
}
