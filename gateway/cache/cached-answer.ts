// A kept answer as one more target, so that limits, holds, rows and filters meet it on the one ordinary path. Owns what it
// costs, which is nothing, and the replay; who may have it is use.ts.
import type { Failure } from '../../protocol/errors.ts'
import { ok, type Result } from '../../protocol/result.ts'
import { mapParts, NO_USAGE } from '../meter/usage.ts'
import type { CutoffPolicy, Target } from '../policy/plan.ts'
import { CACHE } from '../policy/targets.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { Provider, Upstream } from '../providers/provider.ts'
import type { StoredAnswer } from './stored-answer.ts'

/** A known price of zero: with none at all a money limit would refuse the request. */
const FREE = {
  priceVersionId: '00000000-0000-0000-0000-000000000000',
  perMillion: mapParts(() => 0n),
}

/** Where a kept answer of this model comes from. Its window is empty: nothing can be used there. */
export const cacheTarget = (model: string): Target => ({ provider: CACHE, model, contextTokens: 0, price: FREE })

/** Answers once, with the answer it was made with. */
export class CachedAnswer implements Provider {
  readonly cutoff: CutoffPolicy = 'cancel'
  readonly #answer: StoredAnswer

  constructor(answer: StoredAnswer) {
    this.#answer = answer
  }

  async open(): Promise<Result<Upstream, Failure>> {
    return ok({ label: CACHE, events: replay(this.#answer), close() {} })
  }

  async hasAlternative(): Promise<boolean> {
    return false
  }
}

/** What was used then is kept in the row as the target's own word; what is used now is nothing. */
async function* replay({ events, tokens }: StoredAnswer): AsyncGenerator<ProviderEvent[]> {
  const said = tokens === undefined ? {} : { rawUsage: JSON.stringify({ cached_answer: tokens }) }
  yield [...events, { type: 'usage', usage: NO_USAGE, ...said }]
}
