// Tool calls in a model's own words → calls ○. Owns what counts as one; where they stand in an answer is answer-parts.ts.
import { LIST_ARGUMENTS, LIST_ID } from './answer-format.ts'

/** `arguments` is JSON text of an object. */
export type WrittenCall = { name: string; arguments: string; id?: string }

/** Ids that a template takes back as they are. */
const OWN_ID = /^[A-Za-z0-9]{9}$/

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** One call as an object, the arguments under either of their names; undefined where it is none. */
function callOf(value: unknown): WrittenCall | undefined {
  if (!isObject(value)) return undefined
  const inner = isObject(value.function) ? value.function : value
  const given = inner.arguments ?? inner.parameters ?? {}
  const { name } = inner
  if (typeof name !== 'string' || name === '') return undefined
  // Some write the arguments as text, which must be JSON in turn.
  const args = typeof given === 'string' ? parsed(given) : given
  if (!isObject(args)) return undefined
  const id = typeof value.id === 'string' && OWN_ID.test(value.id) ? { id: value.id } : {}
  return { name, arguments: JSON.stringify(args), ...id }
}

export const callOfText = (text: string): WrittenCall | undefined => callOf(parsed(text))

/**
 * Where the JSON behind the mark of a list begins: a list of calls, or in the newer form the arguments of the one that is
 * named before them. Undefined where neither stands there, or not yet.
 */
export function listedStart(text: string): number | undefined {
  const start = text.length - text.trimStart().length
  return text[start] === '[' && !text.startsWith(LIST_ARGUMENTS, start) ? start : NAMED_HEAD.exec(text)?.[0].length
}

const escaped = (mark: string): string => mark.replaceAll(/[[\]]/g, '\\$&')
const NAMED_HEAD = new RegExp(
  `^\\s*([\\w.-]{1,128})\\s*(?:${escaped(LIST_ID)}\\s*(\\w+)\\s*)?(?:${escaped(LIST_ARGUMENTS)})?\\s*(?=\\{)`,
)

/** The calls of a whole text behind the mark; undefined where one of them is none. */
export function listedCalls(text: string): WrittenCall[] | undefined {
  const list = parsed(text)
  if (Array.isArray(list)) {
    const calls = list.map(callOf).filter((call) => call !== undefined)
    return calls.length > 0 && calls.length === list.length ? calls : undefined
  }
  const head = NAMED_HEAD.exec(text)
  if (head === null) return undefined
  const [all, name, id] = head
  const args = parsed(text.slice(all.length))
  const call = args === undefined ? undefined : callOf({ name, arguments: args, id })
  return call === undefined ? undefined : [call]
}

/** Finds the end of an object or array in a text that grows, looking at each character once. */
export class JsonSpan {
  #at: number
  #depth = 0
  #inString = false

  /** @param from Where it begins, a brace or a bracket. */
  constructor(from: number) {
    this.#at = from
  }

  /** @returns Place behind its end; undefined where it is not whole yet. */
  end(text: string): number | undefined {
    for (; this.#at < text.length; this.#at++) {
      const character = text[this.#at]
      if (this.#inString) {
        if (character === '\\') {
          // The escaped character may still be to come.
          if (this.#at + 1 >= text.length) return undefined
          this.#at++
        } else if (character === '"') this.#inString = false
      } else if (character === '"') this.#inString = true
      else if (character === '{' || character === '[') this.#depth++
      else if (character === '}' || character === ']') {
        this.#depth--
        if (this.#depth <= 0) return this.#at + 1
      }
    }
    return undefined
  }
}
