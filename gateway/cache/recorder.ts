// Listens to an answer on its way to the client and has it kept once it is whole. Owns nothing of the answer: what passes is
// not changed and not delayed.
import type { Failure } from '../../protocol/errors.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { AnswerFilter } from '../stream/filter.ts'
import { AnswerGatherer, type StoredAnswer } from './stored-answer.ts'

export type Recording = {
  /** Choices that the request asked for. */
  choices: number
  /** Whether an end at a length is what was asked for. */
  mayBeCut: boolean
  charsMax: number
  /** Begins to keep the answer, and returns at once. */
  keep: (answer: StoredAnswer) => void
}

export class AnswerRecorder implements AnswerFilter {
  readonly #recording: Recording
  readonly #gatherer: AnswerGatherer

  constructor(recording: Recording) {
    this.#recording = recording
    this.#gatherer = new AnswerGatherer(recording.charsMax)
  }

  async push(batch: ProviderEvent[]): Promise<Result<ProviderEvent[], Failure>> {
    for (const event of batch) this.#gatherer.see(event)
    return ok(batch)
  }

  async end(): Promise<Result<ProviderEvent[], Failure>> {
    const { choices, mayBeCut, keep } = this.#recording
    const answer = this.#gatherer.complete(choices, mayBeCut)
    if (answer !== undefined) keep(answer)
    return ok([])
  }
}
