// What an act changed, field by field. Owns reading an audit row's details: `before` and `after` where both are there, else what was set.
// ○ Pure.

export type FieldChange = { path: string; before: string | undefined; after: string | undefined }

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Fields that are the same on both sides are left out. */
export function changesOf(details: Record<string, unknown>): FieldChange[] {
  const { before, after, ...rest } = details
  const both = isRecord(before) || isRecord(after)
  const set = both ? rest : details
  return [
    ...(both ? differences(flat(before), flat(after)) : []),
    ...[...flat(set)].map(([path, value]) => ({ path, before: undefined, after: value })),
  ]
}

function differences(before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): FieldChange[] {
  const paths = [...new Set([...before.keys(), ...after.keys()])]
  return paths
    .map((path) => ({ path, before: before.get(path), after: after.get(path) }))
    .filter((one) => one.before !== one.after)
}

/** `limits[0].max` → its value as text. Nothing is cut: an audit that hides is none. */
function flat(value: unknown, path = ''): Map<string, string> {
  if (value === undefined) return new Map()
  if (isRecord(value) && Object.keys(value).length > 0)
    return join(Object.entries(value).map(([name, one]) => flat(one, path === '' ? name : `${path}.${name}`)))
  if (Array.isArray(value) && value.some((one) => typeof one === 'object'))
    return join(value.map((one, index) => flat(one, `${path}[${index}]`)))
  return new Map([[path, typeof value === 'string' ? value : JSON.stringify(value)]])
}

const join = (maps: readonly Map<string, string>[]): Map<string, string> => new Map(maps.flatMap((map) => [...map]))
