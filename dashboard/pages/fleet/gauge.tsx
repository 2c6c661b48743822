// How near a machine comes to what it can do. Owns the arc, achieved against a ceiling that was measured, and the words beside
// it: memory for steps that only decode, arithmetic for those that compute prompts, and how much of the time there are any.
import { bytes, percent } from '../../app/format.ts'
import type { Engine } from '../../app/wire-admin.ts'
import { Meter } from '../../parts/meter.tsx'
import { arithmeticShare, bandwidthShare, isWorking, macs } from './figures.ts'

const SIZE_PX = 48
/** Of the circle; the rest is open below, where the figure's name stands. */
const SWEEP = 0.75

function Gauge({
  label,
  value,
  text,
  isIdle = false,
}: {
  /** What it is about, for screen readers. */
  label: string
  /** Between 0 and 1; absent: not measured. */
  value: number | undefined
  /** `9.8 of 16 GiB/s` */
  text: string
  /** The value is of earlier. */
  isIdle?: boolean
}) {
  const radius = 26
  const round = 2 * Math.PI * radius
  const shown = Math.max(0, Math.min(1, value ?? 0))
  const figure = value === undefined ? '–' : `${(value * 100).toFixed(value < 0.0995 ? 1 : 0)}%`
  return (
    <div class={isIdle ? 'gauge is-idle' : 'gauge'} style={{ width: `${SIZE_PX}px`, height: `${SIZE_PX}px` }}>
      {value === undefined ? (
        <span class="visually-hidden">
          {label}: {text}
        </span>
      ) : (
        <meter class="visually-hidden" aria-label={label} aria-valuetext={text} min={0} max={1} value={shown}>
          {text}
        </meter>
      )}
      <svg viewBox="0 0 64 64" width={SIZE_PX} height={SIZE_PX} aria-hidden="true">
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
          {figure}
        </text>
      </svg>
    </div>
  )
}

export function SpeedOfLight({ engine, name }: { engine: Engine; name: string }) {
  const busy = engine.busy_share
  return (
    <div class="engine-light">
      <Light
        name="Memory bandwidth"
        of={name}
        value={bandwidthShare(engine)}
        isIdle={!isWorking(engine)}
        text={bandwidthText(engine)}
      />
      <Light
        name="Arithmetic"
        of={name}
        value={arithmeticShare(engine)}
        isIdle={!isWorking(engine)}
        text={arithmeticText(engine)}
      />
      {busy !== null && (
        <div class="engine-busy" title="Of the last seconds, the share that was spent in steps">
          <span class="figure-name">Busy {percent(busy)} of the time</span>
          <Meter label={`Time of ${name} spent in steps`} used={busy} text={percent(busy)} size="small" />
        </div>
      )}
    </div>
  )
}

function Light({
  name,
  of,
  value,
  isIdle,
  text,
}: {
  name: string
  of: string
  value: number | undefined
  isIdle: boolean
  text: string
}) {
  const isAbove = value !== undefined && value > 1
  return (
    <div
      class="engine-gauge"
      title={isAbove ? 'Above the ceiling: what fits the caches of the processor is faster' : undefined}
    >
      <Gauge label={`${name} of ${of}`} value={value} isIdle={isIdle} text={text} />
      <div>
        <div class="figure-name">{name}</div>
        <div class="small">{text}</div>
      </div>
    </div>
  )
}

function bandwidthText(engine: Engine): string {
  const { memory_bytes_per_second: now, memory_bytes_per_second_max: most } = engine
  if (most === null) return now === null ? 'not measured' : `${bytes(now)}/s, ceiling not measured`
  if (now === null) return `no decoding of late; ceiling ${bytes(most)}/s`
  return `${isWorking(engine) ? '' : 'idle; last steps '}${bytes(now)} of ${bytes(most)}/s`
}

function arithmeticText(engine: Engine): string {
  const { macs_per_second: now, macs_per_second_max: most, macs_type: type } = engine
  const numbers = type === null ? '' : `, ${type}`
  if (most === null) return now === null ? 'not measured' : `${macs(now)}${numbers}, ceiling not measured`
  if (now === null) return `no prompts of late; ceiling ${macs(most)}${numbers}`
  return `${isWorking(engine) ? '' : 'idle; last prompts '}${macs(now)} of ${macs(most)}${numbers}`
}
