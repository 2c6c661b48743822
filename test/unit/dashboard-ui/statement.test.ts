// The sums of a statement on the page.
import { describe, expect, test } from 'vitest'
import { sumsOf } from '../../../dashboard/pages/billing/sums.ts'

describe('the sums of a statement', () => {
  test('lead from the opening to the closing balance, with corrections counted once', () => {
    // As the gateway has it: usage is 1,757 with corrections of -20 in it.
    const sums = sumsOf({
      opening_balance_nanousd: '10000',
      usage_nanousd: '1757',
      corrections_nanousd: '-20',
      credit_nanousd: '500',
      closing_balance_nanousd: '8743',
    })
    expect(sums).toEqual({ opening: 10_000n, usage: -1_777n, corrections: 20n, credit: 500n, closing: 8_743n })
    expect(sums.opening + sums.usage + sums.corrections + sums.credit).toBe(sums.closing)
  })
})
