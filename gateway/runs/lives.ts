// Whether a run that is found without its work goes on. Owns the rule: what an own backend has told goes on from its tokens, what told
// nothing begins again, and nothing that ends each process which takes it on is taken on for ever. Pure.
import type { Failure } from '../../protocol/errors.ts'
import { FLEET } from '../policy/targets.ts'
import type { KeptAnswer } from '../providers/answer-journal.ts'
import type { RunJob } from './runner.ts'

/** As often as an answer may move between backends. */
const LIVES_MAX = 8

export const INTERRUPTED: Failure = {
  code: 'unavailable',
  message: 'The answer was interrupted by a restart of the gateway. Send it again.',
}
export const DIVERGED: Failure = {
  code: 'backend_lost',
  message: 'The answer could not be continued as it had begun. Send it again.',
}
export const NOT_CONTINUED: Failure = {
  code: 'unavailable',
  message: 'The answer was interrupted by a restart of the gateway and could not be taken up again. Send it again.',
}

/** Of a response: created, queued where it is in the background, in progress. */
export const lastBeforeOutput = ({ echo }: RunJob): number => (echo === undefined ? -1 : echo.background ? 2 : 1)

/** How often it was begun, and how far it had come when it was last. */
export type Lives = { lives: number; events: number; tokens: number }

/** A run as its last life left it. */
export type Left = {
  before: Lives
  /** Stored events, and tokens that a backend has told. */
  events: number
  tokens: number
  /** Some of the answer was told. */
  hasOutput: boolean
  kept: KeptAnswer | undefined
}

const AGAIN = 'Send it again.'
const interrupted = (why: string): Failure => ({
  code: 'unavailable',
  message: `The answer was interrupted by a restart of the gateway${why}. ${AGAIN}`,
})

/** @returns Failure where it does not. */
export function mayLiveAgain({ before, events, tokens, hasOutput, kept }: Left): Failure | undefined {
  const hasComeFurther = events > before.events || tokens > before.tokens
  if (before.lives >= LIVES_MAX || (before.lives > 1 && !hasComeFurther))
    return interrupted(', and so was each try to go on with it')
  if (!hasOutput) return undefined
  if (kept === undefined) return interrupted(', and too little of it was kept to go on')
  const { provider } = kept.target
  if (provider === FLEET) return undefined
  return interrupted(` in the middle of what '${provider}' said, which cannot be asked to go on`)
}
