// JSON schemas for vendors that take objects only when nothing may stand in them beside what they name. Owns saying so where a
// caller left it open: what fits the closed schema fits the open one, so the caller gets nothing it did not ask for. Pure.

/** Schemas nest as deep as people write them. */
const DEPTH_MAX = 64
/**
 * Keywords with one schema, a list of them, or schemas by name, under which a narrower schema is still a narrower whole: not
 * so under `not` and `oneOf`, and under `allOf` nothing might be left.
 */
const ONE = ['items']
const LISTS = ['anyOf', 'prefixItems']
const NAMED = ['properties', '$defs', 'definitions']

/**
 * The schema with each object closed that names its properties and does not say whether there may be others. Objects that
 * name none hold what they like: closed they would hold nothing, so they stay as they are.
 */
export function closedSchema(schema: unknown, depth = 0): unknown {
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema) || depth > DEPTH_MAX) return schema
  const inner = (value: unknown): unknown => closedSchema(value, depth + 1)
  const closed = Object.fromEntries(
    Object.entries(schema).map(([name, value]): [string, unknown] => {
      if (ONE.includes(name)) return [name, inner(value)]
      if (LISTS.includes(name) && Array.isArray(value)) return [name, value.map(inner)]
      if (NAMED.includes(name) && typeof value === 'object' && value !== null) {
        return [name, Object.fromEntries(Object.entries(value).map(([key, one]) => [key, inner(one)]))]
      }
      return [name, value]
    }),
  )
  const isOpen = 'properties' in schema && !('additionalProperties' in schema)
  return isOpen ? { ...closed, additionalProperties: false } : closed
}
