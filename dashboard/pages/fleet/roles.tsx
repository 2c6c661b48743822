// Other roles for a worker's engines. Owns the dialog and what it says will happen.
import { useState } from 'preact/hooks'
import { api } from '../../app/api.ts'
import type { Backend, EngineRole } from '../../app/wire-admin.ts'
import { Dialog } from '../../parts/dialog.tsx'
import { Form, SelectField } from '../../parts/field.tsx'
import { Note } from '../../parts/states.tsx'
import { toast } from '../../parts/toast.tsx'
import { ROLE_ABOUT, ROLE_WORDS, ROLES, rolesAfter, unservedWith } from './figures.ts'

export function RolesDialog({
  backend,
  backends,
  onClose,
  onDone,
}: {
  backend: Backend
  backends: readonly Backend[]
  onClose: () => void
  onDone: () => void
}) {
  const before = backend.desired?.roles ?? {}
  const [change, setChange] = useState<Readonly<Record<string, EngineRole | 'start'>>>({})
  const named = backend.models.flatMap(({ engine, ...rest }) => (engine === null ? [] : [{ ...rest, engine }]))
  const after = rolesAfter(before, change)
  const unserved = unservedWith(backends, backend, after)
  const isSame = JSON.stringify(after) === JSON.stringify(before)
  const name = backend.label || backend.id.slice(0, 8)
  return (
    <Dialog title={`Roles of ${name}`} onClose={onClose}>
      <Form
        action="Ask for these roles"
        danger={unserved.length > 0}
        disabled={isSame}
        onCancel={onClose}
        onSubmit={async () => {
          await api.patch(`/backends/${backend.id}`, { roles: after })
          toast(`${name} is asked for other roles`)
          onDone()
        }}
      >
        {(errorOf) => (
          <>
            {named.map((engine) => (
              <SelectField
                key={engine.engine}
                label={`${engine.engine} (${engine.model})`}
                hint={`Now ${ROLE_WORDS[engine.role].toLowerCase()}: ${ROLE_ABOUT[engine.role]}.`}
                error={errorOf('roles')}
                value={change[engine.engine] ?? before[engine.engine] ?? 'start'}
                onChange={(role) => setChange({ ...change, [engine.engine]: role })}
                choices={[
                  { value: 'start', label: 'As it was started' },
                  ...ROLES.map((role) => ({ value: role, label: `${ROLE_WORDS[role]}: ${ROLE_ABOUT[role]}` })),
                ]}
              />
            ))}
            <ul class="consequences">
              <li>
                The worker acts with its next report, about a second; the card shows what is asked beside what is.
              </li>
              <li>Requests that run in the old role go on to their end; no answer changes.</li>
              <li>It holds until another role is asked for, also when the worker starts again.</li>
            </ul>
            {unserved.length > 0 && (
              <Note kind="danger">
                With these roles no engine of the fleet finishes requests of <strong>{unserved.join(', ')}</strong>:
                they go to the model's next target, or are refused.
              </Note>
            )}
          </>
        )}
      </Form>
    </Dialog>
  )
}
