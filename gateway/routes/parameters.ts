// Parameters the OpenAI dialect knows and this gateway does not act on. Owns which are refused and which are harmless.
// A parameter that would change the answer is refused by name: silently ignoring it would be a wrong answer.
import type { Failure } from '../../protocol/errors.ts'

/** Whether a value asks for nothing: unset, or the default that means "off". */
const isEmpty = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  value === false ||
  (Array.isArray(value) && value.length === 0) ||
  (typeof value === 'object' && Object.keys(value as object).length === 0)

const isOneOf =
  (...allowed: unknown[]) =>
  (value: unknown): boolean =>
    isEmpty(value) || allowed.includes(value)

const isAnything = (): boolean => true

/** By parameter: the values under which it asks for nothing. */
const SHARED: Record<string, (value: unknown) => boolean> = {
  metadata: isAnything,
  service_tier: isOneOf('auto', 'default', 'standard_only'),
  prompt_cache_key: isAnything,
  prompt_cache_retention: isAnything,
  safety_identifier: isAnything,
}

const CHAT: Record<string, (value: unknown) => boolean> = {
  ...SHARED,
  // Nothing is kept here, and what is asked for later is not found.
  store: isOneOf(true),
  functions: isEmpty,
  function_call: isOneOf('none', 'auto'),
  modalities: (value) => isEmpty(value) || (Array.isArray(value) && value.every((one) => one === 'text')),
  audio: isEmpty,
  prediction: isEmpty,
  web_search_options: (value) => value === undefined || value === null,
  moderation: isEmpty,
}

/** What took the place of a parameter. */
const INSTEAD: Record<string, string> = { functions: 'tools', function_call: 'tool_choice' }

const COMPLETION: Record<string, (value: unknown) => boolean> = {
  ...SHARED,
  suffix: isOneOf(''),
}

const RESPONSE: Record<string, (value: unknown) => boolean> = {
  prompt_cache_retention: isAnything,
  // Of tools that the vendor runs, and those are refused.
  max_tool_calls: isAnything,
  conversation: isEmpty,
  prompt: isEmpty,
  context_management: isEmpty,
  moderation: isEmpty,
  access_programs: isEmpty,
  image: isEmpty,
}

const TABLES = { chat: CHAT, completion: COMPLETION, embedding: SHARED, response: RESPONSE }

/**
 * The first parameter of the body that neither the schema nor the lists above cover, as the caller's fault.
 * @param known The schema's fields, which it handles itself.
 */
export function refuseUnsupported(
  route: keyof typeof TABLES,
  body: Record<string, unknown>,
  known: object,
): Failure | undefined {
  const table = TABLES[route]
  for (const [name, value] of Object.entries(body)) {
    if (Object.hasOwn(known, name)) continue
    const asksForNothing = Object.hasOwn(table, name) ? table[name] : undefined
    const shown = name.slice(0, 100)
    if (asksForNothing === undefined) {
      return { code: 'invalid_request', message: `Unrecognized request argument supplied: ${shown}`, param: shown }
    }
    if (!asksForNothing(value)) {
      const instead = INSTEAD[shown]
      const remedy = instead === undefined ? '' : ` Use '${instead}'.`
      const message = `Unsupported parameter: '${shown}' with this value.${remedy}`
      return { code: 'invalid_request', message, param: shown }
    }
  }
  return undefined
}
