// Whether a run that is found without its work goes on. Owns the rule: what an own backend has told goes on from its tokens, what told
// nothing begins again, and nothing that ends each process which takes it on is taken on for ever. Pure.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { FLEET } from '../policy/targets.ts'
import type { KeptAnswer } from '../providers/answer-journal.ts'
import type { RunJob } from './runner.ts'

/** As often as an answer may move between backends. */
const LIVES_MAX = 8
/** In a row, without a token or an event more: what ends each process that takes it on ends three at most. */
const FRUITLESS_MAX = 2

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

export const NOT_WRITTEN: Failure = {
  code: 'unavailable',
  message: 'The answer could not be stored as it came, and was ended. Send it again.',
}
export const NO_ROOM: Failure = {
  code: 'overloaded',
  message:
    'The gateway has no room to keep more of this stream, and has ended it. Ask for it as a plain stream, or later.',
}

/** Of a response: created, queued where it is in the background, in progress. */
export const lastBeforeOutput = ({ echo }: RunJob): number => (echo === undefined ? -1 : echo.background ? 2 : 1)

/** How often it was begun, and how far it had come when it was last. */
export type Lives = { lives: number; fruitless: number; events: number; tokens: number }

/** @param lives Before this one: 1, or 0 where it was deferred. */
export const firstLife = (lives: number): Lives => ({ lives, fruitless: 0, events: -2, tokens: 0 })

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
const interrupted = (why: string): Result<never, Failure> =>
  err({ code: 'unavailable', message: `The answer was interrupted by a restart of the gateway${why}. ${AGAIN}` })

/** @returns Failure where it does not. */
export function nextLife({ before, events, tokens, hasOutput, kept }: Left): Result<Lives, Failure> {
  const hasComeFurther = events > before.events || tokens > before.tokens
  const fruitless = hasComeFurther ? 0 : before.fruitless + 1
  const next = ok({ lives: before.lives + 1, fruitless, events, tokens })
  if (before.lives >= LIVES_MAX || fruitless >= FRUITLESS_MAX)
    return interrupted(', and so was each try to go on with it')
  if (!hasOutput) return next
  if (kept === undefined) return interrupted(', and too little of it was kept to go on')
  const { provider } = kept.target
  if (provider === FLEET) return next
  return interrupted(` in the middle of what '${provider}' said, which cannot be asked to go on`)
}
