// Names of tools for targets that allow fewer characters than callers use. Owns the translation there and
// back: what a caller reads is always what it wrote. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { Tool } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import { refuse } from './refusal.ts'

/** The name with letters, digits, `_` and `-` alone. */
export const plainToolName = (name: string): string => name.replace(/[^A-Za-z0-9_-]/g, '_')

/** Refuses names that the target cannot tell apart, or that are too long for it. */
export function checkedToolNames(tools: readonly Tool[], charsMax: number): Result<undefined, Failure> {
  const seen = new Map<string, string>()
  for (const { name } of tools) {
    if (name.length > charsMax) {
      return refuse('tools', `This model takes names of tools with at most ${charsMax} characters: shorten '${name}'.`)
    }
    const plain = plainToolName(name)
    const other = seen.get(plain)
    if (other !== undefined) {
      return refuse('tools', `To this model the tools '${other}' and '${name}' have one name: rename one of them.`)
    }
    seen.set(plain, name)
  }
  return ok(undefined)
}

/** From the target's names back to the caller's; a name that nobody offered stays as it is. */
export class CallerToolNames {
  readonly #names = new Map<string, string>()

  constructor(tools: readonly Tool[] = []) {
    for (const { name } of tools) this.#names.set(plainToolName(name), name)
  }

  of(name: string): string {
    return this.#names.get(name) ?? name
  }

  has(name: string): boolean {
    return this.#names.has(name)
  }
}

/**
 * Arguments as an object. What a model wrote otherwise is shown to it as it was, under the name that the vendor's own
 * guide gives to it.
 */
export function argumentsObject(text: string): Record<string, unknown> {
  if (text.trim() === '') return {}
  try {
    const json: unknown = JSON.parse(text)
    if (typeof json === 'object' && json !== null && !Array.isArray(json)) return { ...json }
  } catch {
    // Not JSON: below.
  }
  return { INVALID_JSON: text }
}

/** A schema that is surely one of an object; no parameters are an empty object. */
export const objectSchema = (parameters: Tool['parameters']): Record<string, unknown> =>
  parameters === undefined ? { type: 'object', properties: {} } : { type: 'object', ...parameters }
