// A forced tool call as a grammar ○. Owns the schema that only a call of an offered tool matches, and what the prompt ends with
// so that the answer begins inside one. How calls are written is answer-format.ts.
import type { DispatchRequest } from '../protocol/dispatch.ts'
import { CALL_OPEN, LIST_MARK, THOUGHT_CLOSE, THOUGHT_OPEN, type ToolFormat } from './answer-format.ts'

type Tool = NonNullable<DispatchRequest['tools']>[number]
type Json = Record<string, unknown>

/** Arguments of a tool without parameters. */
const NOTHING: Json = { type: 'object', properties: {}, additionalProperties: false }

/**
 * JSON schema of the text behind the opening mark. Lists may hold several calls; the other forms are held to one, which is what
 * "some tool must be called" asks for.
 * @param isOneCall Lists too hold one.
 */
export function callSchema(format: ToolFormat, tools: readonly Tool[], isOneCall: boolean): string {
  const isList = format === 'listed'
  const base = isList ? '#/items/anyOf/' : '#/anyOf/'
  const key = format === 'bare' ? 'parameters' : 'arguments'
  const anyOf = tools.map(({ name, parameters }, index) => ({
    type: 'object',
    properties: {
      name: { const: name },
      [key]: parameters === undefined ? NOTHING : rebased(parameters, `${base}${index}/properties/${key}`),
    },
    required: ['name', key],
    additionalProperties: false,
  }))
  const schema = isList
    ? { type: 'array', items: { anyOf }, minItems: 1, ...(isOneCall ? { maxItems: 1 } : {}) }
    : { anyOf }
  return JSON.stringify(schema)
}

/** References from the root of a tool's schema stay within it where it becomes part of another. */
function rebased(schema: Json, base: string): Json {
  const walk = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(walk)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(
      Object.entries(value).map(([key, inner]) => [
        key,
        key === '$ref' && typeof inner === 'string' && inner.startsWith('#') ? base + inner.slice(1) : walk(inner),
      ]),
    )
  }
  const moved: Json = {}
  for (const [key, value] of Object.entries(schema)) moved[key] = walk(value)
  return moved
}

/** What a rendered prompt ends with, so that what follows is a call; a thought that the template began is closed. */
export function callOpening(format: ToolFormat, rendered: string): string {
  const close = isInThought(rendered) ? `\n${THOUGHT_CLOSE}\n\n` : ''
  switch (format) {
    case 'tagged':
      return `${close}${CALL_OPEN}\n`
    case 'listed':
      return `${close}${LIST_MARK}`
    case 'bare':
      return close
    default:
      return format satisfies never
  }
}

/** Whether a prompt leaves off inside a thought. */
export const isInThought = (rendered: string): boolean => rendered.trimEnd().endsWith(THOUGHT_OPEN)
