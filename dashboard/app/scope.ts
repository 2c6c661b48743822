// Which project's usage is shown. Owns the rule that whoever is bound to some projects looks at one of them at a time, since
// the API sums for them one by one; all others may look at all together.
import { allPages } from './api.ts'
import { type Loaded, useLoad } from './load.ts'
import { can, orgId, session } from './session.ts'
import { optionalText } from './url-state.ts'
import { useUrlState } from './use-url.ts'
import type { Project } from './wire.ts'

export const SCOPE_SCHEMA = { project: optionalText }

/** The project of the address, or for whoever has to name one the first of theirs. */
export function useProject(): string | undefined {
  const [{ project }] = useUrlState(SCOPE_SCHEMA)
  const bound = session.value?.projects
  if (bound === undefined) return project
  return project !== undefined && bound.includes(project) ? project : bound[0]
}

/** Projects that the user can see, by name. */
export function useProjects(): Loaded<Project[]> {
  const org = orgId.value
  return useLoad(can('projects.read') && org !== undefined ? `projects ${org}` : undefined, async (signal) => {
    const { data } = await allPages<Project>(`/organisations/${org}/projects`, {}, signal)
    return data.sort((a, b) => a.name.localeCompare(b.name))
  })
}
