// A word with a colour behind it. Owns the kinds; the word alone must say it, the colour only helps.
import type { ComponentChildren } from 'preact'

export type BadgeKind = 'neutral' | 'good' | 'warning' | 'danger' | 'accent'

export function Badge({
  kind = 'neutral',
  title,
  children,
}: {
  kind?: BadgeKind
  title?: string
  children: ComponentChildren
}) {
  return (
    <span class={`badge badge-${kind}`} title={title}>
      {children}
    </span>
  )
}

/** A dot and a word: the state of something that lives. */
export function Status({ kind, children }: { kind: BadgeKind; children: ComponentChildren }) {
  return (
    <span class={`status status-${kind}`}>
      <span class="status-dot" aria-hidden="true" />
      {children}
    </span>
  )
}
