// Content rules on answers. Owns which events carry text, that a rule sees each run of text as a whole however it was cut,
// and that nothing of what a rule blocks goes out before it is found. Tool calls are looked at and never changed: a masked
// argument would make the tool do something else.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Job } from '../attempts/job.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { AnswerFilter } from '../stream/filter.ts'
import type { TextHook } from './hook.ts'
import { type Masked, maskText, stepsOf, TextMask } from './mask.ts'
import { noteBlock, noteFlags, noteSkip } from './notes.ts'
import { tooLong, type WorkBudget } from './work.ts'

type TextEvent = ProviderEvent & { type: 'delta' | 'thought' | 'refusal' }
type FinishEvent = ProviderEvent & { type: 'finish' }
type CallEvent = ProviderEvent & { type: 'tool_call' }

/** One choice on its way through a rule. */
type Run = {
  /** Of the text that is held back. */
  kind: TextEvent['type'] | undefined
  text: TextMask
  /** The call whose arguments are being looked at. */
  call: number | undefined
  arguments: TextMask
  outputTokens: number
  /** The thought so far is not what the target said: its seal is void. */
  isChanged: boolean
}

/** One text rule of an organisation over one answer. */
export class TextRule implements AnswerFilter {
  readonly #job: Job
  readonly #hook: TextHook
  readonly #work: WorkBudget
  readonly #runs = new Map<number, Run>()
  readonly #flags: string[] = []
  #isBlocked = false
  #isTooLong = false

  /** @param work Of all rules over this answer. */
  constructor(job: Job, hook: TextHook, work: WorkBudget) {
    this.#job = job
    this.#hook = hook
    this.#work = work
  }

  async push(batch: ProviderEvent[]): Promise<Result<ProviderEvent[], Failure>> {
    // A rule that only looks holds nothing back, so nothing is lost.
    if (this.#isTooLong) return ok(batch)
    const out: ProviderEvent[] = []
    for (const [index, event] of batch.entries()) {
      if (!this.#mayLook(event)) {
        this.#isTooLong = true
        if (this.#hook.action === 'flag') {
          noteSkip(this.#job, this.#hook, 'output')
          return ok([...out, ...batch.slice(index)])
        }
        break
      }
      switch (event.type) {
        case 'delta':
        case 'thought':
        case 'refusal':
          this.#say(event, out)
          break
        case 'tool_call':
          this.#call(event, out)
          break
        case 'finish':
          this.#flush(event.choice, out)
          out.push(this.#finished(event))
          break
        case 'accepted':
        case 'embedding':
        case 'usage':
        case 'error':
          out.push(event)
          break
        default:
          event satisfies never
      }
    }
    return this.#verdict(out)
  }

  async end(): Promise<Result<ProviderEvent[], Failure>> {
    const out: ProviderEvent[] = []
    for (const choice of this.#runs.keys()) this.#flush(choice, out)
    noteFlags(this.#job, this.#hook, 'output', this.#flags)
    return this.#verdict(out)
  }

  #verdict(out: ProviderEvent[]): Result<ProviderEvent[], Failure> {
    if (this.#isBlocked) {
      noteBlock(this.#job, this.#hook, 'output')
      return err({ code: 'content_filtered', message: this.#hook.message })
    }
    return this.#isTooLong && this.#hook.action !== 'flag' ? err(tooLong(this.#hook, 'output')) : ok(out)
  }

  /** Whether there is work left for what the event says. */
  #mayLook(event: ProviderEvent): boolean {
    switch (event.type) {
      case 'delta':
      case 'thought':
      case 'refusal':
        return this.#work.take(this.#runOf(event.choice).text.steps(event.text.length))
      case 'tool_call':
        return this.#work.take(this.#runOf(event.choice).arguments.steps(event.arguments.length))
      case 'finish':
        return this.#work.take(stepsOf(this.#hook.finders, event.refusal?.explanation?.length ?? 0))
      default:
        return true
    }
  }

  #say(event: TextEvent, out: ProviderEvent[]): void {
    const run = this.#runOf(event.choice)
    if (run.kind !== event.type || run.call !== undefined) this.#flush(event.choice, out)
    run.kind = event.type
    run.outputTokens = event.outputTokens
    const text = this.#pass(run, event.text, run.text.push(event.text))
    if (event.type === 'delta') {
      this.#delta({ ...event, text }, out)
      return
    }
    if (event.type !== 'thought' || event.seal === undefined) {
      if (text !== '') out.push({ ...event, text })
      return
    }
    // The seal closes the thought, and holds for what the target said alone.
    const whole = text + this.#pass(run, '', run.text.end())
    const { seal, ...open } = event
    out.push(run.isChanged ? { ...open, text: whole } : { ...open, text: whole, seal })
    run.isChanged = false
  }

  /** Log probabilities spell out what is masked or held back. */
  #delta(event: ProviderEvent & { type: 'delta' }, out: ProviderEvent[]): void {
    if (this.#hook.action === 'flag') {
      if (event.text !== '' || event.logprobs !== undefined) out.push(event)
      return
    }
    const { logprobs: _, ...said } = event
    if (said.text !== '') out.push(said)
  }

  #call(event: CallEvent, out: ProviderEvent[]): void {
    const run = this.#runOf(event.choice)
    if (run.call !== event.call) this.#flush(event.choice, out)
    run.call = event.call
    run.outputTokens = event.outputTokens
    const decided = run.arguments.push(event.arguments)
    this.#note(decided)
    if (this.#hook.action !== 'block') {
      out.push(event)
      return
    }
    // What a rule that blocks has not found anything in goes on as it came.
    const hasMore = event.id !== undefined || event.name !== undefined || event.seal !== undefined
    if (decided.text !== '' || hasMore) out.push({ ...event, arguments: decided.text })
  }

  /** Why a target withheld an answer is a text of its own. */
  #finished(event: FinishEvent): FinishEvent {
    const { explanation } = event.refusal ?? {}
    if (explanation === undefined) return event
    const masked = maskText(explanation, this.#hook.finders, this.#hook.replacement)
    this.#note(masked)
    return this.#hook.action === 'mask' ? { ...event, refusal: { ...event.refusal, explanation: masked.text } } : event
  }

  /** The run of text, or the call, is over. */
  #flush(choice: number, out: ProviderEvent[]): void {
    const run = this.#runOf(choice)
    const args = run.arguments.end()
    this.#note(args)
    if (this.#hook.action === 'block' && run.call !== undefined && args.text !== '') {
      const { call, outputTokens } = run
      out.push({ type: 'tool_call', choice, call, arguments: args.text, outputTokens })
    }
    run.call = undefined
    const text = this.#pass(run, '', run.text.end())
    if (text !== '' && run.kind !== undefined) {
      out.push({ type: run.kind, choice, text, outputTokens: run.outputTokens })
    }
    run.kind = undefined
    run.isChanged = false
  }

  /** What goes on of a run: masked, or as it came where the rule only looks. */
  #pass(run: Run, came: string, masked: Masked): string {
    this.#note(masked)
    if (this.#hook.action === 'flag') return came
    if (masked.found.length > 0) run.isChanged = true
    return masked.text
  }

  #note({ found }: Masked): void {
    if (found.length === 0) return
    if (this.#hook.action === 'block') this.#isBlocked = true
    if (this.#hook.action === 'flag') this.#flags.push(...found.slice(0, FLAGS_MAX - this.#flags.length))
  }

  #runOf(choice: number): Run {
    const { finders, replacement } = this.#hook
    const mask = () => new TextMask(finders, replacement)
    const run = this.#runs.get(choice) ?? {
      kind: undefined,
      text: mask(),
      call: undefined,
      arguments: mask(),
      outputTokens: 0,
      isChanged: false,
    }
    this.#runs.set(choice, run)
    return run
  }
}

/** The line that tells of them names their kinds and how many there are; beyond this many it does not matter. */
const FLAGS_MAX = 1_000
