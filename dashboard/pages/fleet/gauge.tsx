// How near a machine comes to what it can do. Owns the arc: achieved against a ceiling that was measured.

/** Of the circle; the rest is open below, where the figure's name stands. */
const SWEEP = 0.75

export function Gauge({
  label,
  value,
  text,
  isIdle = false,
  size = 64,
}: {
  /** What it is about, for screen readers. */
  label: string
  /** Between 0 and 1; absent: not measured. */
  value: number | undefined
  /** `9.8 of 16 GiB/s` */
  text: string
  /** The value is of earlier. */
  isIdle?: boolean
  size?: number
}) {
  const radius = 26
  const round = 2 * Math.PI * radius
  const shown = Math.max(0, Math.min(1, value ?? 0))
  const percent = value === undefined ? '–' : `${(value * 100).toFixed(value < 0.0995 ? 1 : 0)}%`
  return (
    <div class={isIdle ? 'gauge is-idle' : 'gauge'} style={{ width: `${size}px`, height: `${size}px` }}>
      {value === undefined ? (
        <span class="visually-hidden">
          {label}: {text}
        </span>
      ) : (
        <meter class="visually-hidden" aria-label={label} aria-valuetext={text} min={0} max={1} value={shown}>
          {text}
        </meter>
      )}
      <svg viewBox="0 0 64 64" width={size} height={size} aria-hidden="true">
        <g transform="rotate(135 32 32)">
          <circle class="gauge-track" cx="32" cy="32" r={radius} stroke-dasharray={`${round * SWEEP} ${round}`} />
          {shown > 0 && (
            <circle
              class="gauge-value"
              cx="32"
              cy="32"
              r={radius}
              stroke-dasharray={`${round * SWEEP * shown} ${round}`}
            />
          )}
        </g>
        <text class="gauge-text" x="32" y="36" text-anchor="middle">
          {percent}
        </text>
      </svg>
    </div>
  )
}
