// What stands where data will be, or is not. Owns loading, empty and error states, and `Show`, which picks between them and
// the data, so that no page forgets one.
import type { ComponentChildren } from 'preact'
import { ApiError } from '../app/api.ts'
import type { Loaded } from '../app/load.ts'
import { Icon, type IconName } from './icon.tsx'

/** Grey bars in the place of text. `rows` as high as what will come, so that nothing moves. */
export function Skeleton({ rows = 3, height = 20 }: { rows?: number; height?: number }) {
  return (
    <div class="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, index) => (
        <span key={index} class="skeleton-bar" style={{ height: `${height}px` }} />
      ))}
    </div>
  )
}

export function Empty({
  title,
  children,
  icon = 'info',
  actions,
}: {
  title: string
  children?: ComponentChildren
  icon?: IconName
  actions?: ComponentChildren
}) {
  return (
    <div class="empty">
      <span class="empty-icon">
        <Icon name={icon} size={20} />
      </span>
      <p class="empty-title">{title}</p>
      {children !== undefined && <div class="empty-text">{children}</div>}
      {actions !== undefined && <div class="empty-actions">{actions}</div>}
    </div>
  )
}

/** The gateway's own words, and the request's id for whoever looks into the logs. */
export function Failure({
  error,
  onRetry,
  title = 'This could not be loaded',
}: {
  error: Error
  onRetry?: (() => void) | undefined
  title?: string
}) {
  const requestId = error instanceof ApiError ? error.requestId : undefined
  const isDenied = error instanceof ApiError && error.status === 403
  return (
    <div class="failure" role="alert">
      <Icon name="warning" />
      <div>
        <p class="failure-title">{isDenied ? 'This is not for your role' : title}</p>
        <p>{error.message}</p>
        {requestId !== undefined && (
          <p class="muted">
            Request <code>{requestId}</code>
          </p>
        )}
      </div>
      {onRetry !== undefined && !isDenied && (
        <button type="button" class="button" onClick={onRetry}>
          Try again
        </button>
      )}
    </div>
  )
}

/** A line inside a page that says something about its data. */
export function Note({
  kind = 'info',
  children,
}: {
  kind?: 'info' | 'warning' | 'danger' | 'good'
  children: ComponentChildren
}) {
  return (
    <div class={`note note-${kind}`}>
      <Icon name={kind === 'info' ? 'info' : kind === 'good' ? 'check' : 'warning'} />
      <div>{children}</div>
    </div>
  )
}

/** Data once it is there; before that `skeleton`, and on failure the reason with a way to try again. */
export function Show<T>({
  of,
  skeleton,
  children,
}: {
  of: Loaded<T>
  skeleton?: ComponentChildren
  children: (data: T) => ComponentChildren
}) {
  if (of.data === undefined) {
    if (of.error !== undefined) return <Failure error={of.error} onRetry={of.reload} />
    return <>{skeleton ?? <Skeleton />}</>
  }
  return (
    <div class={of.isStale ? 'is-stale' : undefined} aria-busy={of.isLoading}>
      {of.error !== undefined && <Failure error={of.error} onRetry={of.reload} />}
      {children(of.data)}
    </div>
  )
}
