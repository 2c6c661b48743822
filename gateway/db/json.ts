// JSON kept in text columns and in objects' storage. Owns the only way back from such text to a typed value.
import type * as z from 'zod'

/**
 * Parses stored JSON against its schema.
 * @throws Error that names the place and quotes nothing of the text: a row that our own code wrote is broken.
 */
export function parseStored<T>(text: string, schema: z.ZodType<T>, where: string): T {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    throw new Error(`stored JSON in ${where} cannot be read`)
  }
  const parsed = schema.safeParse(json)
  if (!parsed.success) throw new Error(`stored JSON in ${where} has another shape`)
  return parsed.data
}
