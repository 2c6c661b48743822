// How much of a cap is used. Owns the bar with its two parts, what is settled and what is held, and the words for screen
// readers. Shares are between 0 and 1; what is above the cap is shown as full and said in words.
import type { ComponentChildren } from 'preact'

export function Meter({
  label,
  used,
  held = 0,
  projected,
  text,
  warnAt = 0.8,
  size = 'normal',
}: {
  /** What it is about, for screen readers. */
  label: string
  used: number
  /** Reserved by requests that run: shown behind what is used, never as used. */
  held?: number
  /** Where the period will end at this pace: a mark. */
  projected?: number | undefined
  /** `$12.40 of $25` */
  text: string
  warnAt?: number
  size?: 'normal' | 'small'
}) {
  const kind = used >= 1 ? 'danger' : used >= warnAt ? 'warning' : 'good'
  const shown = (share: number) => Math.max(0, Math.min(1, share))
  const within = (share: number) => `${shown(share) * 100}%`
  return (
    <div class={`meter meter-${kind} meter-${size}`}>
      <meter class="visually-hidden" aria-label={label} aria-valuetext={text} min={0} max={1} value={shown(used)}>
        {text}
      </meter>
      <span class="meter-used" style={{ width: within(used) }} />
      {held > 0 && <span class="meter-held" style={{ left: within(used), width: within(Math.min(held, 1 - used)) }} />}
      {projected !== undefined && projected > used && (
        <span class="meter-projected" style={{ left: within(projected) }} title="Where the period ends at this pace" />
      )}
    </div>
  )
}

/** Its words above it: name to the left, amounts to the right. */
export function MeterLine({
  name,
  text,
  children,
}: {
  name: ComponentChildren
  text: ComponentChildren
  children: ComponentChildren
}) {
  return (
    <div class="meter-line">
      <div class="meter-words">
        <span class="meter-name">{name}</span>
        <span class="meter-text">{text}</span>
      </div>
      {children}
    </div>
  )
}
