// Content rules on requests. Owns their order and what each finding leads to; what a rule looks for is finder.ts, who is
// asked webhook.ts.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Job } from '../attempts/job.ts'
import type { TextHook, WebhookHook } from './hook.ts'
import { type Masked, maskText, stepsOf } from './mask.ts'
import { noteBlock, noteFlags, noteSkip } from './notes.ts'
import { hasTokenPrompts, type LeftText, type SeenText, textsOf, withTexts } from './texts.ts'
import { askWebhook, type HookBudget } from './webhook.ts'
import { tooLong, WorkBudget } from './work.ts'

export type Checked = {
  request: InferenceRequest
  /** Places in which something was masked. */
  masked: number
}

/**
 * The request after all rules, in their order: each sees what the one before left.
 * @returns Failure `content_filtered` of the first rule that blocks, `request_too_large` where a rule cannot look at all of
 *   it, `invalid_request` for prompts that no rule can read, `unavailable` of a webhook that does not answer and is closed.
 */
export async function checkInput(
  job: Job,
  hooks: readonly (TextHook | WebhookHook)[],
  budget: HookBudget,
): Promise<Result<Checked, Failure>> {
  let { request } = job
  if (hooks.length === 0) return ok({ request, masked: 0 })
  if (hasTokenPrompts(request)) {
    const message = 'Content rules of this organisation read text: send the prompt as text, not as token ids.'
    return err({ code: 'invalid_request', message, param: request.input.kind === 'embedding' ? 'input' : 'prompt' })
  }
  const work = new WorkBudget()
  let masked = 0
  for (const hook of hooks) {
    const seen = textsOf(request)
    const checked = hook.kind === 'webhook' ? await asked(job, hook, seen, budget) : looked(job, hook, seen, work)
    if (!checked.ok) return checked
    const changed = checked.value.reduce((sum, left, index) => sum + changes(left, seen[index]), 0)
    if (changed === 0) continue
    masked += changed
    request = withTexts(request, checked.value)
  }
  return ok({ request, masked })
}

/** Places in which a text is another one. */
function changes(left: LeftText, seen: SeenText | undefined): number {
  const parts = seen?.parts ?? []
  return left.length === parts.length ? left.filter((text, index) => text !== parts[index]).length : 1
}

/** The texts as this rule leaves them. */
function looked(job: Job, hook: TextHook, seen: readonly SeenText[], work: WorkBudget): Result<LeftText[], Failure> {
  const chars = seen.reduce((sum, { parts }) => sum + (parts.length > 1 ? LOOKS_MAX : 1) * charsOf(parts), 0)
  if (!work.take(stepsOf(hook.finders, chars))) {
    if (hook.action !== 'flag') return err(tooLong(hook, 'input'))
    noteSkip(job, hook, 'input')
    return ok(seen.map(({ parts }) => parts))
  }
  const flags: string[] = []
  const texts: LeftText[] = []
  for (const { parts, isFixed } of seen) {
    const { left, found } = lookedAt(parts, hook)
    if (found.length > 0 && hook.action === 'block') {
      noteBlock(job, hook, 'input')
      return err({ code: 'content_filtered', message: hook.message })
    }
    if (hook.action === 'flag') flags.push(...found)
    texts.push(hook.action === 'mask' && !isFixed ? left : parts)
  }
  noteFlags(job, hook, 'input', flags)
  return ok(texts)
}

const charsOf = (parts: readonly string[]): number => parts.reduce((sum, { length }) => sum + length, 0)

/** At a text of several parts: at them, at all in a row, and once more where that says something new. */
const LOOKS_MAX = 3

/** Each part by itself, then all in a row: some targets are sent the one, some the other. */
function lookedAt(parts: readonly string[], { finders, replacement }: TextHook): { left: LeftText; found: string[] } {
  const masked = parts.map((text): Masked => maskText(text, finders, replacement))
  const left = masked.map(({ text }) => text)
  const found = masked.flatMap((one) => one.found)
  if (parts.length === 1) return { left, found }
  const across = maskText(parts.join(''), finders, replacement)
  // What stands in one part is found again; only what is new there is cut by a border of parts.
  if (across.found.length === 0 || across.text === left.join('')) return { left, found }
  const joined = maskText(left.join(''), finders, replacement)
  if (joined.found.length === 0) return { left, found }
  return { left: [joined.text], found: [...found, ...joined.found] }
}

async function asked(
  job: Job,
  hook: WebhookHook,
  seen: readonly SeenText[],
  budget: HookBudget,
): Promise<Result<LeftText[], Failure>> {
  const texts = seen.map(({ role, parts }) => ({ role, text: parts.join('') }))
  const answer = await askWebhook(hook, 'input', texts, job, budget)
  if (!answer.ok) {
    if (answer.error.code === 'content_filtered') noteBlock(job, hook, 'input')
    return answer
  }
  return ok(
    seen.map(({ parts, isFixed }, index) => {
      const said = answer.value[index]
      return isFixed || said === undefined || said === texts[index]?.text ? parts : [said]
    }),
  )
}
