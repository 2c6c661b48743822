// Text to take along: a button that copies, and a block of it with that button. Owns the clipboard and its failure.
import { useState } from 'preact/hooks'
import { Icon } from './icon.tsx'
import { toast } from './toast.tsx'

/** How long the button says that it worked. */
const SAID_MS = 1_600

export function CopyButton({ text, label = 'Copy', bare = false }: { text: string; label?: string; bare?: boolean }) {
  const [isDone, setDone] = useState(false)
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text)
      setDone(true)
      setTimeout(() => setDone(false), SAID_MS)
    } catch {
      // Over plain http on another machine browsers have no clipboard.
      toast('The browser does not allow copying here: select the text and copy it by hand.', 'danger')
    }
  }
  if (bare)
    return (
      <button type="button" class="icon-button" aria-label={isDone ? 'Copied' : label} title={label} onClick={copy}>
        <Icon name={isDone ? 'check' : 'copy'} />
      </button>
    )
  return (
    <button type="button" class="button button-small" onClick={copy}>
      <Icon name={isDone ? 'check' : 'copy'} />
      {isDone ? 'Copied' : label}
    </button>
  )
}

/** Code or a secret, whole and selectable. */
export function CopyBlock({ text, label }: { text: string; label: string }) {
  return (
    <div class="copy-block">
      <div class="copy-head">
        <span>{label}</span>
        <CopyButton text={text} />
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, and must do so by keyboard */}
      <section tabIndex={0} aria-label={label}>
        <pre>
          <code>{text}</code>
        </pre>
      </section>
    </div>
  )
}
