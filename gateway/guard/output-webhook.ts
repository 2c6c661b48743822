// A webhook on answers: it is asked once, about the whole answer, which waits for the verdict. Owns the waiting and its
// bound. What has gone out cannot be blocked or masked any more, so a stream under such a rule comes in one piece.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Job } from '../attempts/job.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { AnswerFilter } from '../stream/filter.ts'
import type { WebhookHook } from './hook.ts'
import { noteBlock } from './notes.ts'
import { askWebhook, type HookBudget, WEBHOOK_CHARS_MAX } from './webhook.ts'
import { tooLong } from './work.ts'

/** What is longer is refused, so waiting for more of it serves nobody. */
const WAITING_CHARS_MAX = WEBHOOK_CHARS_MAX

export class WebhookRule implements AnswerFilter {
  readonly #job: Job
  readonly #hook: WebhookHook
  readonly #budget: HookBudget
  /** Pieces of one text, and of one call, are one event: cut in pieces, a word is not seen. */
  readonly #waiting: ProviderEvent[] = []
  /** Place of each choice's last event: choices are told in turns. */
  readonly #lastOf = new Map<number, number>()
  #chars = 0

  constructor(job: Job, hook: WebhookHook, budget: HookBudget) {
    this.#job = job
    this.#hook = hook
    this.#budget = budget
  }

  async push(batch: ProviderEvent[]): Promise<Result<ProviderEvent[], Failure>> {
    const out: ProviderEvent[] = []
    for (const event of batch) {
      if (event.type === 'accepted' || event.type === 'usage' || event.type === 'error') out.push(event)
      else this.#wait(event)
    }
    if (this.#chars <= WAITING_CHARS_MAX) return ok(out)
    noteBlock(this.#job, this.#hook, 'output')
    return err(tooLong(this.#hook, 'output'))
  }

  async end(): Promise<Result<ProviderEvent[], Failure>> {
    return this.#waiting.length === 0 ? ok([]) : this.#judged()
  }

  #wait(event: WaitingEvent): void {
    this.#chars += textOf(event)?.length ?? 0
    const at = this.#lastOf.get(event.choice)
    const last = at === undefined ? undefined : this.#waiting[at]
    const joined = last === undefined ? undefined : joinedEvents(last, event)
    if (at !== undefined && joined !== undefined) {
      this.#waiting[at] = joined
      return
    }
    this.#lastOf.set(event.choice, this.#waiting.length)
    this.#waiting.push(withoutLogprobs(event))
  }

  async #judged(): Promise<Result<ProviderEvent[], Failure>> {
    const waiting = this.#waiting
    const texts = waiting.map(textOf)
    const said = texts.filter((text) => text !== undefined)
    const answer = await askWebhook(
      this.#hook,
      'output',
      said.map((text) => ({ role: 'assistant', text })),
      this.#job,
      this.#budget,
    )
    if (!answer.ok) {
      if (answer.error.code === 'content_filtered') noteBlock(this.#job, this.#hook, 'output')
      return answer
    }
    let at = 0
    return ok(
      waiting.map((event, index) => (texts[index] === undefined ? event : rewritten(event, answer.value[at++]))),
    )
  }
}

type WaitingEvent = Exclude<ProviderEvent, { type: 'accepted' | 'usage' | 'error' }>

/** Both as one, where the second goes on with what the first began. */
function joinedEvents(first: ProviderEvent, next: WaitingEvent): ProviderEvent | undefined {
  if (first.type === 'tool_call' && next.type === 'tool_call') {
    return first.call === next.call ? { ...first, ...next, arguments: first.arguments + next.arguments } : undefined
  }
  if (first.type === 'delta' && next.type === 'delta') {
    return withoutLogprobs({ ...first, ...next, text: first.text + next.text })
  }
  if (first.type === 'refusal' && next.type === 'refusal') return { ...next, text: first.text + next.text }
  if (first.type === 'thought' && next.type === 'thought' && first.seal === undefined) {
    return { ...next, text: first.text + next.text }
  }
  return undefined
}

/** They spell out what the verdict may mask. */
function withoutLogprobs(event: WaitingEvent): ProviderEvent {
  if (event.type !== 'delta') return event
  const { logprobs: _, ...said } = event
  return said
}

const textOf = (event: ProviderEvent): string | undefined => {
  if (event.type === 'delta' || event.type === 'thought' || event.type === 'refusal') return event.text
  if (event.type === 'finish') return event.refusal?.explanation
  return event.type === 'tool_call' ? event.arguments : undefined
}

/** Arguments of calls stay; a thought that is changed loses its seal. */
function rewritten(event: ProviderEvent, text: string | undefined): ProviderEvent {
  if (text === undefined) return event
  if (event.type === 'delta' || event.type === 'refusal') return { ...event, text }
  if (event.type === 'finish') return { ...event, refusal: { ...event.refusal, explanation: text } }
  if (event.type !== 'thought' || text === event.text) return event
  const { seal: _, ...open } = event
  return { ...open, text }
}
