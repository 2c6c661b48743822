// The guards in front of a request and behind its answer. Owns their order: what its tools may reach, then the content rules on
// the request; those on the answer become its filters. What is refused here was sent nowhere and costs nothing; what is
// blocked in an answer was computed and is charged as it was.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Job } from '../attempts/job.ts'
import { log } from '../observe/log.ts'
import type { AnswerFilter } from '../stream/filter.ts'
import { type Hook, hooksFor } from './hook.ts'
import { checkInput } from './input.ts'
import { TextRule } from './output.ts'
import { WebhookRule } from './output-webhook.ts'
import { toolsRefusal } from './rule-of-two.ts'
import { findGuards } from './rules.ts'
import { HookBudget } from './webhook.ts'
import { WorkBudget } from './work.ts'

/** Says in how many places of the request something was masked. */
const MASKED_HEADER = 'x-penstock-masked'

/**
 * The call as it may be served, or why it may not.
 * @param options.isChecked The rules on requests have seen this one already; those on answers are set up alone.
 */
export async function guardCall<C extends Job>(call: C, { isChecked = false } = {}): Promise<Result<C, Failure>> {
  const { principal, ports, request } = call
  const rules = await findGuards(principal.orgId, call.env, ports.nowMs())
  if (!rules.ok) return rules
  const { hooks, tools } = rules.value
  const refusal = toolsRefusal(request, tools, principal.capabilitiesAllowed)
  if (refusal !== undefined) {
    log('info', 'guard_refused_tools', { requestId: call.requestId, org: principal.orgId, key: principal.keyPrefix })
    return err(refusal)
  }
  if (hooks.length === 0) return ok(call)
  const budget = new HookBudget(ports.timings.hooksMs)
  const output = hooksFor(hooks, 'output', principal.projectId)
  if (request.logprobs !== undefined && output.some(changesAnswers)) {
    const message = 'Log probabilities spell the answer out and are not given where content rules stand before it.'
    return err({ code: 'invalid_request', message, param: 'logprobs' })
  }
  const checked = isChecked
    ? ok({ request, masked: 0 })
    : await checkInput(call, hooksFor(hooks, 'input', principal.projectId), budget)
  if (!checked.ok) return checked
  const { masked } = checked.value
  const guarded: C = { ...call, request: checked.value.request }
  if (masked > 0) guarded.answerHeaders = { ...call.answerHeaders, [MASKED_HEADER]: String(masked) }
  const work = new WorkBudget()
  const filters = output.map(
    (hook) => (): AnswerFilter =>
      hook.kind === 'webhook' ? new WebhookRule(guarded, hook, budget) : new TextRule(guarded, hook, work),
  )
  if (filters.length > 0) guarded.filters = [...(call.filters ?? []), ...filters]
  return ok(guarded)
}

const changesAnswers = (hook: Hook): boolean => hook.kind === 'webhook' || hook.action !== 'flag'
