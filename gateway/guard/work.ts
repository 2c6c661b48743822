// How much text the rules of one request may look at. Owns the arithmetic and what is said where it is too much. The runtime
// tells no time while it computes, so work is bounded by what rules can cost at worst instead of by a clock. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { Hook, HookStage } from './hook.ts'

/** Of all rules together: a second or two at the very worst, mostly milliseconds. */
const STEPS_MAX = 100_000_000

/**
 * What the rules of one request may cost together. Its text and its answer have one each: an answer that is paid for is not
 * refused because the prompt was long.
 */
export class WorkBudget {
  #leftSteps = STEPS_MAX

  /** Whether so many steps are left; they are spent then. */
  take(steps: number): boolean {
    if (steps > this.#leftSteps) return false
    this.#leftSteps -= steps
    return true
  }
}

/** What the caller is told where a rule that decides cannot look at all of the text. */
export function tooLong({ name }: Hook, stage: HookStage): Failure {
  const rule = `The content rule "${name}" of this organisation`
  return stage === 'input'
    ? { code: 'request_too_large', message: `${rule} cannot check so long a request; send less text.` }
    : { code: 'content_filtered', message: `${rule} cannot check so long an answer; ask for less.` }
}
