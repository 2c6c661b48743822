// Choices that began at another backend ○. Owns what a dispatch that resumes them must say, and which of its choices are left to
// run; telling again what was told there is session.ts.
import type { DispatchRequest } from '../protocol/dispatch.ts'
import type { Failure } from '../protocol/errors.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { Prepared } from './dispatch.ts'

type Plan = Prepared['choices'][number]

/** How many of a request's choices are computed here. */
export const choicesToRun = (request: DispatchRequest, all: number): number => request.resume?.choices.length ?? all

/**
 * The choices to run, with the output that each had elsewhere.
 * @param all of the request, in order.
 */
export function resumedChoices(
  request: DispatchRequest,
  all: readonly Plan[],
  prompts: Prepared['prompts'],
  vocabularyTokens: number,
): Result<Plan[], Failure> {
  const { resume } = request
  if (resume === undefined) return ok([...all])
  if (request.sampling.seed === undefined)
    return err(invalid('an answer can only be resumed with the seed it began with'))
  const plans: Plan[] = []
  for (const { choice: index, tokenIds } of resume.choices) {
    const plan = all[index]
    if (plan === undefined || plans.includes(plan)) return err(invalid(`choice ${index} cannot be resumed`))
    const bad = tokenIds.find((id) => id >= vocabularyTokens)
    if (bad !== undefined) return err(invalid(`token ${bad} is outside the vocabulary of ${vocabularyTokens}`))
    const room = prompts[plan.prompt]?.maxNewTokens ?? 0
    if (tokenIds.length > room) {
      const message = `${tokenIds.length} tokens of an answer were told, and there is room for ${room} here`
      return err({ code: 'context_length_exceeded', message, param: 'resume' })
    }
    plan.output = tokenIds
    plans.push(plan)
  }
  return ok(plans)
}

const invalid = (message: string): Failure => ({ code: 'invalid_request', message, param: 'resume' })
