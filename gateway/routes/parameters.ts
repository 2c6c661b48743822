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
  store: isEmpty,
  parallel_tool_calls: isAnything,
  tools: isEmpty,
  tool_choice: isOneOf('none', 'auto'),
  functions: isEmpty,
  function_call: isOneOf('none', 'auto'),
  modalities: (value) => isEmpty(value) || (Array.isArray(value) && value.every((one) => one === 'text')),
  audio: isEmpty,
  prediction: isEmpty,
  web_search_options: (value) => value === undefined || value === null,
  reasoning_effort: isOneOf('none'),
  verbosity: isOneOf('medium'),
  moderation: isEmpty,
}

const COMPLETION: Record<string, (value: unknown) => boolean> = {
  ...SHARED,
  suffix: isOneOf(''),
}

const TABLES = { chat: CHAT, completion: COMPLETION, embedding: SHARED }

/**
 * The first parameter of the body that neither the schema nor the lists above cover, as the caller's fault.
 * @param known Names the schema handles itself.
 */
export function refuseUnsupported(
  route: 'chat' | 'completion' | 'embedding',
  body: Record<string, unknown>,
  known: ReadonlySet<string>,
): Failure | undefined {
  const table = TABLES[route]
  for (const [name, value] of Object.entries(body)) {
    if (known.has(name)) continue
    const asksForNothing = Object.hasOwn(table, name) ? table[name] : undefined
    const shown = name.slice(0, 100)
    if (asksForNothing === undefined) {
      return { code: 'invalid_request', message: `Unrecognized request argument supplied: ${shown}`, param: shown }
    }
    if (!asksForNothing(value)) {
      return { code: 'invalid_request', message: `Unsupported parameter: '${shown}' with this value.`, param: shown }
    }
  }
  return undefined
}
