// A ranking: names with bars as long as their share. Owns the list; each line links to the rows behind it.
import type { ComponentChildren } from 'preact'

export type Bar = {
  id: string
  label: ComponentChildren
  /** Against the longest bar, between 0 and 1. */
  share: number
  text: string
  /** Smaller, behind the text: a share in per cent, say. */
  note?: string | undefined
  href?: string | undefined
  /** 1 to 8 as in the charts; 0 is the grey of all others. */
  colour?: number
}

export function Bars({ label, bars }: { label: string; bars: readonly Bar[] }) {
  return (
    <ol class="bars" aria-label={label}>
      {bars.map((bar) => (
        <li key={bar.id} class="bar">
          <span class="bar-words">
            <span class="bar-label">{bar.href === undefined ? bar.label : <a href={bar.href}>{bar.label}</a>}</span>
            <span class="bar-text">{bar.text}</span>
            <span class="bar-note">{bar.note ?? ''}</span>
          </span>
          <span class="bar-track" aria-hidden="true">
            <span
              class="bar-fill"
              style={{
                width: `${Math.max(0, Math.min(1, bar.share)) * 100}%`,
                background: `var(--series-${bar.colour === undefined ? 1 : bar.colour === 0 ? 'other' : bar.colour})`,
              }}
            />
          </span>
        </li>
      ))}
    </ol>
  )
}
