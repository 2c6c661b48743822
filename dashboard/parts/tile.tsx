// A figure with its name, its change to the period before, and the way to the rows behind it. Owns the form; whether more is
// better is said by whoever shows it.
import type { ComponentChildren } from 'preact'
import { change } from '../app/format.ts'
import { Sparkline } from './sparkline.tsx'

export type Delta = {
  now: number
  before: number
  /** Which direction is good; `none` where neither is. */
  good: 'up' | 'down' | 'none'
  /** The earlier value in words, for the title. */
  title: string
}

export function Tile({
  label,
  value,
  title,
  delta,
  note,
  href,
  trend,
}: {
  label: string
  value: ComponentChildren
  /** The exact value where the shown one is rounded. */
  title?: string | undefined
  delta?: Delta | undefined
  note?: ComponentChildren
  href?: string | undefined
  trend?: readonly (number | undefined)[] | undefined
}) {
  return (
    <div class="tile">
      <div class="tile-label">{href === undefined ? label : <a href={href}>{label}</a>}</div>
      <div class="tile-main">
        <span class="tile-value" title={title}>
          {value}
        </span>
        {trend !== undefined && <Sparkline values={trend} width={72} height={24} />}
      </div>
      <div class="tile-foot">
        {delta !== undefined && <Change {...delta} />}
        {note !== undefined && <span class="tile-note">{note}</span>}
      </div>
    </div>
  )
}

/** An arrow and a figure; red or green only where a direction is good. */
export function Change({ now, before, good, title }: Delta) {
  const known = change(now, before)
  if (known === undefined)
    return (
      <span class="change" title={title}>
        new
      </span>
    )
  const kind = known.direction === 'same' || good === 'none' ? '' : known.direction === good ? ' is-good' : ' is-bad'
  return (
    <span class={`change${kind}`} title={title}>
      {known.text}
    </span>
  )
}

/** Tiles side by side, as many as fit. */
export const Tiles = ({ children }: { children: ComponentChildren }) => <div class="tiles">{children}</div>
