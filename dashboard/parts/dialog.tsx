// Windows over the page: a dialog for a form, and a question before something that cannot be undone. Owns opening, closing
// and focus, through the browser's own <dialog>.
import { signal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { useEffect, useId, useRef, useState } from 'preact/hooks'
import { Icon } from './icon.tsx'

/**
 * @param wide for tables and diffs
 * @param keep what it shows is shown once: a click beside it or Escape does not take it away, its buttons do
 */
export function Dialog({
  title,
  onClose,
  wide = false,
  keep = false,
  children,
  footer,
}: {
  title: string
  onClose: () => void
  wide?: boolean
  keep?: boolean
  children: ComponentChildren
  footer?: ComponentChildren
}) {
  const element = useRef<HTMLDialogElement>(null)
  const titleId = useId()
  useEffect(() => {
    const dialog = element.current
    const opener = document.activeElement
    dialog?.showModal()
    return () => {
      dialog?.close()
      // The browser gives the focus back where a dialog is closed; this one may be out of the page by now.
      const back = opener instanceof HTMLElement && opener.isConnected ? opener : document.getElementById('main')
      back?.focus()
    }
  }, [])
  return (
    <dialog
      ref={element}
      class={wide ? 'dialog dialog-wide' : 'dialog'}
      aria-labelledby={titleId}
      onCancel={(event) => {
        event.preventDefault()
        if (!keep) onClose()
      }}
      // Only the backdrop itself: the content lies in a box inside.
      onMouseDown={(event) => !keep && event.target === element.current && onClose()}
    >
      <div class="dialog-box">
        <header class="dialog-head">
          <h2 id={titleId}>{title}</h2>
          <button type="button" class="icon-button" aria-label="Close" onClick={onClose}>
            <Icon name="close" />
          </button>
        </header>
        <div class="dialog-body">{children}</div>
        {footer !== undefined && <footer class="dialog-foot">{footer}</footer>}
      </div>
    </dialog>
  )
}

type Question = {
  title: string
  body: ComponentChildren
  /** What the button does, in a word: `Revoke`. */
  action: string
  danger?: boolean
  /** A word that has to be typed, for what hurts most. */
  typed?: string
}

const asked = signal<(Question & { answer: (yes: boolean) => void }) | undefined>(undefined)

/** Asks, and gives the answer; a question that is still open is answered with no. */
export function confirm(question: Question): Promise<boolean> {
  asked.value?.answer(false)
  return new Promise((resolve) => {
    asked.value = {
      ...question,
      answer: (yes) => {
        asked.value = undefined
        resolve(yes)
      },
    }
  })
}

/** Stands once in the frame. */
export function Confirmation() {
  const question = asked.value
  return question === undefined ? null : <Ask key={question.title} {...question} />
}

function Ask({ title, body, action, danger = false, typed, answer }: Question & { answer: (yes: boolean) => void }) {
  const [text, setText] = useState('')
  const id = useId()
  return (
    <Dialog
      title={title}
      onClose={() => answer(false)}
      footer={
        <>
          <button type="button" class="button" onClick={() => answer(false)}>
            Cancel
          </button>
          <button
            type="button"
            class={danger ? 'button button-danger' : 'button button-primary'}
            disabled={typed !== undefined && text !== typed}
            onClick={() => answer(true)}
          >
            {action}
          </button>
        </>
      }
    >
      <div>{body}</div>
      {typed !== undefined && (
        <div class="field">
          <label class="field-label" for={id}>
            Type <code>{typed}</code> to go on
          </label>
          <input id={id} class="input" value={text} onInput={(event) => setText(event.currentTarget.value)} />
        </div>
      )}
    </Dialog>
  )
}
