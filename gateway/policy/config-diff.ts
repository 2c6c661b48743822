// How two catalogs differ. Owns the form of the differences, which is the plan that people read before they apply a document:
// field by field, with what stood and what shall stand. Secrets are no part of a catalog, and so of no difference. Pure.
import { type NormalConfig, namesOf } from './config-document.ts'

export type FieldChange = {
  /** From the object on: `targets[0].weight`. Names on it hold neither dots nor brackets. */
  path: string
  /** What stood there, as JSON; absent: nothing. */
  before?: unknown
  /** What shall stand there, as JSON; absent: nothing. */
  after?: unknown
}
export type ObjectChange = {
  object: 'provider' | 'model'
  name: string
  action: 'add' | 'change' | 'remove'
  fields: FieldChange[]
}

/** What turns `before` into `after`: providers first, each by name. What appears or goes as a whole is one change. */
export function diffConfig(before: NormalConfig, after: NormalConfig): ObjectChange[] {
  return [
    ...diffObjects('provider', before.providers, after.providers),
    ...diffObjects('model', before.models, after.models),
  ]
}

type Entries = Readonly<Record<string, unknown>>

function diffObjects(object: ObjectChange['object'], before: Entries, after: Entries): ObjectChange[] {
  return namesOf({ ...before, ...after }).flatMap((name): ObjectChange[] => {
    const action = !Object.hasOwn(before, name) ? 'add' : Object.hasOwn(after, name) ? 'change' : 'remove'
    const fields = diffEntries('', entriesOf(own(before, name)), entriesOf(own(after, name)))
    return action === 'change' && fields.length === 0 ? [] : [{ object, name, action, fields }]
  })
}

/** A key may be called `constructor`: what an object inherits is no part of it. */
const own = (entries: Entries, name: string): unknown => (Object.hasOwn(entries, name) ? entries[name] : undefined)

const entriesOf = (value: unknown): Entries => (isEntries(value) ? value : {})

function diffEntries(prefix: string, before: Entries, after: Entries): FieldChange[] {
  return namesOf({ ...before, ...after }).flatMap((name) =>
    diffValues(prefix === '' ? name : `${prefix}.${name}`, own(before, name), own(after, name)),
  )
}

function diffValues(path: string, before: unknown, after: unknown): FieldChange[] {
  if (Object.is(before, after)) return []
  if (before === undefined) return [{ path, after }]
  if (after === undefined) return [{ path, before }]
  if (Array.isArray(before) && Array.isArray(after)) {
    const length = Math.max(before.length, after.length)
    return Array.from({ length }, (_, index) => index).flatMap((index) =>
      diffValues(`${path}[${index}]`, before[index], after[index]),
    )
  }
  if (isEntries(before) && isEntries(after)) return diffEntries(path, before, after)
  return [{ path, before, after }]
}

const isEntries = (value: unknown): value is Entries =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
