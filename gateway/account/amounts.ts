// What usage counts for, in the units of every meter. Owns the one reading of an ended attempt's row and of an ask, so
// that limits, what is held and what a lost counter is made of again can never disagree. Pure.
import type { AttemptRow } from '../ledger/outbox.ts'
import { inputTokens, outputTokens } from '../meter/usage.ts'
import type { ReserveAsk } from './contract.ts'
import type { CountedMeter } from './limit.ts'

/** Requests, tokens and nano-USD. */
export type Amounts = Record<CountedMeter, bigint>

const NOTHING: Amounts = { requests: 0n, input_tokens: 0n, output_tokens: 0n, money: 0n }

/** What an ask holds. A fallback is the same request; a trial costs the customer nothing, whatever it uses. */
export const amountsOfAsk = (
  ask: Pick<ReserveAsk, 'attempt' | 'estimate' | 'isTrial'>,
  heldNanoUsd: bigint,
): Amounts =>
  ask.isTrial === true
    ? NOTHING
    : {
        requests: ask.attempt === 1 ? 1n : 0n,
        input_tokens: BigInt(ask.estimate.inputTokens),
        output_tokens: BigInt(ask.estimate.outputTokens),
        money: heldNanoUsd,
      }

/**
 * What a row has counted: a first attempt is a request, whoever pays; tokens and money are those the customer pays.
 * Corrections carry differences and sum up with the row they correct.
 */
export function amountsOfRow(row: AttemptRow): Amounts {
  const paid = row.charge === 'customer'
  return {
    requests: row.kind === 'attempt' && row.attempt === 1 ? 1n : 0n,
    input_tokens: paid ? BigInt(inputTokens(row.usage)) : 0n,
    output_tokens: paid ? BigInt(outputTokens(row.usage)) : 0n,
    money: paid ? row.costNanoUsd : 0n,
  }
}
