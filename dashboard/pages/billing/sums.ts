// The lines by which a month leads from one balance to the next. Owns their signs, and that each amount stands in one of them. ○ Pure.
import { nanoUsd } from '../../app/format.ts'
import type { Statement } from '../../app/wire-admin.ts'

type Sums = { opening: bigint; usage: bigint; corrections: bigint; credit: bigint; closing: bigint }

/** As changes of the balance. The gateway's `usage` holds the corrections, which have a line of their own here. */
export function sumsOf(
  statement: Pick<
    Statement,
    'opening_balance_nanousd' | 'usage_nanousd' | 'corrections_nanousd' | 'credit_nanousd' | 'closing_balance_nanousd'
  >,
): Sums {
  const corrections = nanoUsd(statement.corrections_nanousd)
  return {
    opening: nanoUsd(statement.opening_balance_nanousd),
    usage: corrections - nanoUsd(statement.usage_nanousd),
    corrections: -corrections,
    credit: nanoUsd(statement.credit_nanousd),
    closing: nanoUsd(statement.closing_balance_nanousd),
  }
}
