// The form of a key: its name, where it belongs, and what it may do. Owns the fields and what the API is sent; a key that is changed keeps
// its text, its project and its owner.
import { useState } from 'preact/hooks'
import { allPages, api } from '../../app/api.ts'
import { useLoad } from '../../app/load.ts'
import { can, orgId } from '../../app/session.ts'
import type { ApiKey, MadeKey, Project, Team, User } from '../../app/wire.ts'
import { Dialog } from '../../parts/dialog.tsx'
import { Checkbox, Form, SelectField, TextField } from '../../parts/field.tsx'
import { toast } from '../../parts/toast.tsx'
import { linesOf, NEVER, SPANS, type SpanWord, spanEnd } from './scopes.ts'

const ROUTES = [
  { value: 'chat', label: 'Chat and messages' },
  { value: 'completions', label: 'Completions' },
  { value: 'responses', label: 'Responses' },
  { value: 'embeddings', label: 'Embeddings' },
  { value: 'models', label: 'List of models' },
  { value: 'admin', label: 'Administration' },
] as const
/** What a key without a choice may call. */
const ROUTES_DEFAULT: readonly string[] = ROUTES.map(({ value }) => value).filter((one) => one !== 'admin')

type Props = {
  projects: readonly Project[]
  /** Absent: a new one. */
  before?: ApiKey
  onClose: () => void
} & ({ before?: undefined; onDone: (made: MadeKey) => void } | { before: ApiKey; onDone: (changed: ApiKey) => void })

export function KeyForm({ projects, before, onClose, onDone }: Props) {
  const org = orgId.value
  const [name, setName] = useState(before?.name ?? '')
  const [project, setProject] = useState(before?.project_id ?? '')
  const [user, setUser] = useState('')
  const [team, setTeam] = useState(before?.team_id ?? '')
  const [models, setModels] = useState(before?.models?.join('\n') ?? '')
  const [routes, setRoutes] = useState<readonly string[]>(before?.routes ?? ROUTES_DEFAULT)
  const [addresses, setAddresses] = useState(before?.addresses?.join('\n') ?? '')
  const [ends, setEnds] = useState<SpanWord | 'keep'>(before === undefined ? NEVER : 'keep')
  const people = useLoad(can('people.read') && before === undefined ? `users ${org}` : undefined, (signal) =>
    allPages<User>(`/organisations/${org}/users`, {}, signal),
  )
  const teams = useLoad(can('people.read') ? `teams ${org}` : undefined, (signal) =>
    allPages<Team>(`/organisations/${org}/teams`, {}, signal),
  )
  const chosenProject = project === '' ? projects[0]?.id : project
  const chosenRoutes = routes.length === ROUTES_DEFAULT.length && ROUTES_DEFAULT.every((one) => routes.includes(one))

  const submit = async () => {
    const scopes = {
      name,
      models: linesOf(models),
      routes: chosenRoutes ? null : routes,
      addresses: linesOf(addresses),
      team_id: team === '' ? null : team,
      ...(ends === 'keep' ? {} : { expires_at: spanEnd(ends, Date.now()) }),
    }
    if (before !== undefined) {
      const changed = await api.patch<ApiKey>(`/organisations/${org}/keys/${before.id}`, scopes)
      toast(`${changed.name} is changed`)
      return onDone(changed)
    }
    const owner = user === '' ? {} : { user_id: user }
    onDone(await api.post<MadeKey>(`/organisations/${org}/keys`, { ...scopes, project_id: chosenProject, ...owner }))
  }

  return (
    <Dialog title={before === undefined ? 'Create a key' : `Change ${before.name}`} onClose={onClose}>
      <Form
        onSubmit={submit}
        onCancel={onClose}
        action={before === undefined ? 'Create key' : 'Save'}
        disabled={name === ''}
      >
        {(errorOf) => (
          <>
            <TextField
              label="Name"
              hint="What it is for: an application, a job, a person."
              value={name}
              onInput={setName}
              error={errorOf('name')}
              required
              autoFocus
            />
            <div class="form-row">
              {before === undefined && (
                <SelectField
                  label="Project"
                  value={chosenProject ?? ''}
                  onChange={setProject}
                  error={errorOf('project_id')}
                  choices={projects.map(({ id, name: label }) => ({ value: id, label }))}
                />
              )}
              <SelectField
                label="Ends"
                value={ends}
                onChange={setEnds}
                error={errorOf('expires_at')}
                choices={[...(before === undefined ? [] : [{ value: 'keep' as const, label: 'As it is' }]), ...SPANS]}
              />
            </div>
            {(people.data !== undefined || teams.data !== undefined) && (
              <div class="form-row">
                {people.data !== undefined && (
                  <SelectField
                    label="Belongs to"
                    value={user}
                    onChange={setUser}
                    error={errorOf('user_id')}
                    choices={[
                      { value: '', label: 'The project' },
                      ...people.data.data.map((one) => ({ value: one.id, label: one.email ?? one.slug ?? one.name })),
                    ]}
                  />
                )}
                {teams.data !== undefined && teams.data.data.length > 0 && (
                  <SelectField
                    label="Counts for team"
                    value={team}
                    onChange={setTeam}
                    error={errorOf('team_id')}
                    choices={[
                      { value: '', label: 'None' },
                      ...teams.data.data.map((one) => ({ value: one.id, label: one.name })),
                    ]}
                  />
                )}
              </div>
            )}
            <TextField
              label="Models"
              hint="Names with commas between; empty: all."
              value={models.replaceAll('\n', ', ')}
              onInput={setModels}
              error={errorOf('models')}
              placeholder="All models"
            />
            <fieldset class="field checks">
              <legend class="field-label">May call</legend>
              <div class="check-grid">
                {ROUTES.map(({ value, label }) => (
                  <Checkbox
                    key={value}
                    label={label}
                    checked={routes.includes(value)}
                    onChange={(isOn) => setRoutes(isOn ? [...routes, value] : routes.filter((one) => one !== value))}
                  />
                ))}
              </div>
              {errorOf('routes') !== undefined && <div class="field-error">{errorOf('routes')}</div>}
            </fieldset>
            <TextField
              label="From addresses"
              hint="IP addresses or networks with commas between, such as 10.0.0.0/8; empty: any."
              value={addresses.replaceAll('\n', ', ')}
              onInput={setAddresses}
              error={errorOf('addresses')}
              placeholder="Any address"
            />
          </>
        )}
      </Form>
    </Dialog>
  )
}
