// What the schemas of several dialects are made of. Owns these few building blocks; each dialect's own fields are in its file.
import * as z from 'zod'
import { late } from '../late.ts'

/** Content parts of one message: a bound beside the body's own, so that validation stays linear in useful content. */
export const MAX_PARTS = 4096
/** Of a call, made by a provider or by this gateway; some put more than a counter into it. */
export const MAX_CALL_ID_CHARS = 256

export const utf8Bytes = (text: string): number => new TextEncoder().encode(text).length

/**
 * An array whose length is checked before its elements are: a validator that reports each of a million wrong elements
 * would need more memory than the body did.
 */
export const boundedArray = <T extends z.ZodType>(element: T, min: number, max: number) =>
  z
    .custom<unknown[]>(
      (value) => Array.isArray(value) && value.length >= min && value.length <= max,
      `Expected an array of ${min} to ${max} elements.`,
    )
    .pipe(z.array(element))

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** A JSON schema: an object whose rules are its compiler's or its vendor's to check. */
export const jsonSchema = late(() => z.custom<Record<string, unknown>>(isObject, 'Expected a JSON schema, an object.'))

export const toolName = late(() =>
  z.string().regex(/^[\w.-]{1,128}$/, 'A tool has a name of 1 to 128 letters, digits, dashes, dots and underscores.'),
)

/** Marks the end of a prefix that a provider may keep. */
export const cacheControl = late(() =>
  z.strictObject({ type: z.literal('ephemeral'), ttl: z.enum(['5m', '1h']).nullish() }),
)

/**
 * A union of objects told apart by `type`, whose refusal names a type that is not among them.
 * @param known What is supported, for the refusal.
 */
export const unsupportedType =
  (thing: string, known: string) =>
  (issue: { input?: unknown }): string => {
    const type = isObject(issue.input) ? issue.input.type : undefined
    return typeof type === 'string'
      ? `${thing} of type '${type.slice(0, 50)}' are not supported; ${known}.`
      : `${thing} are objects with a type; ${known}.`
  }
