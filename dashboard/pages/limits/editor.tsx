// The whole set of limits of one place, as a form. Owns choosing the place, the rows, and what the API is sent: it replaces the set, so
// rows that are not touched are sent as they came, on the version that was read. Where somebody else was faster, it shows what they
// changed, and asks whose set it shall be.
import { useEffect, useState } from 'preact/hooks'
import { ApiError, allPages, api } from '../../app/api.ts'
import { limitChanges, METER_WORDS, SCOPE_WORDS, subjectText, windowText } from '../../app/limit-words.ts'
import { useLoad } from '../../app/load.ts'
import { can, orgId } from '../../app/session.ts'
import type { ApiKey, Names, Project, Team, User } from '../../app/wire.ts'
import type { Limit, LimitMeter, LimitScope, Limits, LimitWindow } from '../../app/wire-admin.ts'
import { Dialog } from '../../parts/dialog.tsx'
import { Checkbox, Form, MoneyField, NumberField, SelectField, TextField } from '../../parts/field.tsx'
import { Icon } from '../../parts/icon.tsx'
import { Note, Show, Skeleton } from '../../parts/states.tsx'
import { toast } from '../../parts/toast.tsx'

export type Place = { scope: LimitScope; id: string }

const SEGMENT: Readonly<Record<Exclude<LimitScope, 'org'>, string>> = {
  project: 'projects',
  team: 'teams',
  user: 'users',
  key: 'keys',
  end_user: 'end-users',
}
const SCOPES = ['org', 'project', 'team', 'user', 'key', 'end_user'] as const
const METERS = ['money', 'requests', 'input_tokens', 'output_tokens', 'concurrency'] as const
const WINDOWS = ['minute', 'hour', 'day', 'month', 'lifetime'] as const
const NEW_ROW: Row = { key: '', meter: 'money', window: 'month', zone: 'UTC', max: '', model: '', hard: true }

type Row = {
  key: string
  meter: LimitMeter
  window: LimitWindow
  zone: string
  max: string
  model: string
  hard: boolean
}

const pathOf = ({ scope, id }: Place): string =>
  scope === 'org'
    ? `/organisations/${orgId.value}/limits`
    : `/organisations/${orgId.value}/${SEGMENT[scope]}/${encodeURIComponent(id)}/limits`

const rowOf = (limit: Limit): Row => ({
  key: limit.id,
  meter: limit.meter,
  window: limit.window ?? 'month',
  zone: limit.time_zone ?? 'UTC',
  max: limit.max_usd ?? String(limit.max ?? ''),
  model: limit.model ?? '',
  hard: limit.hard,
})

function limitOf({ meter, window, zone, max, model, hard }: Row) {
  const where = { hard, ...(model === '' ? {} : { model }) }
  if (meter === 'concurrency') return { meter, max: Number(max), ...where }
  const span = { window, time_zone: zone }
  return meter === 'money' ? { meter, ...span, max_usd: max, ...where } : { meter, ...span, max: Number(max), ...where }
}

export function LimitEditor({
  place,
  names,
  onPlace,
  onClose,
  onSaved,
}: {
  place: Place
  names: Names | undefined
  onPlace: (place: Place) => void
  onClose: () => void
  onSaved: () => void
}) {
  const isComplete = place.id !== ''
  const stored = useLoad(isComplete ? pathOf(place) : undefined, (signal) => api.get<Limits>(pathOf(place), {}, signal))
  return (
    <Dialog title="Limits" onClose={onClose} wide>
      <div class="stack">
        <PlaceFields place={place} onPlace={onPlace} names={names} />
        {isComplete && (
          <Show of={stored} skeleton={<Skeleton rows={3} height={40} />}>
            {(set) =>
              stored.isStale ? (
                <Skeleton rows={3} height={40} />
              ) : (
                <Rows key={pathOf(place)} place={place} opened={set} onClose={onClose} onSaved={onSaved} />
              )
            }
          </Show>
        )}
      </div>
    </Dialog>
  )
}

function PlaceFields({
  place,
  onPlace,
  names,
}: {
  place: Place
  onPlace: (place: Place) => void
  names: Names | undefined
}) {
  const org = orgId.value
  const { scope } = place
  const subjects = useLoad(`subjects ${org} ${scope}`, async (signal): Promise<{ id: string; label: string }[]> => {
    const base = `/organisations/${org}`
    const read = async <T,>(path: string, label: (one: T & { id: string }) => string) =>
      (await allPages<T & { id: string }>(`${base}/${path}`, {}, signal)).data.map((one) => ({
        id: one.id,
        label: label(one),
      }))
    switch (scope) {
      case 'key':
        return (await allPages<ApiKey>(`${base}/keys`, {}, signal)).data
          .filter(({ revoked_at: revoked }) => revoked === null)
          .map(({ id, name }) => ({ id, label: name }))
      case 'project':
        return read<Project>('projects', ({ name }) => name)
      case 'team':
        return can('people.read') ? read<Team>('teams', ({ name }) => name) : []
      case 'user':
        return can('people.read') ? read<User>('users', ({ email, slug, name }) => email ?? slug ?? name) : []
      default:
        return []
    }
  })
  const known = subjects.data ?? []
  const isListed = place.id === '' || place.id === '*' || known.some(({ id }) => id === place.id)
  return (
    <div class="form-row">
      <SelectField
        label="Of"
        value={scope}
        onChange={(next) => onPlace({ scope: next, id: next === 'org' ? (org ?? '') : '' })}
        choices={SCOPES.map((value) => ({
          value,
          label: value === 'org' ? 'The organisation' : `One ${SCOPE_WORDS[value]}, or each`,
        }))}
      />
      {scope === 'end_user' && (
        <TextField
          label="Its name"
          hint="As your application names it; * for each."
          value={place.id}
          onInput={(id) => onPlace({ scope, id })}
        />
      )}
      {scope !== 'org' && scope !== 'end_user' && (
        <SelectField
          label="Which"
          value={place.id}
          onChange={(id) => onPlace({ scope, id })}
          choices={[
            { value: '', label: 'Choose…', disabled: true },
            { value: '*', label: `Each ${SCOPE_WORDS[scope]}, for itself` },
            ...(isListed ? [] : [{ value: place.id, label: subjectText(scope, place.id, names) }]),
            ...known.map(({ id, label }) => ({ value: id, label })),
          ]}
        />
      )}
    </div>
  )
}

function Rows({
  place,
  opened,
  onClose,
  onSaved,
}: {
  place: Place
  opened: Limits
  onClose: () => void
  onSaved: () => void
}) {
  /** What the rows began with, and by now what is known to stand, where somebody else changed it. */
  const [known, setKnown] = useState<{ base: Limits; theirs?: Limits }>({ base: opened })
  const [rows, setRows] = useState<readonly Row[]>(() => opened.limits.map(rowOf))
  const [made, setMade] = useState(0)
  const add = () => {
    setRows((before) => [...before, { ...NEW_ROW, key: `new ${made}` }])
    setMade(made + 1)
  }
  // An empty form asks for its first line by itself.
  useEffect(() => {
    if (opened.limits.length === 0) add()
  }, [])
  const change = (key: string, some: Partial<Row>) =>
    setRows((before) => before.map((row) => (row.key === key ? { ...row, ...some } : row)))
  const submit = async () => {
    const { version } = known.theirs ?? known.base
    try {
      await api.put<Limits>(pathOf(place), { limits: rows.map(limitOf), expected_version: version })
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 409)) throw error
      const theirs = await api.get<Limits>(pathOf(place))
      return setKnown({ base: known.base, theirs })
    }
    toast('Limits are in force')
    onSaved()
  }
  const takeTheirs = (theirs: Limits) => {
    setKnown({ base: theirs })
    setRows(theirs.limits.map(rowOf))
  }
  const isWhole = rows.every(({ max, meter }) => (meter === 'money' ? /^\d+(\.\d{1,9})?$/ : /^\d{1,13}$/).test(max))
  return (
    <Form
      onSubmit={submit}
      action={known.theirs !== undefined ? 'Replace theirs' : rows.length === 0 ? 'Lift all limits' : 'Save'}
      danger={known.theirs !== undefined}
      onCancel={onClose}
      disabled={!isWhole}
    >
      {(errorOf) => (
        <>
          {known.theirs !== undefined && <Meanwhile base={known.base} theirs={known.theirs} onTake={takeTheirs} />}
          {rows.map((row, index) => (
            <fieldset key={row.key} class="limit-row">
              <legend class="visually-hidden">Limit {index + 1}</legend>
              <SelectField
                label="What"
                value={row.meter}
                onChange={(meter) => change(row.key, { meter })}
                choices={METERS.map((value) => ({ value, label: METER_WORDS[value] }))}
              />
              {row.meter === 'money' ? (
                <MoneyField
                  label="At most"
                  value={row.max}
                  onInput={(max) => change(row.key, { max })}
                  error={errorOf(`limits.${index}`)}
                />
              ) : (
                <NumberField
                  label="At most"
                  value={row.max}
                  onInput={(max) => change(row.key, { max })}
                  error={errorOf(`limits.${index}`)}
                />
              )}
              {row.meter !== 'concurrency' && (
                <SelectField
                  label="Per"
                  value={row.window}
                  onChange={(window) => change(row.key, { window })}
                  choices={WINDOWS.map((value) => ({ value, label: windowText(value) }))}
                />
              )}
              {row.meter !== 'concurrency' && (
                <TextField
                  label="Time zone"
                  value={row.zone}
                  onInput={(zone) => change(row.key, { zone })}
                  list={ZONES}
                />
              )}
              <TextField
                label="Model"
                value={row.model}
                placeholder="All"
                onInput={(model) => change(row.key, { model })}
              />
              <div class="limit-row-end">
                <Checkbox label="Refuses" checked={row.hard} onChange={(hard) => change(row.key, { hard })} />
                <button
                  type="button"
                  class="icon-button"
                  aria-label={`Remove limit ${index + 1}`}
                  onClick={() => setRows((before) => before.filter(({ key }) => key !== row.key))}
                >
                  <Icon name="close" />
                </button>
              </div>
            </fieldset>
          ))}
          <div>
            <button type="button" class="button button-small" onClick={add}>
              <Icon name="plus" />
              Add a limit
            </button>
          </div>
        </>
      )}
    </Form>
  )
}

/** Read out when it comes: it is the answer to the click on Save. */
function Meanwhile({ base, theirs, onTake }: { base: Limits; theirs: Limits; onTake: (theirs: Limits) => void }) {
  const { gone, come } = limitChanges(base.limits, theirs.limits)
  return (
    <div role="alert">
      <Note kind="warning">
        <p>Somebody changed these limits since you opened them; nothing of yours is saved yet.</p>
        <ul class="limit-changes">
          {gone.map((text) => (
            <li key={text}>
              Removed: <del>{text}</del>
            </li>
          ))}
          {come.map((text) => (
            <li key={text}>
              Added: <ins>{text}</ins>
            </li>
          ))}
        </ul>
        <button type="button" class="button button-small" onClick={() => onTake(theirs)}>
          Start again from theirs
        </button>
      </Note>
    </div>
  )
}

/** Suggestions; any IANA name is taken. */
const ZONES: readonly string[] = ['UTC', ...Intl.supportedValuesOf('timeZone')]
