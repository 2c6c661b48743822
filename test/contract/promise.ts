// What is promised of a provider: what it does with each feature, what its vendor's answers become, what its vendor's errors
// mean. Owns the types; the promises are vendors/, the checks claims.test.ts, answers.test.ts and errors.test.ts, and the
// tables of docs/providers.md are made of the same data.
import type { Usage } from '../../gateway/meter/usage.ts'
import type { ProviderOptions } from '../../gateway/policy/plan.ts'
import type { FinishReason, RefusalDetails } from '../../gateway/providers/event.ts'
import type { ProviderKind } from '../../gateway/providers/kinds.ts'
import type { UsageDialect } from '../../gateway/providers/usage-dialect.ts'
import type { AnswerPart } from '../../gateway/stream/collect.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import type { FeatureName } from './features.ts'

/** Paths into the body, as `a.b[0].c`, and what stands there; undefined: nothing does. */
export type Places = Record<string, unknown>

/**
 * `honoured`: the vendor has the same thing. `translated`: it has something that comes to the same. `left_out`: the answer is
 * not another one without it. `refused`: it would be, so the caller is told.
 */
export type Claim = (
  | { is: 'honoured' | 'translated'; body: Places; headers?: Record<string, string> }
  | { is: 'left_out' }
  | { is: 'refused'; param: string }
) & {
  /** For the reader of the table. */
  note?: string
}

export type ExpectedChoice = {
  parts: AnswerPart[]
  finish: FinishReason
  stopString?: string
  refusal?: RefusalDetails
  /** Token, its logarithm, and the alternatives beside it. */
  logprobs?: [string, number, string[]][]
  /** Of an embedding. */
  values?: number[]
}

/** A recorded answer and what it says. */
export type Answer = {
  /** File of fixtures/<folder>/. */
  fixture: string
  /** What was asked, where it matters to the reading; beside PLAIN_REQUEST. */
  request?: Partial<InferenceRequest>
  serviceTier?: string
  /** Every choice, for an answer that is whole. */
  choices?: ExpectedChoice[]
  /** What ends it, for one that fails. */
  failure?: ExpectedFailure
  /** Parts that are not zero; undefined: the vendor does not say. */
  usage?: Partial<Usage>
  isInconsistent?: boolean
  /** Its vendor calls every chunk the last one: where it is cut off, nobody can see it. */
  hasUnclearEnd?: true
}

export type ExpectedFailure = Pick<Failure, 'code' | 'kind' | 'retryAfterMs' | 'param'> & {
  /** Words the message holds. */
  says?: string
}

export type Promised = {
  /** Head of the column. */
  title: string
  kind: ProviderKind
  preset?: string
  /** Of fixtures/. */
  folder: string
  baseUrl: string
  model: string
  secret: string
  options?: ProviderOptions
  usageDialect: UsageDialect
  /** Whose seals it takes back, where it takes any. */
  sealBy?: string
  /** Where a chat goes. */
  url: string
  /** Headers that carry the key, and others that must stand there. */
  headers: Record<string, string>
  claims: Record<FeatureName, Claim>
  /** Events of a stream that mean nothing, as they stand in its recordings. */
  strangers: readonly string[]
  answers: Answer[]
  errors: (ExpectedFailure & { fixture: string })[]
}
