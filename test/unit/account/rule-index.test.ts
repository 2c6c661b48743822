// Which rules apply to whom: the index against a walk over all rules.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Subject } from '../../../gateway/account/contract.ts'
import { LIMIT_SCOPES, type LimitRule, type LimitScope } from '../../../gateway/account/limit.ts'
import { RuleIndex } from '../../../gateway/account/rule-index.ts'

const IDS = ['a', 'b', '*']
const MODELS = [undefined, 'small', 'large'] as const

const rules: fc.Arbitrary<LimitRule[]> = fc
  .array(
    fc.record({
      scope: fc.constantFrom(...LIMIT_SCOPES),
      scopeId: fc.constantFrom(...IDS),
      model: fc.constantFrom(...MODELS),
      hard: fc.boolean(),
      window: fc.constantFrom('minute' as const, 'day' as const),
      max: fc.nat(3),
      concurrency: fc.boolean(),
    }),
    { maxLength: 30 },
  )
  .map((all) =>
    all.map(({ concurrency, window, max, model, ...where }, index): LimitRule => {
      const place = { ...where, limitId: String(index), ...(model === undefined ? {} : { model }) }
      if (concurrency) return { ...place, meter: 'concurrency', max }
      return { ...place, meter: 'requests', window, timeZone: 'UTC', max }
    }),
  )

const id = fc.constantFrom(...IDS)
const maybe = fc.option(id, { nil: undefined })
const subject: fc.Arbitrary<Subject> = fc.record({
  orgId: fc.constantFrom('a', 'b'),
  projectId: id,
  keyId: id,
  keyLineId: maybe,
  userId: maybe,
  teamId: maybe,
  endUser: maybe,
})

const idOf = (scope: LimitScope, of: Subject) =>
  ({
    org: of.orgId,
    project: of.projectId,
    key: of.keyLineId ?? of.keyId,
    user: of.userId,
    team: of.teamId,
    end_user: of.endUser,
  })[scope]

test('the index finds what a walk over all rules finds, in the order of the book, each thing counted once', () => {
  fc.assert(
    fc.property(
      rules,
      subject,
      fc.constantFrom('small', 'large', 'other'),
      fc.boolean(),
      (limits, of, model, prepaid) => {
        const credit = { grantedNanoUsd: 5n, overdraftNanoUsd: 2n }
        const index = new RuleIndex({ version: 1, limits, ...(prepaid ? { credit } : {}) }, of.orgId)
        const expected = limits.filter((rule) => {
          const own = idOf(rule.scope, of)
          const isMine = own !== undefined && (rule.scopeId === '*' || rule.scopeId === own)
          return isMine && (rule.model === undefined || rule.model === model)
        })
        const { gauges, places, counted } = index.applying(of, model)
        const named = gauges.flatMap(({ rule }) => ('limit' in rule ? [rule.limit] : []))
        expect(named).toEqual(expected.filter(({ meter }) => meter !== 'concurrency'))
        expect(places.map(({ limit }) => limit)).toEqual(expected.filter(({ meter }) => meter === 'concurrency'))
        expect(gauges.filter(({ rule }) => 'credit' in rule).map(({ max, hard }) => [max, hard])).toEqual(
          prepaid ? [[7n, true]] : [],
        )
        for (const { series, subject: whose } of gauges) expect(whose).toBe(idOf(series.scope, of))
        const names = counted.map(({ series }) => series.name)
        expect(new Set(names)).toEqual(new Set(gauges.map(({ series }) => series.name)))
        expect(new Set(names).size).toBe(names.length)
        for (const name of names) expect(index.has(name)).toBe(true)
        expect(index.has('something|else')).toBe(false)
      },
    ),
  )
})
