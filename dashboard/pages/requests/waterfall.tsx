// Attempts on one axis of time: waiting for the first token, then the answer. Owns the picture and the same in words.
import { duration } from '../../app/format.ts'
import { labelOf } from '../../app/usage.ts'
import type { AttemptRow, Names } from '../../app/wire.ts'

/** A bar that short would not be seen. */
const SHARE_MIN = 0.004
const TICKS = 4

export function Waterfall({
  attempts,
  names,
  totalMs,
}: {
  attempts: readonly AttemptRow[]
  names: Names
  totalMs: number
}) {
  const shown = attempts.filter(({ kind }) => kind === 'attempt')
  const whole = Math.max(1, totalMs, ...shown.map(({ offset_ms: { end } }) => end))
  const share = (ms: number) => `${Math.min(100, Math.max(0, (100 * ms) / whole))}%`
  const length = (fromMs: number, toMs: number) => `${100 * Math.max(SHARE_MIN, Math.min(1, (toMs - fromMs) / whole))}%`
  return (
    <div class="waterfall">
      <div class="waterfall-axis" aria-hidden="true">
        {Array.from({ length: TICKS + 1 }, (_, index) => (
          <span key={index} style={{ left: `${(100 * index) / TICKS}%` }}>
            {duration((whole * index) / TICKS)}
          </span>
        ))}
      </div>
      <ol>
        {shown.map(({ attempt, provider, backend_id: backend, status_class: kind, offset_ms: at }) => (
          <li key={attempt}>
            <span class="waterfall-name">
              {attempt}. {provider}
              {backend !== null && <span class="muted"> {labelOf(backend, 'backend', names)}</span>}
            </span>
            <span class="waterfall-line" aria-hidden="true">
              <span
                class="waterfall-bar is-waiting"
                style={{ left: share(at.start), width: length(at.start, at.first_token ?? at.end) }}
              />
              {at.first_token !== null && (
                <span
                  class={`waterfall-bar is-${kind === 'ok' || kind === 'cancelled' ? 'answer' : 'failed'}`}
                  style={{ left: share(at.first_token), width: length(at.first_token, at.end) }}
                />
              )}
            </span>
            <span class="waterfall-text">
              from {duration(at.start)} to {duration(at.end)}
              {at.first_token === null ? ', no token' : `, first token after ${duration(at.first_token - at.start)}`}
            </span>
          </li>
        ))}
      </ol>
    </div>
  )
}
