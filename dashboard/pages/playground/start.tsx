// Before the first call: with which key. Owns the choice between one made for an hour and one that is pasted.
import { useState } from 'preact/hooks'
import type { Loaded } from '../../app/load.ts'
import { can } from '../../app/session.ts'
import type { Project } from '../../app/wire.ts'
import { Form, SelectField, TextField } from '../../parts/field.tsx'
import { Card, Columns } from '../../parts/page.tsx'
import { Note } from '../../parts/states.tsx'
import type { KeyControl } from './key.ts'

export function Start({
  control,
  projects,
  project,
}: {
  control: KeyControl
  projects: Loaded<Project[]>
  project: string | undefined
}) {
  const [chosen, setChosen] = useState(project)
  const [text, setText] = useState('')
  const projectId = chosen ?? projects.data?.[0]?.id
  return (
    <Columns>
      {can('keys.write') && (
        <Card
          title="With a key of its own"
          about="Made now, named “Playground”, revoked when you leave the page and after an hour at the latest."
        >
          <Form
            action="Start"
            disabled={projectId === undefined}
            onSubmit={async () => {
              if (projectId !== undefined) await control.make(projectId)
            }}
          >
            {(errorOf) => (
              <>
                {projects.data?.length === 0 ? (
                  <Note kind="warning">This organisation has no project yet: usage is counted by project.</Note>
                ) : (
                  <SelectField
                    label="Project"
                    hint="Usage is counted and charged there, as that of any other call."
                    value={projectId ?? ''}
                    onChange={setChosen}
                    error={errorOf('project_id')}
                    choices={(projects.data ?? []).map(({ id, name }) => ({ value: id, label: name }))}
                  />
                )}
              </>
            )}
          </Form>
        </Card>
      )}
      <Card
        title="With a key that you have"
        about="To see what exactly that key may do. It is kept in this page's memory alone."
      >
        <Form
          action="Start with it"
          disabled={text.trim() === ''}
          onSubmit={async () => {
            control.paste(text.trim())
          }}
        >
          {() => (
            <TextField
              label="API key"
              hint="It goes to this gateway as any caller's key does, and is forgotten when you leave."
              type="password"
              mono
              value={text}
              onInput={setText}
              placeholder="psk_…"
            />
          )}
        </Form>
      </Card>
    </Columns>
  )
}
