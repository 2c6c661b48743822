// A token with which a worker enrols. Owns the dialog: asking for one, and showing it once with the command that uses it.
import { useState } from 'preact/hooks'
import { api } from '../../app/api.ts'
import { dateTime } from '../../app/format.ts'
import { zoneNow } from '../../app/use-url.ts'
import { CopyBlock } from '../../parts/copy.tsx'
import { Dialog } from '../../parts/dialog.tsx'
import { Form, SelectField, TextField } from '../../parts/field.tsx'
import { Note } from '../../parts/states.tsx'

const HOUR_S = 3_600
const TIMES = [
  { value: String(HOUR_S), label: 'An hour' },
  { value: String(24 * HOUR_S), label: 'A day' },
  { value: String(7 * 24 * HOUR_S), label: 'A week' },
  { value: String(30 * 24 * HOUR_S), label: '30 days, the longest' },
] as const

type Made = { token: string; expires_at: string }

export function EnrolDialog({ onClose }: { onClose: () => void }) {
  const [label, setLabel] = useState('')
  const [ttl, setTtl] = useState<string>(TIMES[0].value)
  const [made, setMade] = useState<Made | undefined>()
  if (made !== undefined) {
    const zone = zoneNow()
    return (
      <Dialog
        title="Enrolment token"
        onClose={onClose}
        wide
        keep
        footer={
          <button type="button" class="button button-primary" onClick={onClose}>
            Done
          </button>
        }
      >
        <Note kind="warning">
          This is shown once. It enrols one worker, and works until {dateTime(Date.parse(made.expires_at), zone)} (
          {zone}).
        </Note>
        <CopyBlock label="Token" text={made.token} />
        <CopyBlock label="On the new host, in the repository, with the engine built" text={command(made.token)} />
        <p class="muted">
          The worker stands in this list as soon as it has joined. From then on its own key is enough. How to build the
          engine and what else the agent takes: docs/deploy.md.
        </p>
      </Dialog>
    )
  }
  return (
    <Dialog title="Add a worker" onClose={onClose}>
      <Form
        action="Make token"
        onCancel={onClose}
        onSubmit={async () => {
          setMade(await api.post<Made>('/backends/tokens', { label, ttl_seconds: Number(ttl) }))
        }}
      >
        {(errorOf) => (
          <>
            <p>A worker enrols with a one-time token, and with a key of its own from then on.</p>
            <TextField
              label="Label"
              hint="How the worker is called in this list: the host's name, say."
              value={label}
              onInput={setLabel}
              error={errorOf('label')}
              placeholder="gpu-host-3"
              autoFocus
            />
            <SelectField
              label="Works for"
              value={ttl}
              onChange={setTtl}
              choices={TIMES}
              error={errorOf('ttl_seconds')}
            />
          </>
        )}
      </Form>
    </Dialog>
  )
}

const command = (token: string): string =>
  [
    `PENSTOCK_JOIN_TOKEN=${token} npx node backends/main.ts \\`,
    '  --engine native-engine/build/penstock-engine --model model.gguf --model-name my-model \\',
    `  --gateway ${window.location.origin} --state-dir /var/lib/penstock-agent \\`,
    '  --listen 0.0.0.0:7801 --public-url https://host.example:7801',
  ].join('\n')
