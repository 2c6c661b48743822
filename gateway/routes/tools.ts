// What a request offers its model to call, and which of that it may or must call. Owns the checks that hold in every dialect;
// the fields are the dialects'. Pure.
import type { Tool, ToolChoice } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'

/** Of one tool's schema: it is shown to the model with each request, and real ones have a few thousand. */
const MAX_SCHEMA_BYTES = 256 * 1024
/** Texts that explain a tool at length have a few thousand characters. */
const MAX_DESCRIPTION_CHARS = 64 * 1024

const encoder = new TextEncoder()

export type ToolFault = { at: number; field: 'name' | 'description' | 'parameters'; message: string }

/** The first thing wrong with the tools themselves. */
export function toolFault(tools: readonly Tool[]): ToolFault | undefined {
  const names = new Set<string>()
  for (const [at, { name, description = '', parameters }] of tools.entries()) {
    if (names.has(name)) return { at, field: 'name', message: `There is another tool named '${name}'.` }
    names.add(name)
    if (description.length > MAX_DESCRIPTION_CHARS) {
      return { at, field: 'description', message: `A description has at most ${MAX_DESCRIPTION_CHARS} characters.` }
    }
    if (parameters === undefined) continue
    const bytes = encoder.encode(JSON.stringify(parameters)).byteLength
    if (bytes > MAX_SCHEMA_BYTES) {
      return {
        at,
        field: 'parameters',
        message: `The schema has ${bytes} bytes; at most ${MAX_SCHEMA_BYTES} are allowed.`,
      }
    }
  }
  return undefined
}

export type AskedChoice = ToolChoice | { mode: 'auto' | 'required'; among: string[] }

/**
 * Tools and choice of the internal form. A choice among some of the tools offers only those: a model cannot call what it is
 * not shown.
 * @returns where the choice names no tool of the request a sentence about it.
 */
export function offered(
  tools: Tool[],
  choice: AskedChoice | undefined,
): Result<{ tools?: Tool[]; toolChoice?: ToolChoice }, string> {
  if (tools.length === 0) {
    if (choice === undefined || choice.mode === 'auto' || choice.mode === 'none') return ok({})
    return err('A tool is asked for, and there are no tools.')
  }
  if (choice === undefined) return ok({ tools })
  const wanted = 'among' in choice ? choice.among : choice.mode === 'tool' ? [choice.name] : []
  const unknown = wanted.find((name) => !tools.some((tool) => tool.name === name))
  if (unknown !== undefined) return err(`There is no tool named '${unknown}'.`)
  if (!('among' in choice)) return ok({ tools, toolChoice: choice })
  const names = new Set(choice.among)
  return ok({ tools: tools.filter(({ name }) => names.has(name)), toolChoice: { mode: choice.mode } })
}
