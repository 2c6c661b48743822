// The text of a new key, the one time it is shown, with what to do next. Owns the dialog; the text is in no address and no storage.
import { href } from '../../app/router.ts'
import type { MadeKey } from '../../app/wire.ts'
import { CopyBlock } from '../../parts/copy.tsx'
import { Dialog } from '../../parts/dialog.tsx'
import { Note } from '../../parts/states.tsx'

export function MadeKeyDialog({ made, onClose }: { made: MadeKey; onClose: () => void }) {
  const model = made.models?.[0] ?? 'YOUR_MODEL'
  const curl = `curl ${window.location.origin}/v1/chat/completions \\
  -H "authorization: Bearer ${made.key}" \\
  -H 'content-type: application/json' \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Say hello."}]}'`
  return (
    <Dialog
      title={`${made.name} is ready`}
      onClose={onClose}
      keep
      footer={
        <>
          <a class="button" href={href('/limits', { key: made.id })}>
            Set a budget
          </a>
          <button type="button" class="button button-primary" onClick={onClose}>
            I have kept it
          </button>
        </>
      }
    >
      <Note kind="warning">Keep it now: it is stored nowhere and not shown again.</Note>
      <CopyBlock label="The key" text={made.key} />
      <p class="muted">A first call with it:</p>
      <CopyBlock label="A request by curl" text={curl} />
    </Dialog>
  )
}
