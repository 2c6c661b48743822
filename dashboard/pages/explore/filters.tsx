// Which usage is counted at all. Owns the chips of what is filtered, and the way to another one: a dimension, then one of the
// values that occur in the range.
import { useState } from 'preact/hooks'
import { api } from '../../app/api.ts'
import { useLoad } from '../../app/load.ts'
import { useProject } from '../../app/scope.ts'
import { orgId } from '../../app/session.ts'
import { OTHER } from '../../app/stack.ts'
import { optionalText, type Values } from '../../app/url-state.ts'
import { DIMENSIONS, labelOf, nameOf } from '../../app/usage.ts'
import { useUrlState } from '../../app/use-url.ts'
import type { Dimension, Names, Usage } from '../../app/wire.ts'
import { Dialog } from '../../parts/dialog.tsx'
import { SelectField } from '../../parts/field.tsx'
import { Icon } from '../../parts/icon.tsx'
import { Empty, Show, Skeleton } from '../../parts/states.tsx'

/** By the names that the API and the log of requests have for them. */
export const FILTER_SCHEMA = {
  model: optionalText,
  key: optionalText,
  project: optionalText,
  provider: optionalText,
  model_served: optionalText,
  user: optionalText,
  team: optionalText,
  end_user: optionalText,
  backend: optionalText,
  status: optionalText,
  status_class: optionalText,
  tag: optionalText,
}
type Filters = Values<typeof FILTER_SCHEMA>
type FilterName = keyof typeof FILTER_SCHEMA

const NAMES = Object.keys(FILTER_SCHEMA).filter((name): name is FilterName => Object.hasOwn(FILTER_SCHEMA, name))
const DIMENSION_NAMES = Object.keys(DIMENSIONS).filter((name): name is Dimension => Object.hasOwn(DIMENSIONS, name))
/** Values to choose from: a list that one still finds something in. */
const VALUES_SHOWN = 200

export const filterQuery = (filters: Filters): Record<string, string | undefined> =>
  Object.fromEntries(NAMES.map((name) => [name, filters[name]]))

export const activeFilters = (filters: Filters): Record<string, string> =>
  Object.fromEntries(NAMES.flatMap((name) => (filters[name] === undefined ? [] : [[name, filters[name]]])))

const isDimension = (name: FilterName): name is Dimension & FilterName => Object.hasOwn(DIMENSIONS, name)

function words(name: FilterName, value: string, names: Names | undefined): string {
  if (name === 'tag') return `Tag ${value.replace('=', ' is ')}`
  if (!isDimension(name)) return `Kind of status is ${value}`
  const { label, none } = DIMENSIONS[name]
  return value === 'none' ? none : `${label} is ${labelOf(value, name, names)}`
}

export function FilterBar({ names, range }: { names: Names | undefined; range: { from: string; to: string } }) {
  const [filters, set] = useUrlState(FILTER_SCHEMA)
  const [isAdding, setAdding] = useState(false)
  const active = Object.entries(activeFilters(filters)) as [FilterName, string][]
  return (
    <div class="chips">
      {active.map(([name, value]) => (
        <span key={name} class="chip">
          {words(name, value, names)}
          <button
            type="button"
            class="chip-remove"
            aria-label={`Remove the filter: ${words(name, value, names)}`}
            onClick={() => set({ [name]: undefined })}
          >
            <Icon name="close" size={12} />
          </button>
        </span>
      ))}
      <button type="button" class="button button-small button-quiet" onClick={() => setAdding(true)}>
        <Icon name="plus" />
        Filter
      </button>
      {active.length > 1 && (
        <button
          type="button"
          class="button button-small button-quiet"
          onClick={() => set(Object.fromEntries(NAMES.map((name) => [name, undefined])))}
        >
          Remove all
        </button>
      )}
      {isAdding && (
        <Add
          range={range}
          onClose={() => setAdding(false)}
          onAdd={(name, value) => {
            set({ [name]: value })
            setAdding(false)
          }}
        />
      )}
    </div>
  )
}

function Add({
  range,
  onClose,
  onAdd,
}: {
  range: { from: string; to: string }
  onClose: () => void
  onAdd: (name: Dimension, value: string) => void
}) {
  const [dimension, setDimension] = useState<Dimension>('key')
  const project = useProject()
  const query = { org: orgId.value, project, ...range, group_by: dimension, top: VALUES_SHOWN, latency: 'none' }
  const values = useLoad(JSON.stringify(query), (signal) => api.get<Usage>('/usage', query, signal))
  return (
    <Dialog title="Filter" onClose={onClose}>
      <SelectField
        label="By"
        value={dimension}
        onChange={setDimension}
        choices={DIMENSION_NAMES.map((value) => ({ value, label: DIMENSIONS[value].label }))}
      />
      <Show of={values} skeleton={<Skeleton rows={5} height={28} />}>
        {({ data, names }) => {
          const found = data.map((line) => nameOf(line, dimension, names)).filter(({ id }) => id !== OTHER)
          if (found.length === 0) return <Empty title="Nothing in this range" />
          return (
            <ul class="choices" aria-label={DIMENSIONS[dimension].plural}>
              {found.map(({ id, label }) => (
                <li key={id}>
                  <button type="button" class="choice" onClick={() => onAdd(dimension, id)}>
                    {label}
                  </button>
                </li>
              ))}
            </ul>
          )
        }}
      </Show>
    </Dialog>
  )
}
