// The range of a report, as the gateway takes it: what the dashboard can ask for is never too long.
import { expect, test } from 'vitest'
import { spanOf } from '../../../../dashboard/app/time-range.ts'
import { rangeOf } from '../../../../gateway/admin/usage-range.ts'

test('the gateway takes the longest range there is, also where clocks are set back in it', () => {
  for (const zone of ['UTC', 'Europe/Berlin', 'America/Los_Angeles', 'Australia/Lord_Howe'])
    for (const from of ['2025-06-01', '2025-10-20', '2025-12-01']) {
      const { fromMs, toMs } = spanOf(
        { preset: 'custom', from, to: '2027-12-31' },
        zone,
        Date.parse('2028-01-01T00:00:00Z'),
      )
      expect(rangeOf({ from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString() }, zone, toMs)).toEqual({
        fromMs,
        toMs,
      })
    }
})
