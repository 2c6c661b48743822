// The choice of a project above usage. Owns the select; which projects may be looked at together is app/scope.ts.
import { SCOPE_SCHEMA, useProject, useProjects } from '../app/scope.ts'
import { session } from '../app/session.ts'
import { useUrlState } from '../app/use-url.ts'
import { Select } from './field.tsx'

export function ProjectSelect() {
  const [, set] = useUrlState(SCOPE_SCHEMA)
  const projects = useProjects().data ?? []
  const isBound = session.value?.projects !== undefined
  const project = useProject()
  // One project is no choice.
  if (projects.length < 2 && project === undefined) return null
  return (
    <div class="tool-select">
      <Select
        aria-label="Project"
        value={project ?? ''}
        onChange={(value) => set({ project: value })}
        choices={[
          ...(isBound ? [] : [{ value: '', label: 'All projects' }]),
          ...projects.map(({ id, name }) => ({ value: id, label: name })),
        ]}
      />
    </div>
  )
}
