// Filters of a page in its address. Owns the hooks; reading and writing is url-state.ts, which range is meant time-range.ts.
import { useMemo } from 'preact/hooks'
import { recall } from './preferences.ts'
import { goParams, params } from './router.ts'
import { type Asked, PRESETS, previousOf, type Span, spanOf } from './time-range.ts'
import { flag, oneOf, optionalText, readState, type Schema, type Values, writeState } from './url-state.ts'
import { isZone } from './zones.ts'

/** Values of the address, and what changes some of them. `replace` for what is typed, so that Back leads out of it. */
export function useUrlState<S extends Schema>(
  schema: S,
): [Values<S>, (change: Partial<Values<S>>, options?: { replace?: boolean }) => void] {
  const values = readState(schema, params.value)
  const set = (change: Partial<Values<S>>, options: { replace?: boolean } = {}) =>
    goParams(writeState(schema, params.value, change), options)
  return [values, set]
}

export const RANGE_SCHEMA = {
  range: oneOf(PRESETS, '7d'),
  from: optionalText,
  to: optionalText,
  tz: optionalText,
  compare: flag(true),
}

export type ShownRange = {
  asked: Asked
  span: Span
  /** What is compared with; absent where the user does not compare. */
  previous: Span | undefined
  zone: string
  /** Instants for the API. */
  from: string
  to: string
}

export const browserZone = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone

/** The clock of the page: the address says, else what was chosen last, else the browser's. */
export function zoneNow(): string {
  const asked = params.value.get('tz') ?? recall('zone')
  return asked !== undefined && isZone(asked) ? asked : browserZone()
}

/** The range of the address. It moves with the clock once a minute at most, so that a page does not load without end. */
export function useRange(): ShownRange {
  const [{ range, from, to, compare }] = useUrlState(RANGE_SCHEMA)
  const zone = zoneNow()
  const minute = Math.floor(Date.now() / 60_000)
  return useMemo(() => {
    const nowMs = minute * 60_000
    const asked: Asked = { preset: range, from, to }
    const span = spanOf(asked, zone, nowMs)
    return {
      asked,
      span,
      previous: compare ? previousOf(asked, span, zone, nowMs) : undefined,
      zone,
      from: new Date(span.fromMs).toISOString(),
      to: new Date(span.toMs).toISOString(),
    }
  }, [range, from, to, compare, zone, minute])
}
