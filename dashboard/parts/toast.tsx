// Short words at the edge of the page after something was done. Owns the queue and its region; what must not be missed
// belongs into the page.
import { signal } from '@preact/signals'
import { Icon } from './icon.tsx'

type Toast = { id: number; text: string; kind: 'good' | 'danger' }

/** Time to read a sentence. */
const SHOWN_MS = 6_000
/** More would cover the page. */
const TOASTS_MAX = 4

const toasts = signal<readonly Toast[]>([])
let lastId = 0

export function toast(text: string, kind: Toast['kind'] = 'good'): void {
  lastId += 1
  const id = lastId
  toasts.value = [...toasts.value, { id, text, kind }].slice(-TOASTS_MAX)
  setTimeout(() => drop(id), SHOWN_MS)
}

/** The reason of a failed action, in the gateway's words. */
export const toastError = (error: unknown): void =>
  toast(error instanceof Error ? error.message : String(error), 'danger')

const drop = (id: number) => {
  toasts.value = toasts.value.filter((one) => one.id !== id)
}

/** Stands once in the frame. */
export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map(({ id, text, kind }) => (
        <div key={id} class={`toast toast-${kind}`}>
          <Icon name={kind === 'good' ? 'check' : 'warning'} />
          <span>{text}</span>
          <button type="button" class="icon-button" aria-label="Dismiss" onClick={() => drop(id)}>
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  )
}
