// How providers, own machines and keys do, in the admin API. Owns the HTTP form: what rows say of the last minutes, and what the isolate
// that answers knows of its breakers, said to be no more than that.
//
//   GET /providers/health

import { connect } from '../db/connect.ts'
import { percentiles } from '../ledger/latency.ts'
import { HEALTH_WINDOWS_MIN, targetHealth, type WindowHealth } from '../ledger/target-health.ts'
import type { Health } from '../routing/health.ts'
import type { AdminContext } from './context.ts'
import { percentilesJson } from './usage-json.ts'
import { withinTimeLimit } from './usage-range.ts'

export async function providerHealth(c: AdminContext): Promise<Response> {
  const nowMs = Date.now()
  const targets = await withinTimeLimit(targetHealth(connect(c.env), nowMs), 'Ask again when there is less traffic.')
  const [shortMin, longMin] = HEALTH_WINDOWS_MIN
  return c.json({
    as_of: new Date(nowMs).toISOString(),
    windows_minutes: HEALTH_WINDOWS_MIN,
    data: targets.map(({ provider, modelServed, key, windows: [short, long] }) => ({
      provider,
      model_served: modelServed,
      key: key ?? null,
      [`last_${shortMin}_minutes`]: windowJson(short, shortMin),
      [`last_${longMin}_minutes`]: windowJson(long, longMin),
    })),
    breakers: { scope: 'this isolate', ...breakersJson(c.get('health'), nowMs) },
  })
}

function windowJson(window: WindowHealth, minutes: number) {
  const { attempts, ok, cancelled, failed, failures, outputTokens, streamedMs } = window
  const rate = streamedMs === 0n ? null : Math.round((Number(outputTokens) / Number(streamedMs)) * 10_000) / 10
  return {
    attempts,
    ok,
    cancelled,
    failed,
    failures: Object.fromEntries(failures),
    attempts_per_minute: Math.round((attempts / minutes) * 100) / 100,
    /** Of one answer, from its first token on. */
    output_tokens_per_second: rate,
    first_token: percentilesJson(percentiles(window.firstToken)),
    total: percentilesJson(percentiles(window.end)),
  }
}

/** Nothing where the admin API runs without the routes that call targets. */
function breakersJson(health: Health | undefined, nowMs: number) {
  const { targets, keys } = health?.known(nowMs) ?? { targets: [], keys: [] }
  const instant = (atMs: number | undefined) => (atMs === undefined ? null : new Date(atMs).toISOString())
  return {
    targets: targets.map((one) => ({
      provider: one.provider,
      model: one.model,
      standing: one.standing,
      until: instant(one.untilMs),
      failures_in_row: one.failuresInRow,
      in_flight: one.inFlight,
      expected_first_token_ms: one.firstContentMs === undefined ? null : Math.round(one.firstContentMs),
    })),
    keys: keys.map((one) => ({
      provider: one.provider,
      key: one.key,
      model: one.model ?? null,
      standing: one.standing,
      until: instant(one.untilMs),
      failures_in_row: one.failuresInRow,
    })),
  }
}
