// Routing over the own fleet, with what one isolate remembers ○: its ledger of dispatches, failures, what it has sent where, how
// long prompts are. Owns how these go into a decision and what a dispatch leaves in them. The same code routes in the gateway and in
// simulations: the clock and randomness are arguments, and the snapshot is handed in.
import type { Decision } from './decision.ts'
import { FiguresBySnapshot } from './figures.ts'
import { FleetLedger, type Open, type Work } from './ledger.ts'
import { type Ask, pick } from './pick.ts'
import { choosePrefill, type PrefillChoice } from './prefill-choice.ts'
import { PromptSizes } from './prompt-size.ts'
import { SentChunks } from './sent.ts'
import type { FleetSnapshot, PrefixMatches } from './snapshot.ts'

export type Routed = {
  decision: Decision
  /** Others that may compute the prompt, best first. */
  prefill: PrefillChoice[]
}

export class FleetRouter {
  readonly ledger = new FleetLedger()
  readonly sizes = new PromptSizes()
  readonly #figures = new FiguresBySnapshot()
  readonly #sent = new SentChunks()

  /** @param random In [0, 1), a new one each time. */
  decide(
    ask: Ask,
    snapshot: FleetSnapshot,
    matches: PrefixMatches,
    tried: ReadonlySet<string>,
    nowMs: number,
    random: number,
  ): Routed {
    const { ledger, sizes } = this
    const { figures, rows } = this.#figures.of(snapshot, ask, ledger.wayMs, nowMs)
    const local = {
      loads: ledger.loads,
      inhibited: ledger.inhibited(nowMs),
      tried,
      tokensPerChar: sizes.tokensPerChar(ask.model),
      usualUncachedTokens: sizes.usualUncachedTokens(ask.model),
      matches,
      sent: this.#sent.matches(ask.chunks, nowMs),
    }
    const decision = pick(ask, figures, rows, local, random)
    return { decision, prefill: choosePrefill(decision, figures, ask.chunks) }
  }

  /** A backend has let go of these beginnings of prompts: what was sent there is no guess any more. */
  dropped(chunks: readonly number[], backendId: string): void {
    this.#sent.forget(chunks, backendId)
  }

  /** A dispatch begins as was decided; its end must be told once, its first token if there is one. */
  begin(ask: Ask, { decision, prefill }: Routed, nowMs: number): Open {
    const { chosen, expected } = decision
    if (chosen === undefined || expected === undefined) return { firstToken: () => {}, end: () => {} }
    const { backendId } = chosen
    this.#sent.note(ask.chunks, backendId, nowMs)
    const [helper] = expected.prediction.place === 'away' ? prefill : []
    const promptTokens = helper === undefined ? Math.round(expected.uncachedTokens) : 0
    const { model, sequences } = ask
    const works: Work[] = [{ backendId, model, promptTokens, sequences, kvTokens: Math.round(decision.promptTokens) }]
    if (helper !== undefined) {
      const there = { model, promptTokens: Math.round(helper.uncachedTokens), sequences: 0, kvTokens: 0 }
      works.push({ backendId: helper.backend.backendId, ...there })
      this.#sent.note(ask.chunks, helper.backend.backendId, nowMs)
    }
    return this.ledger.begin(works, nowMs)
  }
}
