// What is wrong with a body, in words a caller can act on. Owns which of a schema's issues is reported and how a field's path
// is written; the schemas are protocol/dialects. Pure.
import type * as z from 'zod'
import { isObject } from '../../protocol/dialects/schema.ts'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'

/** Of a caller's own word in an answer. */
const NAME_CHARS_MAX = 100

export const invalid = (message: string, param?: string): Failure => ({
  code: 'invalid_request',
  message,
  ...(param === undefined ? {} : { param }),
})

/** `['messages', 0, 'content']` as `messages[0].content`. */
export function fieldPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`
    return text === '' ? String(part) : `${text}.${String(part)}`
  }, '')
}

type Issue = z.core.$ZodIssue

/** The issue to report: what is wrong, and where. */
type Fault = { path: PropertyKey[]; message: string; isMissing: boolean; isUnknown: boolean }

/**
 * Inside a union each arm fails in its own way: the arm that got below the top was the one meant, and where none did the
 * union's own message says all that is allowed.
 */
export function faultOf(error: z.ZodError): Fault | undefined {
  const first = error.issues[0]
  if (first === undefined) return undefined
  const fault = deepest(first)
  return {
    ...fault,
    path: fault.path.map((part) => (typeof part === 'number' ? part : String(part).slice(0, NAME_CHARS_MAX))),
  }
}

function deepest(issue: Issue, prefix: readonly PropertyKey[] = []): Fault {
  const path = [...prefix, ...issue.path]
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0] ?? ''
    return { path: [...path, key], message: 'is not a known field', isMissing: false, isUnknown: true }
  }
  if (issue.code === 'invalid_union') {
    for (const arm of issue.errors) {
      const first = arm[0]
      if (first !== undefined && (first.path.length > 0 || first.code === 'unrecognized_keys')) {
        return deepest(first, path)
      }
    }
  }
  const isMissing = issue.code === 'invalid_type' && issue.message.endsWith('received undefined')
  return { path, message: issue.message, isMissing, isUnknown: false }
}

/** As OpenAI's dialect tells it. */
export function schemaFailure(error: z.ZodError): Failure {
  const fault = faultOf(error)
  if (fault === undefined) return invalid('The request body is not valid.')
  const param = fieldPath(fault.path)
  return param === '' ? invalid(fault.message) : invalid(`Invalid value for '${param}': ${fault.message}`, param)
}

export const asObject = (body: unknown): Result<Record<string, unknown>, Failure> =>
  isObject(body) ? ok(body) : err(invalid('The request body must be a JSON object.'))
