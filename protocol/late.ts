// Schemas that are made when they are first used. Owns that a schema costs nothing until then, and nothing more from then on.
import type * as z from 'zod'

/**
 * A schema that `make` makes at the first look at it. One takes microseconds to make and there are thousands, most of which an
 * isolate never uses: made where they stand, they would be a quarter of each cold start. What was made knows itself by another name:
 * `z.toJSONSchema` describes it where it is an object or a plain type, and throws where it is a wrapper (optional, default, pipe, lazy).
 */
export function late<Schema extends z.ZodType>(make: () => Schema): Schema {
  const become = () => {
    const made = make()
    // From here on it is what was made: own fields, and the class's behind them.
    Object.defineProperties(schema, Object.getOwnPropertyDescriptors(made))
    Object.setPrototypeOf(schema, Object.getPrototypeOf(made))
    return made
  }
  const untilUsed = new Proxy(
    {},
    {
      get: (_, name) => Reflect.get(become(), name, schema),
      has: (_, name) => Reflect.has(become(), name),
    },
  )
  const schema: object = Object.create(untilUsed)
  return schema as Schema
}
