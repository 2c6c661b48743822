// What administrators send. Owns reading bodies and paths strictly, with the path of the offending field; schemas stand
// beside the routes that use them. No message quotes a value: it may be a secret in the wrong field.
import * as z from 'zod'
import { parseUsd } from '../../protocol/units.ts'
import { parseJson, readBody } from '../routes/body.ts'
import { type AdminContext, invalid, notFound, Refusal } from './context.ts'

/** A model with all its targets is 4 KB. */
const BODY_BYTES_MAX = 64 * 1024

/** The body, of at most `bytesMax` bytes, as the schema's type. @throws Refusal */
export async function readInput<T>(c: AdminContext, schema: z.ZodType<T>, bytesMax = BODY_BYTES_MAX): Promise<T> {
  const body = await readBody(c.req.raw, bytesMax)
  if (!body.ok) throw new Refusal(body.error)
  const json = parseJson(body.value)
  if (!json.ok) throw new Refusal(json.error)
  const parsed = schema.safeParse(json.value)
  if (parsed.success) return parsed.data
  throw refusalOf(parsed.error)
}

/** Query parameters as the schema's type; a parameter given twice counts once. @throws Refusal */
export function readQuery<T>(c: AdminContext, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(c.req.query())
  if (parsed.success) return parsed.data
  throw refusalOf(parsed.error)
}

/** A uuid out of the path, in lower case. @param what for the 404: anything else can name no such object. */
export function idParam(c: AdminContext, name: string, what: string): string {
  const parsed = z.uuid().safeParse(c.req.param(name))
  if (!parsed.success) throw notFound(what)
  return parsed.data.toLowerCase()
}

function refusalOf(error: z.ZodError): Refusal {
  const issue = error.issues[0]
  if (issue === undefined) return invalid('body', 'is not valid')
  const path: PropertyKey[] = [...issue.path]
  if (issue.code === 'unrecognized_keys') {
    path.push(issue.keys[0] ?? '')
    return invalid(fieldPath(path), 'is not a known field')
  }
  // What is wrong with a name of a record is told one level down.
  const message = (issue.code === 'invalid_key' ? issue.issues[0]?.message : undefined) ?? issue.message
  return path.length === 0
    ? new Refusal({ code: 'invalid_request', message: `The body is not valid: ${message}` })
    : invalid(fieldPath(path), message)
}

/** `limits[0].max_usd`. Names come from the caller: cut to a bound. */
export function fieldPath(path: readonly PropertyKey[]): string {
  return path
    .map((step, index) => (typeof step === 'number' ? `[${step}]` : index === 0 ? String(step) : `.${String(step)}`))
    .join('')
    .slice(0, 200)
}

/** Unique names that stand in addresses and scripts. */
export const Slug = z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'must be 1-63 lower-case letters, digits and hyphens')

/** Names for people: no control characters, which could forge lines in a terminal or a log. */
export const DisplayName = z
  .string()
  .min(1)
  .max(200)
  .regex(/^[^\p{Cc}]*$/u, 'must not hold control characters')

/** What is made under a unique slug: an organisation, a project, a team. */
export const NewNamed = z.strictObject({
  /** Default: a new uuid. */
  id: z.uuid().toLowerCase().optional(),
  slug: Slug,
  /** Default: the slug. */
  name: DisplayName.optional(),
})

/** An ISO 8601 instant with a zone, as UTC with milliseconds. */
export const Instant = z.iso
  .datetime({ offset: true, message: 'must be an ISO 8601 instant with a zone, such as 2026-11-22T08:00:00Z' })
  .refine((text) => !Number.isNaN(Date.parse(text)), 'is not a date')
  .transform((text) => new Date(text).toISOString())

/** A decimal dollar string as nano-dollars, from 0 to `maxNanoUsd`. Strings, because JSON numbers are binary. */
export function Usd(maxNanoUsd: bigint) {
  return z.string('must be a decimal string such as "0.0125"').transform((text, context) => {
    const amount = parseUsd(text)
    if (amount !== undefined && amount >= 0n && amount <= maxNanoUsd) return amount
    const message = 'must be a decimal dollar amount with at most 9 decimals, not negative and not beyond the bound'
    context.issues.push({ code: 'custom', message, input: undefined })
    return z.NEVER
  })
}
